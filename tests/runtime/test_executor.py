"""What may run, when, and what is counted: each sentence of the runtime's semantics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.errors import GraphError, ShapeError
from perception.messages import Image, Message, Odometry, PointCloud
from perception.messages.codec import content, encode
from perception.runtime.executor import NodeExecutor
from perception.runtime.graph import Edge
from perception.runtime.histories import AFTER_ALL
from perception.runtime.inline_runner import run_inline
from perception.runtime.node import Every, Join, Lookup, Many, Maybe, Node, On, Out
from perception.runtime.output_stamper import RunContext
from tests.runtime.graphs import MS, Script, cloud, graph, image, join_settings, odometry, spec

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


def test_keep_latest_runs_the_newest_and_counts_the_others() -> None:
    node = Watcher()
    running = executor(node, [lidar_edge(keep="latest")])
    for t_ms in (0, 100, 200):
        running.offer("lidar/points", cloud(t_ms))
    run_all(running)
    assert node.calls == [200]
    assert running.counters["lidar/points"].dropped == {"newer message": 2}
    assert running.counters["lidar/points"].received == 3


def test_keep_all_keeps_its_bound_and_counts_what_did_not_fit() -> None:
    node = Watcher()
    running = executor(node, [lidar_edge(keep="all", bound=2)])
    for t_ms in (0, 100, 200):
        running.offer("lidar/points", cloud(t_ms))
    run_all(running)
    assert node.calls == [100, 200]
    assert running.counters["lidar/points"].dropped == {"queue full": 1}


def test_lockstep_drops_nothing_whatever_the_queue() -> None:
    node = Watcher()
    running = executor(node, [lidar_edge(keep="latest", bound=1)], lockstep=True)
    for t_ms in (0, 100, 200):
        running.offer("lidar/points", cloud(t_ms))
    run_all(running)
    assert node.calls == [0, 100, 200]


class Fragile(Watcher):
    def on_sweep(self, sweep: PointCloud) -> None:
        if np.isnan(sweep.xyz_m).any():  # type: ignore[arg-type]
            raise ShapeError("points are not finite")
        if np.asarray(sweep.xyz_m)[0, 0] == 13:
            raise KeyError("a bug")
        super().on_sweep(sweep)


def test_one_bad_frame_is_one_counted_drop_and_the_node_goes_on() -> None:
    node = Fragile()
    running = executor(node, [lidar_edge(keep="all")])
    for t_ms, value in ((0, 1.0), (100, np.nan), (200, 13.0), (300, 1.0)):
        running.offer("lidar/points", cloud(t_ms, value))
    run_all(running)
    assert node.calls == [0, 300]
    assert running.counters["lidar/points"].dropped == {"points are not finite": 1, "KeyError: 'a bug'": 1}
    assert running.status().last_error == "KeyError: 'a bug'"


def test_a_node_that_fails_every_time_stops_its_process() -> None:
    running = executor(Fragile(), [lidar_edge(keep="all", bound=50)])
    for step in range(20):
        running.offer("lidar/points", cloud(step, 13.0))
    with pytest.raises(GraphError, match="failed 10 times in a row, last by KeyError"):
        run_all(running)


def test_reasons_that_change_with_every_message_do_not_grow_without_end() -> None:
    class Talkative(Watcher):
        def on_sweep(self, sweep: PointCloud) -> None:
            raise ShapeError(f"stamp {sweep.header.t_sensor_ns}")

    running = executor(Talkative(), [lidar_edge(keep="all", bound=1000)])
    for step in range(500):
        running.offer("lidar/points", cloud(step))
    run_all(running)
    dropped = running.counters["lidar/points"].dropped
    assert len(dropped) <= 21
    assert sum(dropped.values()) == 500


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


class Mover(Node):
    sweep = On[PointCloud]()
    ego = Lookup[Odometry](deadline_ms=100)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float | None] = []

    def on_sweep(self, sweep: PointCloud) -> None:
        pose = self.ego.at(sweep.header.t_sensor_ns)
        self.found.append(None if pose is None else pose.translation_m[0])


EGO = Edge("ego", "ego", Odometry)


def test_a_lookup_interpolates_and_the_node_waits_until_it_can() -> None:
    node = Mover()
    running = executor(node, [lidar_edge(), EGO])
    running.offer("ego", odometry(0, 0.0))
    running.offer("lidar/points", cloud(25))
    assert running.run_next() is None
    running.offer("ego", odometry(50, 10.0))
    run_all(running)
    assert node.found == [5.0]


def test_a_lookup_that_never_answers_holds_a_node_no_longer_than_its_deadline() -> None:
    node = Mover()
    running = executor(node, [lidar_edge(keep="all"), EGO])
    running.offer("lidar/points", cloud(0))
    assert running.run_next() is None
    running.offer("lidar/points", cloud(100))
    assert running.run_next() == []
    assert node.found == [None]


@pytest.mark.parametrize("lockstep", [False, True])
def test_a_lookup_waits_for_the_message_of_the_very_stamp_which_a_bound_of_it_leaves_room_for(lockstep: bool) -> None:
    node = Mover()
    running = executor(node, [lidar_edge(keep="all"), EGO], lockstep=lockstep)
    running.offer("ego", odometry(80, 8.0))
    running.offer("lidar/points", cloud(100))
    running.bound("ego", 100 * MS)  # nothing before the sweep comes any more, but its own pose does
    assert running.run_next() is None
    running.offer("ego", odometry(100, 10.0))
    run_all(running)
    assert node.found == [10.0]


class Ticker(Node):
    sweep = On[PointCloud]()
    tick = Every(40 * MS)

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def on_sweep(self, sweep: PointCloud) -> None:
        self.calls.append(("sweep", sweep.header.t_sensor_ns // MS))

    def on_tick(self, t_ns: int) -> None:
        self.calls.append(("tick", t_ns // MS))


def test_ticks_come_at_whole_multiples_of_the_period_of_sensor_time() -> None:
    node = Ticker()
    running = executor(node, [lidar_edge(keep="all")], lockstep=True)
    for t_ms in (50, 100, 150):
        running.offer("lidar/points", cloud(t_ms))
        run_all(running)
    running.bound("lidar/points", AFTER_ALL)
    run_all(running)
    assert node.calls == [("sweep", 50), ("tick", 80), ("sweep", 100), ("tick", 120), ("sweep", 150)]


class Borrower(Node):
    """Gives out a buffer that it overwrites, as an engine does."""

    sweep = On[PointCloud]()
    out = Out[PointCloud]()

    def __init__(self) -> None:
        super().__init__()
        self.buffer = np.zeros((6, 3), np.float32)

    def on_sweep(self, sweep: PointCloud) -> PointCloud:
        self.buffer[:] = np.asarray(sweep.xyz_m)[0, 0]
        return PointCloud(header=sweep.header, xyz_m=self.buffer[:3])


def test_an_output_buffer_that_is_overwritten_never_changes_a_message() -> None:
    running = executor(Borrower(), [lidar_edge(keep="all")], {"out": "node/out"})
    for step in range(10):
        running.offer("lidar/points", cloud(step, float(step)))
    values = [
        float(np.asarray(message.xyz_m)[0, 0]) for _, message in run_all(running) if isinstance(message, PointCloud)
    ]
    assert values == [float(step) for step in range(10)]
    assert "10 arrays copied" in " ".join(running.status().notes)


def test_an_array_that_was_given_out_cannot_be_written_any_more() -> None:
    class Writer(Node):
        sweep = On[PointCloud]()
        out = Out[PointCloud]()
        given: np.ndarray | None = None

        def on_sweep(self, sweep: PointCloud) -> PointCloud:
            if self.given is not None:
                self.given[0] = 99
            self.given = np.ones((3, 3), np.float32)
            return PointCloud(header=sweep.header, xyz_m=self.given)

    running = executor(Writer(), [lidar_edge(keep="all")], {"out": "node/out"})
    running.offer("lidar/points", cloud(0))
    running.offer("lidar/points", cloud(1))
    ((_, first),) = run_all(running)
    assert isinstance(first, PointCloud)
    np.testing.assert_array_equal(np.asarray(first.xyz_m), 1)
    assert any("read-only" in reason for reason in running.counters["lidar/points"].dropped)


class Summer(Node):
    """Its output depends on the order of everything it saw."""

    sweep = On[PointCloud]()
    picture = On[Image]()
    scene = Join(sweep2=PointCloud, left=Maybe[Image], tolerance_ms=20, deadline_ms=30)
    out = Out[PointCloud]()

    def __init__(self) -> None:
        super().__init__()
        self.state = 0.0

    def _next(self, t_ns: int, value: float) -> PointCloud:
        self.state = (self.state * 31 + value) % 1009
        return cloud(t_ns / MS, self.state)

    def on_sweep(self, sweep: PointCloud) -> Iterator[tuple[str, Message]]:
        yield "out", self._next(sweep.header.t_sensor_ns, 1)

    def on_picture(self, picture: Image) -> Iterator[tuple[str, Message]]:
        yield "out", self._next(picture.header.t_sensor_ns, 2)

    def on_scene(self, sweep2: PointCloud, left: Image | None) -> Iterator[tuple[str, Message]]:
        yield "out", self._next(sweep2.header.t_sensor_ns, 3 if left is None else 4)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=12, unique=True),
    st.lists(st.integers(0, 300), min_size=1, max_size=12, unique=True),
    st.randoms(use_true_random=False),
)
def test_in_lockstep_the_outputs_do_not_depend_on_how_messages_travelled(
    sweeps: list[int], pictures: list[int], random: Any
) -> None:
    edges = [
        lidar_edge(), Edge("cam/image", "picture", Image), Edge("lidar/points", "scene.sweep2", PointCloud),
        Edge("cam/image", "scene.left", Image),
    ]  # fmt: skip
    inputs: dict[str, list[Message]] = {
        "lidar/points": [cloud(t_ms) for t_ms in sorted(sweeps)],
        "cam/image": [image(t_ms) for t_ms in sorted(pictures)],
    }

    def run(shuffled: bool) -> list[bytes]:
        running = executor(Summer(), edges, {"out": "node/out"}, lockstep=True)
        waiting = {topic: list(messages) for topic, messages in inputs.items()}
        found = []
        while any(waiting.values()):
            topics = [topic for topic, messages in waiting.items() if messages]
            topic = random.choice(topics) if shuffled else topics[0]
            running.offer(topic, waiting[topic].pop(0))
            if not waiting[topic]:
                running.bound(topic, AFTER_ALL)
            found += run_all(running)
        return [bytes(content(encode(message).to_bytes())) for _, message in found]

    expected = run(shuffled=False)
    assert len(expected) == 2 * len(sweeps) + len(pictures)
    assert run(shuffled=True) == expected


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
