"""What the shipped sources give out is theirs alone: it leaves them without a copy, and nobody can write to it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from perception.messages import Message
from perception.nodes.log_replay import LogReplay, LogReplayConfig
from perception.runtime.launch_file.load import load_launch
from perception.runtime.node import NodeSetup, Source
from perception.runtime.node_factory import make_node
from perception.runtime.ownership import settled
from tests.cli.test_event_recordings import made

LAUNCH = Path(__file__).parents[2] / "launch"


def given_out(source: Source, count: int) -> Iterator[Message]:
    yield from (item for _, item in islice(source.messages(), count) if isinstance(item, Message))


def check_ownership(message: Message) -> int:
    """Return how many arrays a message has, none of which has to be copied or can be written to."""
    complete, copied = settled(message)
    arrays = [value for name in complete.__struct_fields__ if isinstance(value := getattr(complete, name), np.ndarray)]
    assert copied == 0, type(message).__name__
    assert not any(array.flags.writeable for array in arrays)
    return len(arrays)


@pytest.mark.parametrize("name", ["street", "cabin"])
def test_the_simulated_sensors(name: str) -> None:
    graph = load_launch(LAUNCH / "car.yaml")
    source = make_node(next(spec for spec in graph.nodes if spec.name == name), graph)
    assert isinstance(source, Source)
    assert sum(check_ownership(message) for message in given_out(source, 120)) > 60


@pytest.mark.parametrize("loop", [False, True])
def test_a_replayed_recording_of_events(tmp_path: Path, loop: bool) -> None:
    config = LogReplayConfig(path=made(tmp_path / "made.raw", 500_000), loop=loop)
    source = LogReplay.create(config, NodeSetup(name="log", rig=None, inputs={}, search_folders=()))
    for _ in range(1 + loop):
        assert sum(check_ownership(message) for message in given_out(source, 1000)) > 4
        assert source.wraps() == loop
