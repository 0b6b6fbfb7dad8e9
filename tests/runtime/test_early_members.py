"""Joins that name early members: what can be done before the others come is done live, and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from perception.messages import Image, PointCloud
from perception.runtime.executor import NodeExecutor
from perception.runtime.graph import Edge
from perception.runtime.node import Join, Many, Maybe, Node
from tests.runtime.executors import executor, run_all
from tests.runtime.graphs import MS, cloud, image

EDGES = [
    Edge("lidar/points", "scene.sweep", PointCloud, bound=3),
    Edge("left/image", "scene.masks", Image),
    Edge("right/image", "scene.masks", Image),
    Edge("cam/image", "scene.boxes", Image),
]


class Preparer(Node):
    scene = Join(
        sweep=PointCloud, masks=Many[Image], boxes=Maybe[Image], tolerance_ms=30, deadline_ms=100,
        early=("sweep", "masks"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int | str, ...]] = []

    def prepare_scene(self, sweep: PointCloud, masks: Sequence[Image]) -> None:
        self.calls.append(("prepare", *(message.header.t_sensor_ns // MS for message in (sweep, *masks))))

    def on_scene(self, sweep: PointCloud, masks: Sequence[Image], boxes: Image | None) -> None:
        every = (sweep, *masks, *([] if boxes is None else [boxes]))
        self.calls.append(("on", *(message.header.t_sensor_ns // MS for message in every)))


def offer(running: NodeExecutor, *topics: str, t_ms: int = 100) -> None:
    for topic in topics:
        running.offer(topic, cloud(t_ms) if topic == "lidar/points" else image(t_ms))
        run_all(running)


def test_early_members_are_prepared_once_when_all_of_them_are_there() -> None:
    node = Preparer()
    running = executor(node, EDGES)
    offer(running, "lidar/points", "left/image")
    assert node.calls == []
    offer(running, "right/image")
    assert node.calls == [("prepare", 100, 100, 100)]
    offer(running, "cam/image")
    run_all(running)
    offer(running, "left/image", "right/image", "cam/image", t_ms=150)
    assert node.calls == [("prepare", 100, 100, 100), ("on", 100, 100, 100, 100)]


def test_a_member_that_cannot_come_any_more_is_not_waited_for() -> None:
    node = Preparer()
    running = executor(node, EDGES)
    offer(running, "lidar/points", "left/image")
    running.bound("right/image", 140 * MS)
    run_all(running)
    assert node.calls == [("prepare", 100, 100)]


def test_nothing_is_prepared_for_a_set_that_may_run() -> None:
    node = Preparer()
    running = executor(node, EDGES)
    offer(running, "left/image", "right/image", "cam/image")
    for topic in ("left/image", "right/image", "cam/image"):
        running.bound(topic, 140 * MS)
    offer(running, "lidar/points")
    assert node.calls == [("on", 100, 100, 100, 100)]


def test_in_lockstep_nothing_is_prepared() -> None:
    node = Preparer()
    running = executor(node, EDGES, lockstep=True)
    offer(running, "lidar/points", "left/image", "right/image", "cam/image")
    for topic in ("lidar/points", "left/image", "right/image", "cam/image"):
        running.bound(topic, 200 * MS)
    run_all(running)
    assert node.calls == [("on", 100, 100, 100, 100)]


def test_what_fails_while_preparing_is_counted_once_by_the_call_for_the_set(caplog: pytest.LogCaptureFixture) -> None:
    class Breaking(Preparer):
        def prepare_scene(self, sweep: PointCloud, masks: Sequence[Image]) -> None:
            raise ValueError("not of this size")

    node = Breaking()
    running = executor(node, EDGES)
    offer(running, "lidar/points", "left/image", "right/image")
    assert running.counters["lidar/points"].dropped == {}
    offer(running, "cam/image", t_ms=201)  # past the deadline
    assert node.calls == [("on", 100, 100, 100)]
    assert running.status().state == "ok"
    assert "not of this size" not in caplog.text


def test_after_a_reset_the_same_stamp_is_prepared_again() -> None:
    node = Preparer()
    running = executor(node, EDGES)
    for _ in range(2):
        offer(running, "lidar/points", "left/image", "right/image")
        running.reset("loop")
    assert node.calls == 2 * [("prepare", 100, 100, 100)]
