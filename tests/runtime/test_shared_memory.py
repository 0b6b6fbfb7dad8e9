"""Records in shared memory: what is read is what was written, for as long as anybody looks at it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from perception.errors import ChannelError
from perception.messages import Header, PointCloud
from perception.messages.codec import decode, encode
from perception.runtime import shared_memory
from perception.runtime.shared_memory import Reader, SharedMemoryHost, TopicLimits, Writer, remove_leftovers

RUN = "000005a3"
BUFFER, BORROWED = 2, 4


@pytest.fixture
def ends() -> Iterator[tuple[Writer, Reader]]:
    try:
        host = SharedMemoryHost(RUN, "alone", {"points": TopicLimits(1, BUFFER, BORROWED)}, 1)
        yield host.writer("points"), host.reader("points", BUFFER, BORROWED)
    finally:
        remove_leftovers(RUN)


def cloud(number: int, points: int = 100) -> PointCloud:
    header = Header(frame_id="lidar", t_sensor_ns=number, seq=number)
    return PointCloud(header=header, xyz_m=np.full((points, 3), number, np.float32))


def sent(writer: Writer, reader: Reader, number: int, points: int = 100) -> PointCloud:
    """Send a cloud and return what the reader takes, which has nothing else waiting."""
    writer.write(encode(cloud(number, points)))
    record = reader.take()
    assert record is not None
    return decode(record, PointCloud)


def test_a_part_of_an_array_stays_as_it_was_while_hundreds_of_records_follow(ends: tuple[Writer, Reader]) -> None:
    corner = np.asarray(sent(*ends, number=7).xyz_m)[1:3, :2]  # the record and the message are gone
    for number in range(8, 300):
        ends[1].give_back()
        assert (np.asarray(sent(*ends, number=number).xyz_m) == number).all()
    assert (corner == 7).all()
    assert not corner.flags.writeable
    assert ends[1].copied == 0


def test_records_that_nobody_looks_at_any_more_make_room_without_being_asked(ends: tuple[Writer, Reader]) -> None:
    for number in range(100):
        assert sent(*ends, number=number).header.seq == number
    assert ends[1].copied == 0


def test_whoever_keeps_more_than_it_may_gets_copies_that_do_not_change_either(ends: tuple[Writer, Reader]) -> None:
    kept = [sent(*ends, number=number) for number in range(BORROWED + 3)]
    for number in range(50, 80):
        sent(*ends, number=number)
    assert ends[1].copied == 3 + 30
    assert [float(np.asarray(message.xyz_m).max()) for message in kept] == [*range(BORROWED + 3)]
    del kept
    sent(*ends, number=80)
    assert ends[1].copied == 3 + 30


def test_records_of_any_size_follow_each_other(ends: tuple[Writer, Reader]) -> None:
    sizes = [1, 100_000, 3, 200_000, 0, 50, 100_000, 300_000, 2, 1, 1, 1, 300_000, 7]
    for number, points in enumerate(sizes * 3):
        array = np.asarray(sent(*ends, number=number, points=points).xyz_m)
        assert array.shape == (points, 3)
        assert (array == number).all()
        assert array.ctypes.data % 64 == 0 or not points


def test_the_oldest_of_what_waits_is_replaced(ends: tuple[Writer, Reader]) -> None:
    writer, reader = ends
    for number in range(5):
        writer.write(encode(cloud(number)))
    taken = [decode(record, PointCloud).header.seq for record in iter(reader.take, None)]
    assert taken == [3, 4]


def test_a_records_cuts_come_with_it_as_long_as_it_is_lent(ends: tuple[Writer, Reader]) -> None:
    kept = []
    for number in range(BORROWED):
        record = encode(cloud(number, 10 + number))
        ends[0].write(record)
        kept.append(ends[1].take())
        assert ends[1].cuts == record.cuts
    ends[0].write(encode(cloud(9)))
    kept.append(ends[1].take())
    assert ends[1].cuts is None  # a copy: its place may hold another record by now


@pytest.mark.parametrize("sizes", [[7, 7, 7, 7], [7, 7, 900, 900, 900, 7, 7], [7, 7, 7, 90_000, 7]])
def test_a_place_that_was_made_ready_holds_what_comes_of_any_size(
    ends: tuple[Writer, Reader], sizes: list[int]
) -> None:
    for number, points in enumerate(sizes * 5):
        array = np.asarray(sent(*ends, number=number, points=points).xyz_m)
        assert array.shape == (points, 3)
        assert (array == number).all()
        ends[0].settle()


def test_where_memory_is_full_what_needs_no_more_of_it_is_still_written(
    ends: tuple[Writer, Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):  # in every place that there is
        sent(*ends, number=number)
        ends[0].settle()
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: 0)
    monkeypatch.setattr(shared_memory, "LOOK_S", 0.0)
    monkeypatch.setattr(shared_memory, "_ROOM", shared_memory._Room())
    assert sent(*ends, number=60).header.seq == 60
    with pytest.raises(ChannelError, match="full"):
        ends[0].write(encode(cloud(61, points=10_000)))
    assert sent(*ends, number=62).header.seq == 62
