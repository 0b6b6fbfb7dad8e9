"""`perception topics`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def topics(
    launch_file: Annotated[Path, typer.Argument(metavar="FILE", help="A path, or the name of a shipped launch file.")],
    replay: Annotated[Path | None, typer.Option(help="With the sensors of this log.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the topics of FILE: type, who publishes, who reads, name for planners: perception topics car.yaml."""
    from perception.cli.graph_of import graph_of

    graph = graph_of(launch_file, replay)
    published = {output.topic: output.publish_as for output in graph.outputs}
    publisher = {topic: node.name for node in graph.nodes for topic in node.outputs.values()}
    readers: dict[str, list[str]] = {}
    for node in graph.nodes:
        for edge in node.edges:
            readers.setdefault(edge.topic, []).append(node.name)
    rows = [
        {
            "topic": topic, "schema": kind.SCHEMA, "publisher": publisher.get(topic, ""),
            "readers": readers.get(topic, []), "published_as": published.get(topic, ""),
        }
        for topic, kind in graph.message_types.items()
    ]  # fmt: skip
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    width = max(len(topic) for topic in graph.message_types)
    for row in rows:
        said = f"{row['publisher']} -> {', '.join(row['readers']) or 'nobody'}"
        public = f"   for planners: {row['published_as']}" if row["published_as"] else ""
        print(f"{row['topic']:<{width}}  {row['schema']:<32} {said}{public}")
