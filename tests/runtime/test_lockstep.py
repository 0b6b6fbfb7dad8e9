"""In lockstep the calls of a node are a function of its inputs' messages, whatever way these and their bounds came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from perception.messages import Image, Message, Odometry, PointCloud
from perception.messages.codec import content, encode
from perception.runtime.executor import NodeExecutor
from perception.runtime.graph import Edge
from perception.runtime.histories import AFTER_ALL
from perception.runtime.node import Every, Join, Lookup, Many, Maybe, NodeConfig, On, Out
from perception.runtime.output_stamper import RunContext
from tests.runtime.graphs import MS, cloud, image, join_settings, odometry, spec
from tests.runtime.lockstep_nodes import Chain, value_of

END_MS = 400
KINDS: Mapping[str, Any] = {
    "a": cloud,
    "b": cloud,
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
        seen = [self.ego.at(t_ns + shift * MS) for shift in (-500, -60, -10, 0, 10, 50)]
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
    Edge("a", "scene.sweep", PointCloud, offset_ns=5 * MS), Edge("left/image", "scene.others", Image),
    Edge("right/image", "scene.others", Image), Edge("b", "scene.near", PointCloud),
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


some_stamps = st.lists(st.integers(0, END_MS), max_size=12).map(sorted)


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(KINDS, some_stamps)), st.randoms(use_true_random=False))
def test_what_a_node_gives_does_not_depend_on_how_its_inputs_travelled(
    stamps: dict[str, list[int]], random: Any
) -> None:
    assert in_any_order(stamps, random) == in_one_order(stamps)
