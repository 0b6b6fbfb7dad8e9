"""Lockstep on processes: the bytes of the inline runner, nothing lost, and an end where a process dies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perception.logs.mcap_writer import McapWriter
from perception.messages import Image, Message, Odometry, PointCloud
from perception.runtime.graph import Edge, Graph, NodeSpec, OutputSpec, SensorHealth
from perception.runtime.launcher import Runner, Summary, run_graph
from perception.runtime.node import NodeConfig
from perception.runtime.recorder import Recorder
from tests.runtime.graphs import join_settings
from tests.runtime.lockstep_nodes import DriveConfig, JoinChain

HERE = "tests.runtime.lockstep_nodes:"
TOPICS: dict[str, type[Message]] = {
    "lidar/points": PointCloud, "left/image": Image, "right/image": Image, "ego": Odometry,
}  # fmt: skip


def node(name: str, kind: str, process: str, edges: Sequence[Edge], config: NodeConfig | None = None) -> NodeSpec:
    return NodeSpec(
        name=name, target=HERE + kind, config=config or NodeConfig(), process=process, edges=tuple(edges),
        outputs={"out": f"{name}/out"}, joins={"scene": join_settings(JoinChain.scene)} if kind == "JoinChain" else {},
    )  # fmt: skip


def graph(folder: Path, name: str, nodes: Sequence[NodeSpec], drive: DriveConfig) -> Graph:
    source = NodeSpec(
        name="drive", target=HERE + "Drive", config=drive, process="log", is_source=True,
        outputs={topic: topic for topic in TOPICS},
    )  # fmt: skip
    last = nodes[-1].name
    return Graph(
        name=name, nodes=(source, *nodes), outputs=(OutputSpec(f"{last}/out", "result", required=True),),
        sensors=(SensorHealth("lidar", ("lidar/points",), True, 50_000_000, 500_000_000),),
        message_types={**TOPICS, **{f"{spec.name}/out": PointCloud for spec in nodes}},
        endpoint=f"ipc://{folder}/{name}.ipc", mode="lockstep",
    )  # fmt: skip


def built(folder: Path, name: str, drive: DriveConfig | None = None) -> Graph:
    """A graph with every kind of input, a slow branch, and two processes that wait for each other."""
    nodes = [
        node("slow", "SlowChain", "slow", [Edge("lidar/points", "sweep", PointCloud)], slow_config()),
        node("batch", "BatchChain", "work", [
            Edge("left/image", "pictures", Image), Edge("right/image", "pictures", Image)
        ]),
        node("join", "JoinChain", "fusion", [
            Edge("lidar/points", "scene.sweep", PointCloud), Edge("left/image", "scene.left", Image),
            Edge("right/image", "scene.others", Image), Edge("slow/out", "scene.echo", PointCloud),
            Edge("ego", "ego", Odometry),
        ]),
        node("mix", "MixChain", "work", [
            Edge("join/out", "one", PointCloud), Edge("batch/out", "other", PointCloud)
        ]),
    ]  # fmt: skip
    return graph(folder, name, nodes, drive or DriveConfig())


def slow_config() -> NodeConfig:
    from tests.runtime.lockstep_nodes import SlowConfig

    return SlowConfig()


def recorded(running: Graph, path: Path, runner: Runner, **more: float) -> Summary:
    recorder = Recorder(McapWriter(path))
    try:
        return run_graph(running, recorder=recorder, runner=runner, **more)
    finally:
        recorder.close()
