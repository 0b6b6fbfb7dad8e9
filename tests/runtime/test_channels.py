"""What one process writes for the others: each record is rung once it is there, and announced once before.

Lidar, watcher and scribe are a process each, and read one another in this order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from perception.messages import PointCloud
from perception.runtime.channels import Channels
from perception.runtime.graph import Graph, NodeSpec
from perception.runtime.node import NodeConfig
from perception.runtime.shared_memory import remove_leftovers, root_of
from perception.runtime.topology import LAUNCHER, distance_to_keep, topology_of
from tests.runtime.executors import lidar_edge
from tests.runtime.graphs import cloud, graph

RUN = "000005a4"
ANNOUNCED, RUNG = b"\1", b"\0"


def of_three() -> Graph:
    lidar = NodeSpec(
        name="lidar", target="tests.runtime.graphs:Script", config=NodeConfig(), process="lidar", edges=(),
        outputs={"points": "lidar/points"}, is_source=True,
    )  # fmt: skip
    watcher = NodeSpec(
        name="watcher", target="tests.runtime.executors:Watcher", config=NodeConfig(), process="watcher",
        edges=(lidar_edge(),), outputs={"seen": "watcher/seen"},
    )  # fmt: skip
    scribe = NodeSpec(
        name="scribe", target="tests.runtime.executors:Watcher", config=NodeConfig(), process="scribe",
        edges=(replace(lidar_edge(), topic="watcher/seen"),), outputs={},
    )  # fmt: skip
    return graph([lidar, watcher, scribe], {"lidar/points": PointCloud, "watcher/seen": PointCloud})


def channels_of(process: str) -> Channels:
    return Channels(of_three(), topology_of(of_three(), recorded=True), process, RUN)


@pytest.fixture
def channels() -> Iterator[Channels]:
    try:
        yield channels_of("lidar")
    finally:
        remove_leftovers(RUN)


def rung(process: str) -> bytes:
    """Return what was written to a process' pipe since this was last asked."""
    pipe = os.open(root_of(RUN) / f"wake_{process}", os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(pipe, 100)
    except BlockingIOError:
        return b""
    finally:
        os.close(pipe)


def test_a_record_is_announced_before_it_is_written_and_rung_after(channels: Channels) -> None:
    for t_ms in (0, 100):
        channels.emit("lidar/points", cloud(t_ms))
        assert rung("watcher") == ANNOUNCED + RUNG


def test_what_was_announced_as_its_call_began_is_not_announced_again(channels: Channels) -> None:
    channels.announce(["lidar/points"])
    assert rung("watcher") == ANNOUNCED
    channels.emit("lidar/points", cloud(0))
    assert rung("watcher") == RUNG


def test_who_asks_for_one_announcement_gets_one(channels: Channels) -> None:
    channels.announce_once("lidar/points")
    channels.announce_once("lidar/points")
    assert rung("watcher") == ANNOUNCED


def test_the_launcher_is_rung_without_announcement(channels: Channels) -> None:
    channels.emit("lidar/points", cloud(0))
    assert rung(LAUNCHER) == RUNG


def test_who_waits_for_an_answer_is_told_once_what_it_answers_is_written(channels: Channels) -> None:
    channels_of("watcher").settle(answers_at_once=True)
    channels.announce(["lidar/points"])
    assert rung("scribe") == b""
    channels.emit("lidar/points", cloud(0))
    assert rung("scribe") == ANNOUNCED


def test_nobody_waits_for_the_answers_of_who_takes_its_time(channels: Channels) -> None:
    watcher = channels_of("watcher")
    watcher.settle(answers_at_once=True)
    watcher.settle(answers_at_once=False)
    channels.emit("lidar/points", cloud(0))
    assert rung("scribe") == b""


def test_who_answers_at_once_leaves_it_to_others_to_say_so(channels: Channels) -> None:
    watcher = channels_of("watcher")
    watcher.settle(answers_at_once=True)
    watcher.announce(["watcher/seen"])
    watcher.emit("watcher/seen", cloud(0))
    assert rung("scribe") == RUNG
    watcher.settle(answers_at_once=False)
    watcher.emit("watcher/seen", cloud(100))
    assert rung("scribe") == ANNOUNCED + RUNG


def test_what_answers_nothing_is_announced_by_its_source(channels: Channels) -> None:
    channels.settle(answers_at_once=True)
    channels.emit("lidar/points", cloud(0))
    assert rung("watcher") == ANNOUNCED + RUNG


def test_each_process_is_one_record_farther_from_the_sources_than_what_feeds_it() -> None:
    topology = topology_of(of_three())
    assert [topology.distance(process) for process in ("lidar", "watcher", "scribe")] == [0, 1, 2]


def test_who_was_given_cores_and_who_has_sources_and_nodes_keeps_no_distance() -> None:
    lidar, watcher, scribe = of_three().nodes
    types = of_three().message_types
    placed = graph([lidar, replace(watcher, cores=(0,)), scribe], types)
    mixed = graph([replace(lidar, process="watcher"), watcher, scribe], types)
    assert [distance_to_keep(placed, topology_of(placed), name) for name in ("lidar", "watcher", "scribe")] == [
        0,
        None,
        2,
    ]
    assert [distance_to_keep(mixed, topology_of(mixed), name) for name in ("watcher", "scribe")] == [None, 1]


def test_the_distance_of_processes_that_feed_each_other_alone_ends_somewhere() -> None:
    first, second = of_three().nodes[1:]
    circle = graph(
        [replace(first, edges=(replace(lidar_edge(), topic="scribe/said"),)),
         replace(second, outputs={"said": "scribe/said"})],
        {"watcher/seen": PointCloud, "scribe/said": PointCloud},
    )  # fmt: skip
    assert [topology_of(circle).distance(process) for process in ("watcher", "scribe")] == [1, 1]
