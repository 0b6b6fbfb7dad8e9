"""Write an evaluation as one HTML file that needs nothing else: tables, curves, bars, confusion, worst frames."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from perception.evaluation.detection_nuscenes import SceneBoxes
from perception.geometry.boxes import Boxes

_STYLE = """body{font:14px system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}
td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}
.warn{background:#fde;padding:.6rem 1rem}svg{background:#f7f7f7;margin:.3rem}
figure{display:inline-block;margin:.3rem}figcaption{font-size:12px}img{margin:.3rem;max-width:100%}"""
_COLOURS = ("#1b6ca8", "#c23b22", "#2e8b57", "#8a4fa3", "#d98a00", "#5a5a5a", "#00868b", "#b5397d")
_PIXELS_A_METRE = 4.0
_VIEW_M = 50.0


@dataclass(frozen=True, eq=False)
class FramePicture:
    """One instant.

    Attributes:
        caption: what was wrong.
        boxes: true ones and reported ones in `base_link`, shown from above; None for what has none.
        images: JPEGs of cameras at that instant, with boxes or masks in them.
    """

    caption: str
    boxes: tuple[SceneBoxes, SceneBoxes] | None = None
    images: tuple[bytes, ...] = ()


def html_report(document: Mapping[str, Any], worst: Mapping[str, Sequence[FramePicture]]) -> str:
    """Return the page of a report's document, with the worst frames of each output."""
    parts = [
        "<!doctype html><meta charset='utf-8'>",
        f"<title>Evaluation of {escape(document['log'])}</title><style>{_STYLE}</style>",
        f"<h1>{escape(document['launch'])} on {escape(document['log'])}</h1>",
        f"<p>Streaming scores by latency: {escape(document['latency'])}.</p>",
    ]
    if document["untrained"]:
        names = ", ".join(map(escape, document["untrained"]))
        parts.append(f"<p class='warn'>Untrained weights: the scores of {names} mean nothing.</p>")
    for topic, scores in document["outputs"].items():
        parts += _output(topic, scores, worst.get(topic, ()))
    if document["stages_ms"]:
        parts.append("<h2>Time by stage, median of this run</h2>" + _bars(document["stages_ms"], "ms"))
    return "\n".join(parts)


def _output(topic: str, scores: Mapping[str, Any], worst: Sequence[FramePicture]) -> list[str]:
    offline, live = scores["offline"], scores["streaming"]
    rows = [
        (name, value, None if live is None else live["summary"].get(name)) for name, value in offline["summary"].items()
    ]
    latency = f"latency {scores['latency_ms']['p50']:.1f} ms median, {scores['latency_ms']['p99']:.1f} ms p99"
    parts = [
        f"<h2>{escape(topic)}: {offline['task']}</h2>",
        f"<p>{offline['frames']} instants of {escape(scores['truth'])}; {latency}</p>",
        _table(("", "offline", "streaming"), rows),
    ]
    if offline["by_class"]:
        parts.append(_by("class", offline["by_class"]))
    parts += [_by(kind, offline[f"by_{kind}"]) for kind in ("distance", "visibility") if offline.get(f"by_{kind}")]
    parts += [_chart(name, curves) for name, curves in (offline.get("curves") or {}).items()]
    if offline["confusion"]:
        answers = list(dict.fromkeys(answer for of in offline["confusion"].values() for answer in of))
        least = offline.get("confusion_score")
        which = "" if least is None else f"; results of a score of {least:.2f} or more, where F1 is highest"
        parts.append(f"<h3>Confusion: rows are true, columns answered{which}</h3>")
        parts.append(
            _table(
                ("", *answers), [(name, *(of.get(a, 0) for a in answers)) for name, of in offline["confusion"].items()]
            )
        )
    if worst:
        parts.append("<h3>Worst frames (boxes: green true, red reported; masks: wrong pixels red)</h3>")
        parts += map(_picture, worst)
    return parts


def _by(what: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    columns = list(next(iter(rows.values())))
    return _table((what, *columns), [(name, *(of.get(c) for c in columns)) for name, of in rows.items()])


def _chart(name: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw curves within 0 and 1; their names stand beside them, in their colours."""
    side, edge = 260, 30
    frame = f"<rect x='{edge}' y='0' width='{side}' height='{side}' fill='none' stroke='#bbb'/>"
    marks = "".join(
        f"<text x='{edge + side * k / 4:.0f}' y='{side + 14}' text-anchor='middle'>{k / 4:g}</text>"
        f"<text x='{edge - 4}' y='{side - side * k / 4 + 10 * (k == 4):.0f}' text-anchor='end'>{k / 4:g}</text>"
        for k in range(5)
    )
    lines, names = [], []
    for place, (label, points) in enumerate(curves.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        path = " ".join(f"{edge + side * x:.1f},{side - side * y:.1f}" for x, y in points)
        lines.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='1.5'/>")
        names.append(f"<span style='color:{colour}'>{escape(label)}</span>")
    svg = f"<svg width='{side + edge + 12}' height='{side + 20}' font-size='10'>{frame}{marks}{''.join(lines)}</svg>"
    return f"<figure>{svg}<figcaption>{escape(name)}: {', '.join(names)}</figcaption></figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if value is None:
        return "&ndash;"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def _bars(values: Mapping[str, float], unit: str) -> str:
    most = max(values.values()) or 1.0
    rows = []
    for name, value in sorted(values.items(), key=lambda item: -item[1]):
        width = 300 * value / most
        bar = f"<svg width='310' height='14'><rect width='{width:.0f}' height='14' fill='#48a'/></svg>"
        rows.append(f"<tr><td>{escape(name)}</td><td>{value:.2f} {unit}</td><td>{bar}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _picture(frame: FramePicture) -> str:
    images = "".join(
        f"<img src='data:image/jpeg;base64,{base64.b64encode(data).decode()}' alt=''>" for data in frame.images
    )
    above = "" if frame.boxes is None else _from_above(*frame.boxes)
    return f"<figure>{above}{images}<figcaption>{escape(frame.caption)}</figcaption></figure>"


def _from_above(truth: SceneBoxes, results: SceneBoxes) -> str:
    size = 2 * _VIEW_M * _PIXELS_A_METRE
    ego = _polygon(Boxes(np.zeros((1, 3)), np.array([[4.5, 1.9, 1.5]]), np.zeros(1)), "#888", fill=True)
    shapes = ego + _polygon(_as_boxes(truth), "#2a2") + _polygon(_as_boxes(results), "#d33")
    return f"<svg width='{size:.0f}' height='{size:.0f}'>{shapes}</svg>"


def _as_boxes(boxes: SceneBoxes) -> Boxes:
    return Boxes(boxes.center_m, boxes.size_lwh_m, boxes.yaw_rad)


def _polygon(boxes: Boxes, colour: str, *, fill: bool = False) -> str:
    """Draw boxes from above: forward is up, left is left."""
    inside = colour if fill else "none"
    shapes = []
    for corners in boxes.corners()[:, :4, :2]:
        points = " ".join(
            f"{(_VIEW_M - y) * _PIXELS_A_METRE:.1f},{(_VIEW_M - x) * _PIXELS_A_METRE:.1f}" for x, y in corners
        )
        shapes.append(f"<polygon points='{points}' fill='{inside}' stroke='{colour}'/>")
    return "".join(shapes)


__all__ = ["FramePicture", "html_report"]
