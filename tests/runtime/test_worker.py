"""One process of a graph, in this one: when it practises, and when it tidies up."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from perception.errors import PerceptionError
from perception.messages import Message, PointCloud
from perception.messages.codec import decode
from perception.runtime import worker as module
from perception.runtime.channels import Channels
from perception.runtime.graph import Graph, NodeSpec
from perception.runtime.node import Bound, Node, NodeConfig, On, Out
from perception.runtime.rehearsal import Rehearsal
from perception.runtime.shared_memory import remove_leftovers
from perception.runtime.topology import topology_of
from perception.runtime.worker import Worker
from tests.runtime.executors import lidar_edge
from tests.runtime.graphs import Script, cloud, graph

RUN = "000005aa"
ENOUGH_S = 30.0


class Counting(Node):
    """Numbers what it is given."""

    sweep = On[PointCloud](keep="all", bound=100)
    seen = Out[PointCloud]()

    def __init__(self, config: NodeConfig) -> None:
        super().__init__(config)
        self.calls = 0

    def on_sweep(self, sweep: PointCloud) -> PointCloud:
        self.calls += 1
        return PointCloud(header=sweep.header, xyz_m=sweep.xyz_m, intensity_scale=float(self.calls))


def of_three() -> Graph:
    lidar = NodeSpec(
        name="lidar", target="tests.runtime.graphs:Script", config=NodeConfig(), process="lidar", edges=(),
        outputs={"points": "lidar/points"}, is_source=True,
    )  # fmt: skip
    counter = NodeSpec(
        name="counter", target=f"{__name__}:Counting", config=NodeConfig(), process="counter",
        edges=(lidar_edge(keep="all", bound=100),), outputs={"seen": "counter/seen"},
    )  # fmt: skip
    scribe = NodeSpec(
        name="scribe", target="tests.runtime.executors:Watcher", config=NodeConfig(), process="scribe",
        edges=(replace(lidar_edge(keep="all", bound=100), topic="counter/seen"),), outputs={},
    )  # fmt: skip
    return graph([lidar, counter, scribe], {"lidar/points": PointCloud, "counter/seen": PointCloud})


@pytest.fixture
def threads_keep_their_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has the whole process to itself, but not here."""
    for name in ("freeze", "disable"):
        monkeypatch.setattr(gc, name, lambda: None)


@pytest.mark.usefixtures("threads_keep_their_collector")
def test_a_process_practises_for_what_is_announced_and_its_nodes_and_readers_see_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds: list[Rehearsal] = []
    go_round = Rehearsal.go_round

    def counted(rehearsal: Rehearsal, is_over: Callable[[], bool]) -> None:
        rounds.append(rehearsal)
        go_round(rehearsal, is_over)

    monkeypatch.setattr(Rehearsal, "go_round", counted)
    try:
        lidar, scribe = (Channels(of_three(), topology_of(of_three()), name, RUN) for name in ("lidar", "scribe"))
        worker = Worker(of_three(), topology_of(of_three()), "counter", RUN, 0)
        worker.start()
        numbers: list[float] = []
        until_s = time.monotonic() + ENOUGH_S
        while len(rounds) < 5 and time.monotonic() < until_s:
            lidar.announce(["lidar/points"])
            time.sleep(0.0002)  # as long as a source fills its memory
            lidar.emit("lidar/points", cloud(100 * len(numbers)))
            while (record := scribe.readers["counter/seen"].take()) is None and time.monotonic() < until_s:
                time.sleep(0.001)
            assert record is not None
            numbers.append(decode(bytes(record), PointCloud).intensity_scale)
            time.sleep(0.01)
        assert len(rounds) >= 5
        assert numbers == [*range(1, len(numbers) + 1)]
        worker.stop()
        worker.wait()
    finally:
        remove_leftovers(RUN)


@pytest.mark.usefixtures("threads_keep_their_collector")
def test_a_process_of_sources_alone_collects_what_they_leave_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[int] = []
    try:
        worker = Worker(of_three(), topology_of(of_three()), "lidar", RUN, 0)
        monkeypatch.setattr(gc, "collect", lambda generation=2: collected.append(generation))
        worker.start()
        until_s = time.monotonic() + ENOUGH_S
        while collected.count(0) < 2 and time.monotonic() < until_s:
            time.sleep(0.01)
        assert collected.count(0) >= 2
        worker.stop()
        worker.wait()
    finally:
        remove_leftovers(RUN)


class Broken(Script):
    """A source with a bug."""

    def messages(self) -> Iterator[tuple[str, Message | Bound]]:
        raise ValueError("no such register")


@pytest.mark.usefixtures("threads_keep_their_collector")
def test_whoever_waits_for_the_end_is_told_of_the_source_that_failed_however_long_that_is_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[bool] = []
    lidar, *others = of_three().nodes
    broken = graph([replace(lidar, target=f"{__name__}:Broken"), *others], of_three().message_types)
    try:
        worker = Worker(broken, topology_of(broken), "lidar", RUN, 0)

        def slowly(*texts: object, **more: object) -> None:
            time.sleep(0.3)
            ended.append(worker.sources_ended())

        monkeypatch.setattr(module.LOG, "error", slowly)
        worker.start()
        with pytest.raises(PerceptionError, match="source 'lidar' failed: ValueError: no such register"):
            worker.wait()
        assert ended == [False]  # a run whose sources have ended is a good one
    finally:
        remove_leftovers(RUN)
