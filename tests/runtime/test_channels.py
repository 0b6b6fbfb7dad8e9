"""What one process writes for the others: each record is rung once it is there, and announced once before."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from perception.messages import PointCloud
from perception.runtime.channels import Channels
from perception.runtime.graph import NodeSpec
from perception.runtime.node import NodeConfig
from perception.runtime.shared_memory import remove_leftovers, root_of
from perception.runtime.topology import LAUNCHER, topology_of
from tests.runtime.executors import lidar_edge
from tests.runtime.graphs import cloud, graph

RUN = "000005a4"
ANNOUNCED, RUNG = b"\1", b"\0"


@pytest.fixture
def channels() -> Iterator[Channels]:
    lidar = NodeSpec(
        name="lidar", target="tests.runtime.graphs:Script", config=NodeConfig(), process="lidar", edges=(),
        outputs={"points": "lidar/points"}, is_source=True,
    )  # fmt: skip
    watcher = NodeSpec(
        name="watcher", target="tests.runtime.executors:Watcher", config=NodeConfig(), process="watcher",
        edges=(lidar_edge(),), outputs={},
    )  # fmt: skip
    of_two = graph([lidar, watcher], {"lidar/points": PointCloud})
    try:
        yield Channels(of_two, topology_of(of_two, recorded=True), "lidar", RUN)
    finally:
        remove_leftovers(RUN)


def rung(process: str) -> bytes:
    """Return what was written to a process' pipe since this was last asked."""
    pipe = os.open(root_of(RUN) / f"wake_{process}", os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(pipe, 100)
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


def test_the_launcher_is_rung_without_announcement(channels: Channels) -> None:
    channels.emit("lidar/points", cloud(0))
    assert rung(LAUNCHER) == RUNG
