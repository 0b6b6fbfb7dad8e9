"""In lockstep the calls of a node are a function of its inputs' messages, whatever way these and their bounds came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from perception.messages import Image, Message, Odometry, PointCloud
from perception.messages.codec import Cuts, Record, content, encode
from perception.runtime.credits import Credits, Outbox
from perception.runtime.executor import NodeExecutor
from perception.runtime.graph import Edge
from perception.runtime.histories import AFTER_ALL
from perception.runtime.node import Every, Join, Lookup, Many, Maybe, Node, NodeConfig, On, Out
from perception.runtime.output_stamper import RunContext
from tests.runtime.executors import executor, lidar_edge, run_all
from tests.runtime.graphs import MS, cloud, image, join_settings, odometry, spec
from tests.runtime.lockstep_nodes import Chain, value_of

END_MS = 400
KINDS: Mapping[str, Any] = {
    "a": cloud,
    "b": cloud,
    "c": cloud,
    "left/image": image,
    "right/image": image,
    "ego": odometry,
    "p": cloud,
}
RANKS = {topic: rank for rank, topic in enumerate(KINDS)}


class Everything(Chain):
    """Every kind of input at once."""

    one = On[PointCloud]()
    pictures = On[Image](batch=True)
    pair = Join(first=PointCloud, second=Maybe[Image], tolerance_ms=15, on_missing="skip")
    scene = Join(sweep=PointCloud, others=Many[Image], near=Maybe[PointCloud], tolerance_ms=40)
    tick = Every(35 * MS)
    ego = Lookup[Odometry](deadline_ms=20, history_ms=60)
    last = Lookup[PointCloud](history_ms=50)
    out = Out[PointCloud]()

    def _called(self, t_ns: int, kind: int, *messages: Message | None) -> PointCloud:
        seen: list[Message | None] = [self.ego.at(t_ns + shift * MS) for shift in (-500, -60, -10, 0, 10, 50)]
        seen += [self.last.at(t_ns + shift * MS) for shift in (-300, -30, 0, 30)]
        return self.link(t_ns, kind, *map(value_of, [*messages, *seen]))

    def on_one(self, one: PointCloud) -> PointCloud:
        return self._called(one.header.t_sensor_ns, 1, one)

    def on_pictures(self, pictures: Mapping[str, Image]) -> PointCloud:
        return self._called(next(iter(pictures.values())).header.t_sensor_ns, 2, *pictures.values())

    def on_pair(self, first: PointCloud, second: Image | None) -> PointCloud:
        return self._called(first.header.t_sensor_ns, 3, first, second)

    def on_scene(self, sweep: PointCloud, others: Sequence[Image], near: PointCloud | None) -> PointCloud:
        return self._called(sweep.header.t_sensor_ns, 4, sweep, *others, near)

    def on_tick(self, t_ns: int) -> PointCloud:
        return self._called(t_ns, 5)

    def finish(self) -> PointCloud:
        return self.link(1, 6)


EDGES = [
    Edge("a", "one", PointCloud), Edge("left/image", "pictures", Image), Edge("right/image", "pictures", Image),
    Edge("b", "pair.first", PointCloud), Edge("right/image", "pair.second", Image),
    Edge("a", "scene.sweep", PointCloud, offset_ns=-5 * MS), Edge("left/image", "scene.others", Image),
    Edge("right/image", "scene.others", Image), Edge("c", "scene.near", PointCloud),
    Edge("ego", "ego", Odometry), Edge("p", "last", PointCloud),
]  # fmt: skip


def everything() -> NodeExecutor:
    joins = {"pair": join_settings(Everything.pair), "scene": join_settings(Everything.scene)}
    node = Everything(NodeConfig())
    return NodeExecutor(spec("node", EDGES, {"out": "node/out"}, joins=joins), node, RANKS, RunContext(lockstep=True))


def outputs_of(running: NodeExecutor) -> list[bytes]:
    found = []
    while (outputs := running.run_next()) is not None:
        found += [bytes(content(encode(message).to_bytes())) for _, message in outputs]
    return found


def in_one_order(stamps: Mapping[str, Sequence[int]]) -> list[bytes]:
    """As the inline runner does it: by stamp, with the bounds of all topics after each message."""
    running, found = everything(), []
    for t_ms, topic in sorted((t_ms, topic) for topic, ts in stamps.items() for t_ms in ts):
        running.offer(topic, KINDS[topic](t_ms, t_ms % 200))
        for other in KINDS:
            running.bound(other, t_ms * MS)
        found += outputs_of(running)
    for t_ns in (END_MS * MS, AFTER_ALL):
        for topic in KINDS:
            running.bound(topic, t_ns)
    return found + outputs_of(running)


def in_any_order(stamps: Mapping[str, Sequence[int]], random: Any) -> list[bytes]:
    """As processes may do it: topics far ahead of each other, bounds seldom, calls late."""
    running, found = everything(), []
    waiting = {topic: list(ts) for topic, ts in stamps.items()}
    while waiting:
        topic = random.choice([*waiting])
        ahead = waiting[topic]
        if ahead and random.random() < 0.7:
            t_ms = ahead.pop(0)
            running.offer(topic, KINDS[topic](t_ms, t_ms % 200))
        elif ahead:
            running.bound(topic, random.randint(0, ahead[0]) * MS)
        else:
            running.bound(topic, END_MS * MS)
            running.bound(topic, AFTER_ALL)
            del waiting[topic]
        if random.random() < 0.3:
            found += outputs_of(running)
    return found + outputs_of(running)


some_stamps = st.lists(st.integers(0, END_MS), max_size=10).map(sorted)


@settings(max_examples=40, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(KINDS, some_stamps)), st.randoms(use_true_random=False))
def test_what_a_node_gives_does_not_depend_on_how_its_inputs_travelled(
    stamps: dict[str, list[int]], random: Any
) -> None:
    assert in_any_order(stamps, random) == in_one_order(stamps)


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


@settings(max_examples=50, deadline=None)
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


class Channel:
    """A channel to one reader that never blocks: what it is given beyond its room is written over."""

    def __init__(self, room: int) -> None:
        self.room, self.most = room, 0
        self.waiting: list[int] = []
        self.given: list[tuple[str, int]] = []

    def write(self, topic: str, record: Record) -> None:
        self.waiting.append(record.size)
        self.most = max(self.most, len(self.waiting))
        self.given.append(("record", record.size))

    def bound(self, topic: str, t_ns: int) -> None:
        self.given.append(("bound", t_ns))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.lists(st.sampled_from(["give", "promise", "take", "tell"]), max_size=120))
def test_a_writer_never_overruns_its_reader_and_everything_arrives_in_its_order(room: int, steps: list[str]) -> None:
    channel, rank = Channel(room), {"topic": 0}
    outbox = Outbox({"topic": {"reader": room}}, rank, channel.write, channel.bound)
    credits, order = Credits({"topic": room}, rank), []

    def take() -> None:
        if channel.waiting:
            channel.waiting.pop(0)
            credits.took("topic")

    for number, step in enumerate(steps, start=1):
        if step == "give":
            order.append(("record", number))
            outbox.record("topic", Record([], bytes(number), number, Cuts(0, 0)))
        elif step == "promise":
            order.append(("bound", number))
            outbox.bound("topic", number)
        elif step == "take":
            take()
        elif credits.due():
            outbox.credit("reader", credits.row)
    for _ in steps:  # a reader with nothing else to do takes all, and tells whenever it is due
        for _ in range(room):
            take()
        if credits.due():
            outbox.credit("reader", credits.row)
    assert channel.most <= room
    assert outbox.is_empty()
    records = [entry for entry in order if entry[0] == "record"]
    assert [entry for entry in channel.given if entry[0] == "record"] == records
    for kind, t_ns in channel.given:  # a bound that a newer one replaced is not sent; none is before its records
        if kind == "bound":
            sent = channel.given.index((kind, t_ns))
            assert order.index((kind, t_ns)) >= sent
    bounds = [entry for entry in order if entry[0] == "bound"]
    assert not bounds or bounds[-1] in channel.given


def test_what_waits_for_one_reader_does_not_go_to_another_first() -> None:
    channel, rank = Channel(2), {"topic": 0}
    outbox = Outbox({"topic": {"quick": 2, "slow": 2}}, rank, channel.write, channel.bound)
    for number in range(1, 5):
        outbox.record("topic", Record([], bytes(number), number, Cuts(0, 0)))
    outbox.bound("topic", AFTER_ALL)
    outbox.credit("quick", [2])
    assert channel.given == [("record", 1), ("record", 2)]
    outbox.credit("slow", [2])
    assert channel.given == [("record", 1), ("record", 2), ("record", 3), ("record", 4), ("bound", AFTER_ALL)]
