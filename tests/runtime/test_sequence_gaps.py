"""Messages that a channel replaced are counted by the numbers that publishers give them."""

from __future__ import annotations

from perception.messages import Header
from perception.runtime.sequence_gaps import SequenceGaps


def header(seq: int, epoch: int = 0) -> Header:
    return Header(t_sensor_ns=0, frame_id="", seq=seq, epoch=epoch)


def test_what_is_missing_between_two_messages_or_before_the_first_is_lost() -> None:
    gaps = SequenceGaps()
    assert [gaps.lost("a", header(seq)) for seq in (2, 3, 7)] == [2, 0, 3]
    assert gaps.lost("b", header(0)) == 0


def test_in_a_new_epoch_a_publisher_begins_at_0() -> None:
    gaps = SequenceGaps()
    assert [gaps.lost("a", header(*given)) for given in ((5, 0), (0, 1), (3, 2))] == [5, 0, 3]


def test_a_reader_that_comes_in_between_misses_nothing_before_its_first_message() -> None:
    gaps = SequenceGaps()
    assert [gaps.lost("a", header(seq), was_there=False) for seq in (40, 42)] == [0, 1]


def test_a_message_that_comes_again_is_no_gap() -> None:
    gaps = SequenceGaps()
    assert [gaps.lost("a", header(seq)) for seq in (0, 1, 1)] == [0, 0, -1]
