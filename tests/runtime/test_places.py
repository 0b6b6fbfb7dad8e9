"""Outputs made in shared memory: giving them out copies nothing, and what a node keeps of them never changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.messages import Header, Image
from perception.messages.codec import decode, encode
from perception.runtime.node import Node
from perception.runtime.places import Places
from perception.runtime.shared_memory import (
    MAX_KEPT,
    PLACED_AT,
    PLACED_FROM,
    Reader,
    SharedMemoryHost,
    TopicLimits,
    Writer,
    remove_leftovers,
)

RUN = "000005a7"
SHAPE = (200, 300, 3)


@pytest.fixture
def ends() -> Iterator[tuple[Writer, Reader]]:
    try:
        host = SharedMemoryHost(RUN, "alone", {"node/out": TopicLimits(1, 2, 4)}, 1)
        yield host.writer("node/out"), host.reader("node/out", 2, 4)
    finally:
        remove_leftovers(RUN)


def given_out(
    ends: tuple[Writer, Reader], value: int, look: Callable[[NDArray[np.uint8]], object] = lambda array: None
) -> tuple[NDArray[np.uint8], int]:
    """Give out a picture of one value as a node does, and return what is read, and where in its record it begins."""
    writer, reader = ends
    node = Node()
    node.placed_in(Places({"out": writer}))
    array = node.empty("out", SHAPE, np.uint8)
    array[:] = value
    look(array)
    header = Header(frame_id="cam", t_sensor_ns=value)
    message = Image(header=header, encoding="rgb8", height_px=SHAPE[0], width_px=SHAPE[1], data=array)
    del array
    record = encode(message, writer.first_at(message))
    assert isinstance(message.data, np.ndarray)
    at = record.where_first(message.data)
    assert at is not None
    writer.write(record)
    del record, message
    taken = reader.take()
    assert taken is not None
    read = np.asarray(decode(taken, Image).data).copy()
    del taken
    reader.give_back()
    return read, at


def test_what_is_made_in_its_place_is_written_without_a_copy(ends: tuple[Writer, Reader]) -> None:
    for value in range(40):
        read, at = given_out(ends, value)
        assert (read == value).all()
        assert read.shape == SHAPE
        assert at == PLACED_AT
    assert ends[0].copied == 0


@pytest.mark.parametrize("part", [lambda array: array, lambda array: array[3:5], memoryview])
def test_what_a_node_keeps_stays_as_it_was_while_a_hundred_follow(
    ends: tuple[Writer, Reader], part: Callable[[NDArray[np.uint8]], object]
) -> None:
    kept: list[object] = []
    for value in range(5):
        assert (given_out(ends, value, lambda array: kept.append(part(array)))[0] == value).all()
    for value in range(50, 150):
        assert (given_out(ends, value)[0] == value).all()
    assert (
        [int(np.asarray(view).max()) for view in kept] == [int(np.asarray(view).min()) for view in kept] == [*range(5)]
    )
    assert ends[0].copied == MAX_KEPT  # from then on what is made is plain memory
    kept.clear()
    assert given_out(ends, 7)[1] == PLACED_AT
    assert (given_out(ends, 8)[0] == 8).all()


def test_what_is_made_and_never_given_out_costs_no_place(ends: tuple[Writer, Reader]) -> None:
    places = Places({"out": ends[0]})
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


def test_small_arrays_and_other_outputs_are_plain_memory(ends: tuple[Writer, Reader]) -> None:
    places = Places({"out": ends[0]})
    assert not places.hold(places.empty("out", (PLACED_FROM - 1,), np.uint8))
    assert not places.hold(places.empty("another", SHAPE, np.uint8))
    assert places.hold(places.empty("out", (PLACED_FROM,), np.uint8))


def test_a_node_that_runs_without_shared_memory_makes_plain_arrays() -> None:
    array = Node().empty("out", (3, 4), np.float32)
    assert array.shape == (3, 4)
    assert array.dtype == np.float32
    assert array.base is None
