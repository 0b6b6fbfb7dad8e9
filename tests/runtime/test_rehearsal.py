"""What is practised before a record comes: a record goes round, nothing grows, and nobody else sees anything of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from perception.errors import ChannelError
from perception.messages import Image
from perception.messages.codec import decode
from perception.runtime.output_stamper import RunContext
from perception.runtime.rehearsal import Rehearsal
from perception.runtime.shared_memory import Reader, SharedMemoryHost, Writer, remove_leftovers

RUN = "000005a9"


def never() -> bool:
    return False


@pytest.fixture
def loop() -> Iterator[tuple[Writer, Reader]]:
    try:
        yield SharedMemoryHost(RUN, "alone", {}, 1).loop("loop/alone")
    finally:
        remove_leftovers(RUN)


def rehearsal(loop: tuple[Writer, Reader], *, reads: bool = True, writes: bool = True) -> Rehearsal:
    return Rehearsal(lambda: loop, RunContext(run="r", clock_ns=time.time_ns), reads=reads, writes=writes)


def waiting(reader: Reader) -> list[Image]:
    """Return what waits in the loop, and leave it empty."""
    found = []
    while (record := reader.take()) is not None:
        found.append(decode(bytes(record), Image))
        del record
        reader.give_back()
    return found


@pytest.mark.parametrize("writes", [True, False])
def test_the_record_goes_round_as_often_as_asked_and_does_not_grow(
    loop: tuple[Writer, Reader], *, writes: bool
) -> None:
    going = rehearsal(loop, writes=writes)
    for _ in range(200):
        going.go_round(never)
        going.settle()
    (last,) = waiting(loop[1])
    assert last.header.seq == 198  # the first time nothing is there yet
    assert [span.stage for span in last.timing.spans] == ["rehearsal waits", "rehearsal"]
    assert loop[1].copied == 0


def test_what_only_writes_leaves_one_record_there(loop: tuple[Writer, Reader]) -> None:
    going = rehearsal(loop, reads=False)
    for _ in range(50):
        going.go_round(never)
        going.settle()
    assert [record.header.seq for record in waiting(loop[1])] == [48]


@pytest.mark.parametrize("steps", [0, 1])
def test_it_ends_where_the_real_record_is_there_and_begins_again_after(loop: tuple[Writer, Reader], steps: int) -> None:
    going = rehearsal(loop)
    for _ in range(50):
        answers = iter([False] * steps + [True] * 5)
        going.go_round(lambda answers=answers: next(answers))  # type: ignore[misc]
        going.settle()
    assert len(waiting(loop[1])) == 1


def test_until_it_is_settled_it_does_nothing_more(loop: tuple[Writer, Reader]) -> None:
    going = rehearsal(loop)
    for _ in range(50):
        going.go_round(never)
    going.settle()
    assert [record.header.seq for record in waiting(loop[1])] == [0]


def test_without_shared_memory_nothing_is_practised_and_nothing_fails() -> None:
    def refuse() -> tuple[Writer, Reader]:
        raise ChannelError("shared memory is full")

    going = Rehearsal(refuse, RunContext(), reads=True, writes=True)
    for _ in range(3):
        going.go_round(never)
        going.settle()


def test_a_record_that_shared_memory_had_no_room_for_goes_round_later(
    loop: tuple[Writer, Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    going = rehearsal(loop)
    going.go_round(never)
    going.settle()

    def refuse(record: Any) -> None:
        raise ChannelError("shared memory is full")

    with monkeypatch.context() as full:
        full.setattr(loop[0], "write", refuse)
        going.go_round(never)
        going.settle()
    assert waiting(loop[1]) == []
    going.go_round(never)
    going.settle()
    assert len(waiting(loop[1])) == 1
