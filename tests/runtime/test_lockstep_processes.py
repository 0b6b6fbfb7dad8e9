"""Lockstep on processes: the bytes of the inline runner, nothing lost, and an end where a process dies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from perception.errors import GraphError
from perception.logs.ledger import differences
from perception.logs.mcap_writer import McapWriter
from perception.logs.open_log import open_log
from perception.messages import Image, Message, Odometry, PointCloud
from perception.runtime.graph import Edge, Graph, NodeSpec, OutputSpec, SensorHealth
from perception.runtime.launcher import Runner, Summary, run_graph
from perception.runtime.node import NodeConfig
from perception.runtime.recorder import Recorder
from perception.runtime.topology import LAUNCHER, LOCKSTEP_WAITING, topology_of
from tests.runtime.graphs import join_settings
from tests.runtime.lockstep_nodes import DriveConfig, JoinChain, SlowConfig

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
        node("slow", "SlowChain", "slow", [Edge("lidar/points", "sweep", PointCloud)], SlowConfig()),
        node("batch", "BatchChain", "work", [
            Edge("left/image", "pictures", Image), Edge("right/image", "pictures", Image)
        ]),
        node("join", "JoinChain", "fusion", [
            Edge("lidar/points", "scene.sweep", PointCloud), Edge("left/image", "scene.left", Image),
            Edge("right/image", "scene.others", Image), Edge("slow/out", "scene.echo", PointCloud),
            Edge("ego", "ego", Odometry),
        ]),
        node("mix", "MixChain", "slow", [
            Edge("join/out", "one", PointCloud), Edge("batch/out", "other", PointCloud)
        ]),
    ]  # fmt: skip
    return graph(folder, name, nodes, drive or DriveConfig())


def recorded(running: Graph, path: Path, runner: Runner) -> Summary:
    recorder = Recorder(McapWriter(path))
    try:
        return run_graph(running, recorder=recorder, runner=runner, duration_s=3.5)
    finally:
        recorder.close()


def test_processes_give_the_bytes_of_the_inline_runner_and_no_reader_is_overrun(tmp_path: Path) -> None:
    running = built(tmp_path, "equal")
    alone, together = tmp_path / "inline.mcap", tmp_path / "ray.mcap"
    first = recorded(running, alone, "inline")
    second = recorded(running, together, "ray")
    assert differences(alone, together) == []
    # in 3.5 s 117 instants of pictures and a message at the end, 50 ticks of 70 ms, and 34 sets: of the 35 sweeps the
    # last is 10 ms before the picture that would belong to it, which is cut off
    assert first.outputs == second.outputs == {"result": 117 + 1 + 50 + 34}
    assert {name: status.inputs for name, status in first.statuses.items()} == {
        name: status.inputs for name, status in second.statuses.items() if name != "drive"
    }
    at: dict[str, list[int]] = {"lidar/points": [], "slow/out": []}
    for topic, message in open_log(together).messages():
        if topic in at:
            at[topic].append(message.timing.t_published_ns or message.timing.t_received_ns)
    waiting = 2 * LOCKSTEP_WAITING + 2  # a channel full, as many taken, one at work, one on its way
    ahead = [given > done for given, done in zip(at["lidar/points"][waiting:], at["slow/out"], strict=False)]
    assert len(ahead) == 35 - waiting
    assert all(ahead)


def test_a_process_that_dies_ends_the_run_and_is_named(tmp_path: Path) -> None:
    nodes = [
        node("fragile", "FragileChain", "fragile", [Edge("lidar/points", "sweep", PointCloud)]),
        node("mix", "MixChain", "work", [
            Edge("fragile/out", "one", PointCloud), Edge("lidar/points", "other", PointCloud)
        ]),
    ]  # fmt: skip
    with pytest.raises(GraphError, match=r"process 'fragile' is lost: the process was killed or crashed; a lockstep"):
        run_graph(graph(tmp_path, "dies", nodes, DriveConfig()), runner="ray")
    assert not psutil.Process().children(recursive=True)


def test_processes_that_wait_for_each_other_are_known(tmp_path: Path) -> None:
    topology = topology_of(built(tmp_path, "circle"), recorded=True)
    by_process = {process: topology.in_turn(process) for process in ("log", "work", "slow", "fusion", LAUNCHER)}
    nobody: frozenset[str] = frozenset()
    assert by_process == {"log": nobody, "work": nobody, "slow": {"fusion"}, "fusion": {"slow"}, LAUNCHER: nobody}
