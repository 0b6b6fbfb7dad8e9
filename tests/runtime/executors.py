"""One node on its own, for the tests of what may run and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perception.messages import Message, PointCloud
from perception.runtime.executor import NodeExecutor
from perception.runtime.graph import Edge
from perception.runtime.node import Join, Node, On
from perception.runtime.output_stamper import RunContext
from tests.runtime.graphs import MS, join_settings, spec

RANKS = {"lidar/points": 0, "cam/image": 1, "left/image": 2, "right/image": 3, "ego": 4}


def executor(node: Node, edges: Sequence[Edge], outputs: dict[str, str] | None = None, **settings: Any) -> NodeExecutor:
    joins = {
        port: join_settings(declared, **settings.pop("join", {}))
        for port, declared in node.inputs().items()
        if isinstance(declared, Join)
    }
    return NodeExecutor(spec("node", edges, outputs, joins=joins), node, RANKS, RunContext(**settings))


def run_all(running: NodeExecutor) -> list[tuple[str, Message]]:
    found = []
    while (outputs := running.run_next()) is not None:
        found += outputs
    return found


class Watcher(Node):
    """Remembers what it was called with."""

    sweep = On[PointCloud]()

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def on_sweep(self, sweep: PointCloud) -> None:
        self.calls.append(sweep.header.t_sensor_ns // MS)


def lidar_edge(**more: Any) -> Edge:
    return Edge("lidar/points", "sweep", PointCloud, **more)
