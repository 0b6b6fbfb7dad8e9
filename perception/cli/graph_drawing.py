"""A graph as a picture: Mermaid text, or SVG in columns from sensors to planners."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from perception.runtime.graph import Graph, NodeSpec

WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 190, 46, 110, 30, 24
STYLE = """\
text { font: 12px sans-serif; fill: #1d2733; } .small { font-size: 10px; fill: #5b6b7b; }
.node { fill: #eef4fb; stroke: #3f6ea5; } .source { fill: #e8f6ec; stroke: #3b8a55; }
.out { fill: #fdf3e3; stroke: #b7791f; } path { fill: none; stroke: #8394a6; }"""


def mermaid(graph: Graph) -> str:
    """Return a Mermaid flowchart: processes as boxes, topics on the edges."""
    lines = ["flowchart LR"]
    for process, nodes in graph.processes().items():
        lines.append(f"  subgraph {_id('process', process)} [process {process}]")
        for node in nodes:
            open_, close = ("([", "])") if node.is_source else ("[", "]")
            lines.append(f'    {_id("node", node.name)}{open_}"{node.name}"{close}')
        lines.append("  end")
    for start, end, topics in _arrows(graph):
        lines.append(f'  {_id("node", start)} -- "{"<br/>".join(topics)}" --> {_id("node", end)}')
    publisher = _publishers(graph)
    for output in graph.outputs:
        target = _id("out", output.publish_as)
        lines.append(f'  {target}{{{{"{output.publish_as}"}}}}')
        lines.append(f"  {_id('node', publisher[output.topic].name)} ==> {target}")
    return "\n".join(lines)


def svg(graph: Graph) -> str:
    """Return an SVG picture; each node stands right of all that it reads."""
    place = _places(graph)
    right = max(x for x, _ in place.values()) + WIDTH + ACROSS
    outputs = {
        output.publish_as: (right, MARGIN + row * (HEIGHT + DOWN) // 2) for row, output in enumerate(graph.outputs)
    }
    bottom = max([y + HEIGHT for _, y in place.values()] + [y + HEIGHT // 2 for _, y in outputs.values()]) + MARGIN
    size = (right + WIDTH + MARGIN, bottom)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" '
        f'height="{size[1]}" role="img"><title>{escape(graph.name)}</title><style>{STYLE}</style>'
    ]
    for start, end, topics in _arrows(graph):
        parts.append(_curve(place[start], place[end], ", ".join(topics), HEIGHT))
    publisher = _publishers(graph)
    parts += [
        _curve(place[publisher[output.topic].name], outputs[output.publish_as], "", HEIGHT // 2)
        for output in graph.outputs
    ]
    for node in graph.nodes:
        kind = "source" if node.is_source else "node"
        parts.append(_box(place[node.name], HEIGHT, kind, node.name, f"process {node.process}"))
    for name, corner in outputs.items():
        parts.append(_box(corner, HEIGHT // 2, "out", name, ""))
    return "\n".join([*parts, "</svg>\n"])


def _places(graph: Graph) -> dict[str, tuple[int, int]]:
    publisher = _publishers(graph)
    column: dict[str, int] = {}

    def of(node: NodeSpec) -> int:
        if node.name not in column:
            before = {publisher[edge.topic].name: publisher[edge.topic] for edge in node.edges}
            column[node.name] = 1 + max((of(upstream) for upstream in before.values()), default=-1)
        return column[node.name]

    rows: dict[int, int] = {}
    place = {}
    for node in graph.nodes:
        at = of(node)
        place[node.name] = (MARGIN + at * (WIDTH + ACROSS), MARGIN + rows.get(at, 0) * (HEIGHT + DOWN))
        rows[at] = rows.get(at, 0) + 1
    return place


def _box(corner: tuple[int, int], height: int, kind: str, name: str, below: str) -> str:
    x, y = corner
    middle = y + height // 2 + (0 if below else 4)
    text = f'<text x="{x + 10}" y="{middle}">{escape(name)}</text>'
    small = f'<text class="small" x="{x + 10}" y="{middle + 14}">{escape(below)}</text>' if below else ""
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{WIDTH}" height="{height}" rx="6"/>{text}{small}'


def _curve(start: tuple[int, int], end: tuple[int, int], topics: str, end_height: int) -> str:
    x, y, to_x, to_y = start[0] + WIDTH, start[1] + HEIGHT // 2, end[0], end[1] + end_height // 2
    title = f"<title>{escape(topics)}</title>" if topics else ""
    return f'<path d="M{x},{y} C{x + 60},{y} {to_x - 60},{to_y} {to_x},{to_y}">{title}</path>'


def _arrows(graph: Graph) -> Iterator[tuple[str, str, list[str]]]:
    publisher = _publishers(graph)
    for node in graph.nodes:
        topics: dict[str, list[str]] = {}
        for edge in node.edges:
            topics.setdefault(publisher[edge.topic].name, []).append(edge.topic)
        for start, found in topics.items():
            yield start, node.name, list(dict.fromkeys(found))


def _publishers(graph: Graph) -> Mapping[str, NodeSpec]:
    return {topic: node for node in graph.nodes for topic in node.outputs.values()}


def _id(kind: str, name: str) -> str:
    return f"{kind}_{''.join(letter if letter.isalnum() else '_' for letter in name)}"


__all__ = ["mermaid", "svg"]
