"""Small graphs and nodes for the tests of the runtime."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from perception.messages import Header, Image, Message, Odometry, PointCloud
from perception.runtime.graph import Edge, Graph, JoinSettings, NodeSpec
from perception.runtime.node import Bound, Join, Node, NodeConfig, Source

MS = 1_000_000


def free_port() -> int:
    """Return a port from which on 200 are likely free; below those that the system gives out."""
    for port in range(20_000 + os.getpid() % 5_000, 32_000, 211):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


def cloud(t_ms: float, value: float = 0.0, points: int = 3) -> PointCloud:
    xyz = np.full((points, 3), value, np.float32)
    return PointCloud(header=Header(frame_id="lidar", t_sensor_ns=round(t_ms * MS)), xyz_m=xyz)


def image(t_ms: float, value: int = 0) -> Image:
    data = np.full((2, 2, 3), value, np.uint8)
    header = Header(frame_id="cam", t_sensor_ns=round(t_ms * MS))
    return Image(header=header, encoding="rgb8", height_px=2, width_px=2, data=data)


def odometry(t_ms: float, x: float = 0.0) -> Odometry:
    header = Header(frame_id="odom", t_sensor_ns=round(t_ms * MS))
    return Odometry(header=header, translation_m=(x, 0.0, 0.0), rotation_xyzw=(0.0, 0.0, 0.0, 1.0))


class Script(Source):
    """A source that gives out what it is told, in that order."""

    paced = True

    def __init__(self, script: Sequence[tuple[str, Message | Bound]]) -> None:
        super().__init__()
        self.script = script

    def messages(self) -> Iterator[tuple[str, Message | Bound]]:
        yield from self.script


class Unordered(Script):
    paced = False


def spec(
    name: str,
    edges: Sequence[Edge] = (),
    outputs: Mapping[str, str] | None = None,
    *,
    source: bool = False,
    joins: Mapping[str, JoinSettings] | None = None,
    **more: Any,
) -> NodeSpec:
    return NodeSpec(
        name=name, target="tests:None", config=NodeConfig(), process="main", edges=tuple(edges), outputs=outputs or {},
        is_source=source, joins=joins or {}, **more,
    )  # fmt: skip


def graph(nodes: Sequence[NodeSpec], topics: Mapping[str, type[Message]], **more: Any) -> Graph:
    return Graph(
        name="test",
        nodes=tuple(nodes),
        outputs=(),
        sensors=(),
        message_types=topics,
        endpoint="ipc:///tmp/none",
        **more,
    )


def join_settings(join: Join, **changes: Any) -> JoinSettings:
    values: dict[str, Any] = {
        "tolerance_ns": round(join.tolerance_ms * MS), "deadline_ns": round(join.deadline_ms * MS),
        "on_missing": join.on_missing, "history_ns": round((join.history_ms or 1000) * MS),
    }  # fmt: skip
    return JoinSettings(**{**values, **changes})


__all__ = [
    "MS",
    "Node",
    "Script",
    "Unordered",
    "cloud",
    "free_port",
    "graph",
    "image",
    "join_settings",
    "odometry",
    "spec",
]
