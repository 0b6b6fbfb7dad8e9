"""What planners get when an output is late: by policy, counted, and in the state."""

from __future__ import annotations

import pytest

from perception.messages import Detections3D, Header, Message, Odometry, PointCloud, Timing, TrackedObjects
from perception.runtime.deadlines import Deadlines, reference_topic
from perception.runtime.graph import Edge, Graph, NodeSpec, OnLate, OutputSpec
from perception.runtime.health import Health
from perception.runtime.node import NodeConfig

MS = 1_000_000
EGO = Edge("ego", "ego", Odometry)


def node(name: str, edges: tuple[Edge, ...] = (), *outputs: str, source: bool = False) -> NodeSpec:
    return NodeSpec(
        name=name, target=f"perception.nodes.{name}:X", config=NodeConfig(), process=name, edges=edges,
        outputs={topic: topic for topic in outputs}, is_source=source,
    )  # fmt: skip


def graph(on_late: OnLate, fallback: str = "") -> Graph:
    return Graph(
        name="g",
        nodes=(
            node("car", (), "lidar/points", "ego", source=True),
            node("detector", (Edge("lidar/points", "sweep", PointCloud),), "detector/detections"),
            node("fuser", (EGO, Edge("detector/detections", "boxes", Detections3D)), "fuser/objects"),
            node("simple", (Edge("lidar/points", "sweep", PointCloud),), "simple/objects"),
        ),
        outputs=(OutputSpec("fuser/objects", "objects", True, 100 * MS, on_late, fallback),),
        sensors=(), message_types={}, endpoint="ipc:///x",
    )  # fmt: skip


def sweep(t_ms: int) -> PointCloud:
    import numpy as np

    return PointCloud(
        header=Header(frame_id="lidar", t_sensor_ns=t_ms * MS), timing=Timing(t_received_ns=t_ms * MS),
        xyz_m=np.zeros((1, 3), np.float32),
    )  # fmt: skip


def objects(t_ms: int, seq: int = 0) -> TrackedObjects:
    return TrackedObjects(header=Header(frame_id="base_link", t_sensor_ns=t_ms * MS, seq=seq), objects=())


def given_at(deadlines: Deadlines, t_ms: float) -> list[Message | None]:
    return [message for _, message in deadlines.due(round(t_ms * MS))]


def test_an_instant_begins_with_the_sweep_and_not_with_ego_motion() -> None:
    assert reference_topic(graph("skip"), "fuser/objects") == "lidar/points"


def test_in_time_is_not_late() -> None:
    deadlines = Deadlines(graph("skip"))
    deadlines.seen("lidar/points", sweep(0), 0)
    assert given_at(deadlines, 99) == []
    assert deadlines.arrived("fuser/objects", objects(0))
    assert given_at(deadlines, 500) == []
    assert not deadlines.missed


def test_a_newer_output_settles_what_was_owed_before_it() -> None:
    deadlines = Deadlines(graph("skip"))
    for t_ms in (0, 50, 100):
        deadlines.seen("lidar/points", sweep(t_ms), t_ms * MS)
    assert deadlines.arrived("fuser/objects", objects(100))
    assert given_at(deadlines, 1000) == []


@pytest.mark.parametrize(("on_late", "published"), [("publish_partial", True), ("skip", False), ("use_last", False)])
def test_what_comes_late_is_published_or_dropped_by_policy(on_late: OnLate, published: bool) -> None:
    deadlines = Deadlines(graph(on_late))
    deadlines.seen("lidar/points", sweep(0), 0)
    assert given_at(deadlines, 101) == [None]
    assert given_at(deadlines, 102) == []  # once
    assert deadlines.missed["objects"] == 1
    assert deadlines.arrived("fuser/objects", objects(0)) is published
    deadlines.seen("lidar/points", sweep(200), 200 * MS)
    assert deadlines.arrived("fuser/objects", objects(200))


def test_the_last_one_is_used_again_and_says_so() -> None:
    deadlines = Deadlines(graph("use_last"))
    assert deadlines.arrived("fuser/objects", objects(0, seq=7))
    deadlines.seen("lidar/points", sweep(100), 100 * MS)
    (again,) = given_at(deadlines, 201)
    assert again is not None
    assert (again.header.t_sensor_ns, again.header.seq) == (0, 7)
    assert again.header.degraded == ("late: the last objects again",)
    assert again.timing.deadline_met is False


def test_another_node_stands_in_under_the_numbers_of_the_one_that_is_late() -> None:
    deadlines = Deadlines(graph("fallback", "simple/objects"))
    assert deadlines.arrived("fuser/objects", objects(0, seq=7))
    deadlines.seen("lidar/points", sweep(100), 100 * MS)
    deadlines.seen("simple/objects", objects(100, seq=300), 120 * MS)
    (stands_in,) = given_at(deadlines, 201)
    assert stands_in is not None
    assert (stands_in.header.t_sensor_ns, stands_in.header.seq) == (100 * MS, 7)
    assert stands_in.header.degraded == ("late: objects from simple/objects",)


def test_the_state_tells_missed_deadlines() -> None:
    health = Health(graph("skip"), 0)
    health.output_message("fuser/objects", 0)
    told = health.state(10 * MS, 0, "run", {"objects": 3})
    assert (told.state, told.late) == ("degraded", {"objects": 3})
    assert "output objects missed 3 deadlines (skip)" in told.reasons
    assert health.state(20 * MS, 1, "run", {"objects": 3}).state == "ok"
