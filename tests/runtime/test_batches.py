"""Inputs with `batch`: live a call takes what waits, in lockstep the messages of one stamp; one bad one goes alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import pytest

from perception.errors import EngineError
from perception.messages import Image, Message, Timing
from perception.runtime.executor import NodeExecutor
from perception.runtime.graph import Edge
from perception.runtime.histories import AFTER_ALL
from perception.runtime.inline_runner import run_inline
from perception.runtime.node import Drop, Node, On, Out
from perception.runtime.output_stamper import RunContext
from tests.runtime.graphs import MS, Script, graph, image, spec

CAMERAS = ("left", "front", "right")
TOPICS = {f"{camera}/image": Image for camera in CAMERAS}


class Batcher(Node):
    """Copies pictures; one of value 13 cannot be read, one of value 99 breaks the engine."""

    image = On[Image](keep="latest", batch=True)
    copy = Out[Image](per="image")

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, int]] = []

    def on_image(self, images: Mapping[str, Image]) -> Iterator[tuple[str, Message] | Drop]:
        self.calls.append({sensor: picture.header.t_sensor_ns // MS for sensor, picture in images.items()})
        for sensor, picture in images.items():
            value = int(picture.data[0, 0, 0])  # type: ignore[index]
            if value == 99:
                raise EngineError("the engine broke")
            yield Drop(sensor, "cannot be read") if value == 13 else (f"copy/{sensor}", picture)


def edges(keep: str = "latest") -> list[Edge]:
    return [Edge(topic, "image", Image, keep=keep) for topic in TOPICS]  # type: ignore[arg-type]


def outputs() -> dict[str, str]:
    return {f"copy/{camera}": f"node/{camera}/copy" for camera in CAMERAS}


def executor(node: Node, *, keep: str = "latest", lockstep: bool = False) -> NodeExecutor:
    ranks = {topic: rank for rank, topic in enumerate(TOPICS)}
    return NodeExecutor(spec("node", edges(keep), outputs()), node, ranks, RunContext(lockstep=lockstep))


def test_live_a_call_takes_what_waits_and_does_not_wait_for_the_others() -> None:
    node = Batcher()
    running = executor(node)
    running.offer("left/image", image(10))
    running.offer("right/image", image(12))
    assert running.run_next() is not None
    running.offer("front/image", image(11))
    assert running.run_next() is not None
    assert running.run_next() is None
    assert node.calls == [{"left": 10, "right": 12}, {"front": 11}]


def test_live_each_camera_gives_one_picture_to_a_call() -> None:
    node = Batcher()
    running = executor(node, keep="all")
    for t_ms in (0, 100):
        running.offer("left/image", image(t_ms))
    running.offer("front/image", image(50))
    while running.run_next() is not None:
        pass
    assert node.calls == [{"left": 0, "front": 50}, {"left": 100}]


ARRIVALS = (("left/image", 0), ("front/image", 0), ("right/image", 5), ("front/image", 5))


@pytest.mark.parametrize("order", [o for o in itertools.permutations(range(4)) if o.index(1) < o.index(3)])
def test_in_lockstep_a_batch_is_of_one_stamp_however_the_pictures_travelled(order: Sequence[int]) -> None:
    node = Batcher()
    running = executor(node, keep="all", lockstep=True)
    for topic, t_ms in (ARRIVALS[index] for index in order):  # one topic keeps its own order
        running.offer(topic, image(t_ms))
        while running.run_next() is not None:
            pass
    for topic in TOPICS:
        running.bound(topic, AFTER_ALL)
    while running.run_next() is not None:
        pass
    assert node.calls == [{"left": 0, "front": 0}, {"front": 5, "right": 5}]


def test_one_bad_picture_removes_only_itself_and_is_charged_to_its_own_topic() -> None:
    running = executor(Batcher())
    for topic, value in (("left/image", 1), ("front/image", 13), ("right/image", 3)):
        running.offer(topic, image(10, value))
    produced = running.run_next() or []
    assert [topic for topic, _ in produced] == ["node/left/copy", "node/right/copy"]
    dropped = {topic: dict(running.counters[topic].dropped) for topic in TOPICS}
    assert dropped == {"left/image": {}, "front/image": {"cannot be read": 1}, "right/image": {}}


def test_an_engine_that_breaks_costs_each_picture_of_the_batch_once() -> None:
    running = executor(Batcher())
    for topic, value in (("left/image", 13), ("front/image", 99)):
        running.offer(topic, image(10, value))
    assert running.run_next() == []
    assert dict(running.counters["left/image"].dropped) == {"the engine broke": 1}
    assert dict(running.counters["front/image"].dropped) == {"the engine broke": 1}
    assert dict(running.counters["right/image"].dropped) == {}


def test_each_output_leaves_under_its_own_stamp_and_times_of_reception() -> None:
    running = executor(Batcher())
    for topic, t_ms in (("left/image", 10), ("right/image", 12)):
        picture = image(t_ms)
        timed = type(picture)(
            header=picture.header, timing=Timing(t_received_ns=t_ms * 7), encoding="rgb8", height_px=2, width_px=2,
            data=picture.data,
        )  # fmt: skip
        running.offer(topic, timed)
    found = {
        topic: (message.header.t_sensor_ns // MS, message.timing.t_received_ns)
        for topic, message in running.run_next() or []
    }
    assert found == {"node/left/copy": (10, 70), "node/right/copy": (12, 84)}


def test_a_replay_in_lockstep_batches_equal_stamps_to_the_end_of_the_log() -> None:
    script = [(topic, image(t_ms)) for t_ms in (0, 100, 200) for topic in TOPICS]
    sources = spec("log", outputs={topic: topic for topic in TOPICS}, source=True)
    node = Batcher()
    whole = graph([sources, spec("node", edges("all"), outputs())], TOPICS, mode="lockstep")
    result = run_inline(whole, nodes={"log": Script(script), "node": node})
    assert node.calls == [dict.fromkeys(CAMERAS, t_ms) for t_ms in (0, 100, 200)]
    assert result.messages["node/front/copy"] == 3
