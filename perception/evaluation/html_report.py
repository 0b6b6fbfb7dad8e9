"""Write an evaluation as one HTML file that needs nothing else: tables, bars, confusion, worst frames from above."""

from __future__ import annotations

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
figure{display:inline-block;margin:.3rem}figcaption{font-size:12px}"""
_PIXELS_A_METRE = 4.0
_VIEW_M = 50.0


@dataclass(frozen=True, eq=False)
class FramePicture:
    """One instant from above: true boxes and reported ones, in `base_link`."""

    caption: str
    truth: SceneBoxes
    results: SceneBoxes


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
        columns = list(next(iter(offline["by_class"].values())))
        parts.append(
            _table(
                ("class", *columns), [(name, *(of.get(c) for c in columns)) for name, of in offline["by_class"].items()]
            )
        )
    if offline["confusion"]:
        answers = list(dict.fromkeys(answer for of in offline["confusion"].values() for answer in of))
        parts.append("<h3>Confusion: rows are true, columns answered</h3>")
        parts.append(
            _table(
                ("", *answers), [(name, *(of.get(a, 0) for a in answers)) for name, of in offline["confusion"].items()]
            )
        )
    if worst:
        parts.append("<h3>Worst frames, from above (green: true, red: reported)</h3>" + "".join(map(_picture, worst)))
    return parts


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
    size = 2 * _VIEW_M * _PIXELS_A_METRE
    ego = _polygon(Boxes(np.zeros((1, 3)), np.array([[4.5, 1.9, 1.5]]), np.zeros(1)), "#888", fill=True)
    shapes = ego + _polygon(_as_boxes(frame.truth), "#2a2") + _polygon(_as_boxes(frame.results), "#d33")
    return (
        f"<figure><svg width='{size:.0f}' height='{size:.0f}'>{shapes}</svg>"
        f"<figcaption>{escape(frame.caption)}</figcaption></figure>"
    )


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
