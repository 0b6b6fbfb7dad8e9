"""What a run shows in a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from perception.cli.live_view import said, status_screen
from perception.messages import NodeStatus

SYNTHETIC = "trained in the synthetic world: not for real roads"


def status(node: str, *notes: str, error: str = "") -> NodeStatus:
    return NodeStatus(
        node=node, state="ok", epoch=0, inputs=(), published={f"{node}/out": 3}, latency_p50_ms=1.0, latency_p99_ms=2.0,
        memory_mb=1.0, last_error=error, notes=notes,
    )  # fmt: skip


def test_what_many_nodes_say_is_one_line() -> None:
    statuses = [
        status("pose", SYNTHETIC),
        status("ground"),
        status("detector", SYNTHETIC, "3 of 4", error="a bad frame"),
    ]
    assert said(statuses) == [
        f"pose, detector: {SYNTHETIC}",
        "detector: a bad frame",
        "detector: 3 of 4",
    ]


def test_lines_have_the_width_of_the_terminal_and_brackets_stay() -> None:
    shown = io.StringIO()
    console = Console(width=120, file=shown)
    reason = "degraded (sensor [cam] is late; sensor lidar is late; output objects missed 3 deadlines)"
    console.print(
        status_screen(
            [status("pose", "kept [0.1, 0.2] of what it was given, which is a long line of text")], reason, {}
        )
    )
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert lines[0] == reason
    assert lines[2].split()[:3] == ["pose", "ok", "3"]
    assert lines[3] == "pose: kept [0.1, 0.2] of what it was given, which is a long line of text"
