"""Joins: which messages belong to one instant, and when that is decided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import pytest

from perception.errors import GraphError
from perception.messages import Image, Message, PointCloud
from perception.runtime.graph import Edge
from perception.runtime.inline_runner import run_inline
from perception.runtime.node import Join, Many, Maybe, Node, On, Out, Source
from tests.runtime.executors import executor, lidar_edge, run_all
from tests.runtime.graphs import MS, Script, cloud, graph, image, join_settings, spec


class Joiner(Node):
    scene = Join(sweep=PointCloud, left=Image, others=Many[Image], tolerance_ms=50, deadline_ms=100)

    def __init__(self) -> None:
        super().__init__()
        self.sets: list[tuple[int, ...]] = []

    def on_scene(self, sweep: PointCloud, left: Image, others: Sequence[Image]) -> None:
        self.sets.append(tuple(message.header.t_sensor_ns // MS for message in (sweep, left, *others)))


JOIN_EDGES = [
    Edge("lidar/points", "scene.sweep", PointCloud, bound=3),
    Edge("left/image", "scene.left", Image),
    Edge("right/image", "scene.others", Image),
]


def test_a_join_takes_the_nearest_of_each_member_once_no_nearer_can_come() -> None:
    node = Joiner()
    running = executor(node, JOIN_EDGES)
    running.offer("left/image", image(60))
    running.offer("lidar/points", cloud(100))
    running.offer("left/image", image(130))
    running.offer("right/image", image(90))
    assert run_all(running) == []
    assert node.sets == []  # right could still bring one at 105
    running.bound("right/image", 110 * MS)
    run_all(running)
    assert node.sets == [(100, 130, 90)]


def test_a_join_goes_on_without_a_member_that_is_late_by_the_deadline() -> None:
    node = Joiner()
    running = executor(node, JOIN_EDGES)
    running.offer("left/image", image(100))
    running.offer("lidar/points", cloud(100))
    running.offer("left/image", image(199))
    run_all(running)
    assert node.sets == []
    running.offer("left/image", image(200))
    run_all(running)
    assert node.sets == [(100, 100)]


def test_a_plain_member_that_is_missing_skips_the_set_and_counts_it() -> None:
    node = Joiner()
    running = executor(node, JOIN_EDGES)
    running.offer("lidar/points", cloud(100))
    for topic in ("left/image", "right/image"):
        running.bound(topic, 500 * MS)
    run_all(running)
    assert node.sets == []
    assert running.counters["lidar/points"].dropped == {"set without left/image, right/image": 1}


def test_on_missing_skip_wants_every_member() -> None:
    node = Joiner()
    running = executor(node, JOIN_EDGES, join={"on_missing": "skip"})
    running.offer("lidar/points", cloud(100))
    running.offer("left/image", image(100))
    running.bound("left/image", 500 * MS)
    running.bound("right/image", 500 * MS)
    run_all(running)
    assert node.sets == []


def test_offsets_move_an_input_before_it_is_joined() -> None:
    node = Joiner()
    edges = [JOIN_EDGES[0], Edge("left/image", "scene.left", Image, offset_ns=-80 * MS), JOIN_EDGES[2]]
    running = executor(node, edges)
    running.offer("lidar/points", cloud(100))
    running.offer("left/image", image(185))
    running.bound("left/image", 400 * MS)
    running.bound("right/image", 400 * MS)
    run_all(running)
    assert node.sets == [(100, 185)]


def test_live_the_newest_decided_set_wins_and_whole_sets_are_dropped() -> None:
    node = Joiner()
    running = executor(node, JOIN_EDGES)
    for t_ms in (0, 100, 200):
        running.offer("lidar/points", cloud(t_ms))
        running.offer("left/image", image(t_ms))
    running.bound("left/image", 300 * MS)
    running.bound("right/image", 300 * MS)
    run_all(running)
    assert node.sets == [(200, 200)]
    assert running.counters["lidar/points"].dropped == {"newer set": 2}


def test_messages_that_no_set_took_are_counted() -> None:
    running = executor(Joiner(), JOIN_EDGES)
    for t_ms in (0, 10, 20, 30):
        running.offer("left/image", image(t_ms))
    running.offer("lidar/points", cloud(200))
    running.bound("left/image", 400 * MS)
    running.bound("right/image", 400 * MS)
    run_all(running)
    assert running.counters["left/image"].dropped == {"no set took it": 4}


class OptionalJoiner(Node):
    scene = Join(sweep=PointCloud, left=Maybe[Image])
    out = Out[PointCloud]()

    def on_scene(self, sweep: PointCloud, left: Image | None) -> PointCloud:
        return cloud(sweep.header.t_sensor_ns / MS, -1.0 if left is None else 1.0)


def test_residuals_of_a_join_stand_in_the_header_of_the_output() -> None:
    edges = [Edge("lidar/points", "scene.sweep", PointCloud), Edge("left/image", "scene.left", Image)]
    running = executor(OptionalJoiner(), edges, {"out": "node/out"})
    running.offer("lidar/points", cloud(100))
    running.offer("left/image", image(107))
    running.bound("left/image", 500 * MS)
    ((topic, message),) = run_all(running)
    assert topic == "node/out"
    assert message.header.sync_residual_ns == {"left/image": 7 * MS}
    assert (message.header.seq, message.header.schema) == (0, "perception.point_cloud/1")
    assert [span.stage for span in message.timing.spans] == ["node"]


class Passer(Node):
    sweep = On[PointCloud]()
    out = Out[PointCloud]()

    def on_sweep(self, sweep: PointCloud) -> PointCloud:
        return PointCloud(header=sweep.header, xyz_m=sweep.xyz_m)


def test_bounds_travel_through_nodes_so_that_a_join_behind_them_does_not_wait_for_nothing() -> None:
    node = OptionalJoiner()
    edges = [Edge("slow/out", "scene.sweep", PointCloud), Edge("cam/image", "scene.left", Image)]
    nodes = [
        spec("source", outputs={"lidar/points": "lidar/points", "cam/image": "cam/image"}, source=True),
        spec("slow", [lidar_edge()], {"out": "slow/out"}),
        spec("join", edges, {"out": "join/out"}, joins={"scene": join_settings(OptionalJoiner.scene)}),
    ]
    topics: dict[str, type[Message]] = {
        "lidar/points": PointCloud,
        "cam/image": Image,
        "slow/out": PointCloud,
        "join/out": PointCloud,
    }
    script = [
        ("cam/image", image(95)),
        ("lidar/points", cloud(100)),
        ("lidar/points", cloud(300)),
        ("lidar/points", cloud(500)),
    ]
    seen: list[tuple[str, int, int]] = []

    def watch(topic: str, message: Message) -> None:
        if topic == "join/out" and isinstance(message, PointCloud):
            seen.append((topic, message.header.t_sensor_ns // MS, int(np.asarray(message.xyz_m)[0, 0])))

    made = {"source": Script(script), "slow": Passer(), "join": node}
    result = run_inline(graph(nodes, topics, mode="lockstep"), nodes=made, on_message=watch)
    assert seen == [("join/out", 100, 1), ("join/out", 300, -1), ("join/out", 500, -1)]
    assert result.messages == {"cam/image": 1, "lidar/points": 3, "slow/out": 3, "join/out": 3}


def test_a_lockstep_join_that_waits_for_what_never_comes_stops_and_names_it() -> None:
    edges = [Edge("lidar/points", "scene.sweep", PointCloud), Edge("left/image", "scene.left", Image)]
    running = executor(OptionalJoiner(), edges, {"out": "node/out"}, lockstep=True, max_join_bytes=1000)
    for step in range(40):
        running.offer("lidar/points", cloud(step, points=10))
    with pytest.raises(GraphError, match="waits for left/image"):
        running.run_next()


class Mixed(Node):
    """A join that wants all its members, and another input."""

    scene = Join(sweep=PointCloud, left=Image, tolerance_ms=5, on_missing="skip")
    other = On[Image]()

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def on_scene(self, sweep: PointCloud, left: Image) -> None:
        self.calls.append(("scene", sweep.header.t_sensor_ns // MS))

    def on_other(self, other: Image) -> None:
        self.calls.append(("other", other.header.t_sensor_ns // MS))


MIXED_EDGES = [
    Edge("lidar/points", "scene.sweep", PointCloud), Edge("left/image", "scene.left", Image),
    Edge("cam/image", "other", Image),
]  # fmt: skip


def test_in_lockstep_a_set_behind_one_that_is_skipped_waits_for_what_comes_between_them() -> None:
    node = Mixed()
    running = executor(node, MIXED_EDGES, lockstep=True)
    for t_ms in (100, 200):
        running.offer("lidar/points", cloud(t_ms))
    running.offer("left/image", image(200))  # the set at 100 lacks its picture
    running.offer("cam/image", image(150))
    for topic in ("lidar/points", "left/image", "cam/image"):
        running.bound(topic, 300 * MS)
    run_all(running)
    assert node.calls == [("other", 150), ("scene", 200)]


def test_in_lockstep_two_sets_of_one_stamp_both_run_though_the_first_is_skipped() -> None:
    node = Joiner()
    running = executor(node, [JOIN_EDGES[0], Edge("left/image", "scene.left", Image)], lockstep=True)
    for t_ms in (100, 100, 200):
        running.offer("lidar/points", cloud(t_ms))
    for topic in ("lidar/points", "left/image"):
        running.bound(topic, 300 * MS)
    run_all(running)
    assert running.counters["lidar/points"].dropped == {"set without left/image": 3}


def test_an_offset_of_the_reference_does_not_move_what_is_promised_of_the_output() -> None:
    edges = [
        Edge("lidar/points", "scene.sweep", PointCloud, offset_ns=30 * MS), Edge("left/image", "scene.left", Image)
    ]  # fmt: skip
    running = executor(OptionalJoiner(), edges, {"out": "node/out"}, lockstep=True)
    running.offer("lidar/points", cloud(100))
    assert running.output_bound() == 100 * MS  # the output will have the sweep's own stamp


class Reusing(Source):
    """Gives out pictures as views of one memory, each while the one before still waits with its sweep."""

    paced = True

    def messages(self) -> Iterator[tuple[str, Message]]:
        memory = np.zeros((1, 2, 2, 3), np.uint8)
        for step in range(5):
            memory[:] = step
            yield "left/image", msgspec.structs.replace(image(100 * step), data=memory[0])
            yield "lidar/points", cloud(100 * step + 3)


class Pictures(Node):
    scene = Join(sweep=PointCloud, left=Image, tolerance_ms=5)

    def __init__(self) -> None:
        super().__init__()
        self.values: list[int] = []

    def on_scene(self, sweep: PointCloud, left: Image) -> None:
        self.values.append(int(np.asarray(left.data)[0, 0, 0]))


def test_a_picture_that_waits_does_not_change_when_its_source_writes_its_memory_again() -> None:
    node = Pictures()
    edges = [Edge("lidar/points", "scene.sweep", PointCloud), Edge("left/image", "scene.left", Image)]
    topics: dict[str, type[Message]] = {"left/image": Image, "lidar/points": PointCloud}
    nodes = [
        spec("source", outputs={topic: topic for topic in topics}, source=True),
        spec("join", edges, joins={"scene": join_settings(Pictures.scene)}),
    ]
    run_inline(graph(nodes, topics, mode="lockstep"), nodes={"source": Reusing(), "join": node})
    assert node.values == [0, 1, 2, 3, 4]
