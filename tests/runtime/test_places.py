"""Outputs made in shared memory: giving them out copies nothing, and what anybody keeps of them never changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.errors import ChannelError
from perception.messages import Header, Image
from perception.messages.codec import decode
from perception.runtime import places as module
from perception.runtime.node import Node
from perception.runtime.ownership import settled
from perception.runtime.places import Places, SourcePlaces
from perception.runtime.placing import MAX_HELD, PLACED_FROM
from perception.runtime.shared_memory import Reader, SharedMemoryHost, TopicLimits, Writer, remove_leftovers

RUN = "000005a7"
SHAPE = (200, 300, 3)
Ends = tuple[Writer, Reader]


@pytest.fixture
def ends() -> Iterator[Ends]:
    try:
        host = SharedMemoryHost(RUN, "alone", {"node/out": TopicLimits(1, 2, 4)}, 1)
        yield host.writer("node/out"), host.reader("node/out", 2, 4)
    finally:
        remove_leftovers(RUN)


def places_of(writer: Writer, driving: threading.Lock | None, announced: list[str] | None = None) -> Places:
    if driving is None:
        return Places({"out": writer.placing})
    return SourcePlaces({"out": writer.placing}, driving, ([] if announced is None else announced).extend)


def given_out(
    ends: Ends,
    value: int,
    look: Callable[[NDArray[np.uint8]], object] = lambda array: None,
    driving: threading.Lock | None = None,
) -> tuple[NDArray[np.uint8], bool]:
    """Give out a picture of one value as a node does, or with a lock as a source.

    Returns:
        What is read, and whether it lay in its place.
    """
    writer, reader = ends
    node = Node()
    places = places_of(writer, driving)
    node.placed_in(places)
    array = node.empty("out", SHAPE, np.uint8)
    array[:] = value
    look(array)
    header = Header(frame_id="cam", t_sensor_ns=value)
    message = Image(header=header, encoding="rgb8", height_px=SHAPE[0], width_px=SHAPE[1], data=array)
    if driving is None:
        del array
    message, _ = settled(message, places)
    record = writer.laid_out(message)
    writer.write(record)
    is_in_place = record.is_in_place
    del record, message
    taken = reader.take()
    assert taken is not None
    read = np.asarray(decode(taken, Image).data).copy()
    del taken
    reader.give_back()
    return read, is_in_place


def values(kept: list[Any]) -> list[int]:
    """Return the one value of each array; -1 where it has more than one."""
    arrays = [np.asarray(view) for view in kept]
    return [int(array.max()) if array.min() == array.max() else -1 for array in arrays]


@pytest.mark.parametrize("settles", [True, False])
def test_what_is_made_in_its_place_is_written_without_a_copy(ends: Ends, settles: bool) -> None:
    for value in range(40):
        read, is_in_place = given_out(ends, value)
        assert (read == value).all()
        assert read.shape == SHAPE
        assert is_in_place
        if settles:
            ends[0].settle()
    assert ends[0].placing.copied == 0


@pytest.mark.parametrize("part", [lambda array: array, lambda array: array[3:5], memoryview])
def test_what_a_node_keeps_stays_as_it_was_while_a_hundred_follow(
    ends: Ends, part: Callable[[NDArray[np.uint8]], object]
) -> None:
    kept: list[object] = []
    for value in range(MAX_HELD + 3):
        assert (given_out(ends, value, lambda array: kept.append(part(array)))[0] == value).all()
    for value in range(50, 150):
        assert (given_out(ends, value)[0] == value).all()
        ends[0].settle()
    assert values(kept) == [*range(MAX_HELD + 3)]
    assert ends[0].placing.copied == MAX_HELD  # from then on what is made is plain memory
    kept.clear()
    assert given_out(ends, 7)[1]
    assert (given_out(ends, 8)[0] == 8).all()


def test_what_a_source_goes_on_with_is_not_copied_and_stays_as_it_was(ends: Ends) -> None:
    kept: list[NDArray[np.uint8]] = []
    driving = threading.Lock()
    for value in range(150):
        read, is_in_place = given_out(ends, value, kept.append, driving)
        assert (read == value).all()
        assert is_in_place
        assert values(kept) == [*range(max(0, value - 2), value + 1)]
        with pytest.raises(ValueError, match="read-only"):
            kept[-1][:] = 0
        kept = kept[-2:]
        if value % 2:
            ends[0].settle()
    assert ends[0].placing.copied == 0


def test_what_a_source_could_still_write_to_is_copied(ends: Ends) -> None:
    parts: list[NDArray[np.uint8]] = []
    driving = threading.Lock()
    for value in range(3):
        read, _ = given_out(ends, value, lambda array: parts.append(array[1:]), driving)
        parts[-1][:] = 99
        assert (read == value).all()
    assert ends[0].placing.copied == 3


def test_a_source_that_keeps_too_many_gets_plain_memory_until_it_lets_go(ends: Ends) -> None:
    kept: list[NDArray[np.uint8]] = []
    driving = threading.Lock()
    were_in_place = [given_out(ends, value, kept.append, driving)[1] for value in range(MAX_HELD + 4)]
    assert were_in_place == [True] * MAX_HELD + [False] * 4
    assert values(kept) == [*range(MAX_HELD + 4)]
    kept.clear()
    assert given_out(ends, 9, kept.append, driving)[1]


def test_a_source_does_not_wait_for_its_place_while_the_channels_are_in_use(ends: Ends) -> None:
    driving = threading.Lock()
    places = places_of(ends[0], driving)
    with driving:
        assert not places.hold(places.empty("out", SHAPE, np.uint8))
    assert places.hold(places.empty("out", SHAPE, np.uint8))
    assert not driving.locked()


def test_records_of_other_arrays_may_come_between(ends: Ends) -> None:
    writer, reader = ends
    kept: list[NDArray[np.uint8]] = []
    for value in range(30):
        assert given_out(ends, value, kept.append, threading.Lock())[1]
        small = Image(
            header=Header(frame_id="cam", t_sensor_ns=1), encoding="jpeg", height_px=1, width_px=1,
            data=np.full(value * 5000, value, np.uint8),
        )  # fmt: skip
        for _ in range(3):
            writer.write(writer.laid_out(small))
            taken = reader.take()
            assert taken is not None
            assert (np.asarray(decode(taken, Image).data) == value).all()
            del taken
            reader.give_back()
        assert values(kept) == [*range(max(0, value - 1), value + 1)]
        kept = kept[-1:]


def test_a_record_that_does_not_come_back_to_its_writer_is_an_error(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_out(ends, 1)
    ends[0].settle()
    monkeypatch.setattr(ends[0].placing, "_own", type("Deaf", (), {"receive": lambda self: None})())
    given_out(ends, 2)
    with pytest.raises(ChannelError, match="own record"):
        ends[0].settle()


def test_what_is_made_and_never_given_out_costs_no_place(ends: Ends) -> None:
    places = Places({"out": ends[0].placing})
    for _ in range(20):
        places.empty("out", SHAPE, np.uint8)
    given_up = places.empty("out", SHAPE, np.uint8)
    assert places.hold(given_up)
    second = places.empty("out", SHAPE, np.uint8)  # while the first may still be given out
    assert not places.hold(second)
    second[:], given_up[:] = 2, 1
    assert (given_up == 1).all()
    del given_up
    assert (given_out(ends, 3)[0] == 3).all()


def test_small_arrays_and_other_outputs_are_plain_memory(ends: Ends) -> None:
    places = Places({"out": ends[0].placing})
    assert not places.hold(places.empty("out", (PLACED_FROM - 1,), np.uint8))
    assert not places.hold(places.empty("another", SHAPE, np.uint8))
    assert places.hold(places.empty("out", (PLACED_FROM,), np.uint8))


def test_a_node_that_runs_without_shared_memory_makes_plain_arrays() -> None:
    array = Node().empty("out", (3, 4), np.float32)
    assert array.shape == (3, 4)
    assert array.dtype == np.float32
    assert array.base is None


def asked_and_sent(source: Node, places: SourcePlaces, seconds: float = 0.0) -> None:
    source.empty("out", (10,), np.uint8)
    time.sleep(seconds)
    places.gave_out("out")


def test_readers_are_woken_when_a_source_asks_for_memory_that_it_fills_quickly(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SENT_NS", 50_000_000)
    announced: list[str] = []
    places = SourcePlaces({"out": ends[0].placing}, threading.Lock(), announced.extend)
    source = Node()
    source.placed_in(places)
    counts = []
    for seconds in (0.0, 0.0, 0.06, 0.0, 0.0):  # the last time tells of the next
        asked_and_sent(source, places, seconds)
        counts.append(len(announced))
    assert counts == [0, 1, 2, 2, 3]
    assert set(announced) == {"out"}


def test_what_is_given_out_without_having_asked_for_memory_announces_nothing(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SENT_NS", 10**12)
    announced: list[str] = []
    places = SourcePlaces({"out": ends[0].placing}, threading.Lock(), announced.extend)
    source = Node()
    source.placed_in(places)
    asked_and_sent(source, places)
    places.gave_out("out")
    asked_and_sent(source, places)
    assert announced == []


def test_a_source_announces_nothing_while_the_channels_are_in_use(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SENT_NS", 10**12)
    announced: list[str] = []
    driving = threading.Lock()
    places = SourcePlaces({"out": ends[0].placing}, driving, announced.extend)
    source = Node()
    source.placed_in(places)
    asked_and_sent(source, places)
    with driving:
        asked_and_sent(source, places)
    assert announced == []
    asked_and_sent(source, places)
    assert announced == ["out"]
