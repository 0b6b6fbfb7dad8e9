"""Slices: hand-worked borders, the same for any packets, and an account that always balances."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.errors import ShapeError
from perception.ops.event_slices import By, EventSlice, EventSlicer, SliceRule, StampSlicer, slicer_of
from perception.ops.events import Events

Spans = list[tuple[int, int, list[int], int]]


def at(*times: int) -> Events:
    return Events.of(times, np.arange(len(times)) % 100, np.zeros(len(times)), np.ones(len(times)))


def spans(slices: list[EventSlice]) -> Spans:
    return [(piece.begin_ns, piece.end_ns, piece.events.t_ns.tolist(), piece.dropped) for piece in slices]


def cut(rule: SliceRule, *packets: Events) -> Spans:
    slicer = slicer_of(rule)
    found = [piece for packet in packets for piece in slicer.add(packet)]
    return spans(found + slicer.finish())


def test_slices_by_time_end_at_whole_multiples_and_empty_ones_count() -> None:
    assert cut(SliceRule("time", period_ns=10), at(12, 19, 20), at(45)) == [
        (10, 20, [12, 19], 0), (20, 30, [20], 0), (30, 40, [], 0), (40, 46, [45], 0),
    ]  # fmt: skip


def test_slices_by_time_pass_over_a_long_silence_and_the_next_one_says_so() -> None:
    slicer = EventSlicer(SliceRule("time", period_ns=10, max_gap_ns=50))
    found = slicer.add(at(12)) + slicer.add(at(1005)) + slicer.finish()
    assert spans(found) == [(10, 20, [12], 0), (1000, 1006, [1005], 0)]
    assert [piece.after_gap for piece in found] == [False, True]


def test_slices_by_count_may_part_events_of_one_instant() -> None:
    assert cut(SliceRule("count", count=2), at(5, 5, 5), at(9)) == [(5, 6, [5, 5], 0), (5, 10, [5, 9], 0)]


def test_adaptive_slices_end_by_whichever_comes_first() -> None:
    rule = SliceRule("adaptive", period_ns=100, count=3)
    assert cut(rule, at(0, 1, 2, 3, 50, 200)) == [(0, 3, [0, 1, 2], 0), (3, 103, [3, 50], 0), (200, 201, [200], 0)]


def test_a_slice_is_never_shorter_than_its_least_time() -> None:
    rule = SliceRule("adaptive", period_ns=100, count=2, min_ns=10)
    assert cut(rule, at(0, 1, 2, 11, 12)) == [(0, 12, [0, 1, 2, 11], 0), (12, 13, [12], 0)]


def test_slices_at_the_stamps_of_another_sensor_whichever_comes_first() -> None:
    slicer = StampSlicer(SliceRule("stamps"))
    assert slicer.add(at(1, 5, 9)) == []
    assert spans(slicer.stamp(5)) == [(1, 5, [1], 0)]
    assert slicer.stamp(12) == []
    assert slicer.stamp(20) == []
    assert spans(slicer.add(at(12, 13, 30))) == [(5, 12, [5, 9], 0), (12, 20, [12, 13], 0)]
    assert slicer.stamp(3) == []  # older than one before: passed over
    assert spans(slicer.finish()) == [(20, 31, [30], 0)]


def test_events_that_wait_for_a_stamp_that_does_not_come_are_bounded_and_counted() -> None:
    slicer = StampSlicer(SliceRule("stamps", max_events=2))
    slicer.add(at(*range(10)))
    assert slicer.account.waiting == 4
    assert spans(slicer.stamp(9)) == [(0, 9, [0, 2], 8)]  # four waited, every second is kept; six did not fit
    assert slicer.account.received == 10
    assert slicer.account.balanced


def test_overload_keeps_every_second_fourth_eighth_event() -> None:
    rule = SliceRule("time", period_ns=100, max_events=3)
    assert cut(rule, at(*range(0, 9))) == [(0, 9, [0, 4, 8], 6)]
    assert cut(rule, at(0, 1, 2, 3)) == [(0, 4, [0, 2], 2)]


def test_what_was_lost_on_the_way_or_comes_too_late_is_in_the_account_and_in_the_slice() -> None:
    slicer = EventSlicer(SliceRule("time", period_ns=10))
    slicer.add(at(1, 5))
    slicer.add(at(4, 7), lost=3)
    (piece,) = slicer.finish()
    assert (piece.events.t_ns.tolist(), piece.dropped) == ([1, 5, 7], 4)
    assert slicer.account.line() == (
        "events: 7 in = 3 out + 4 dropped (3 lost before they came here, 1 earlier than an event before them); "
        "0 wait in the open slice"
    )


def test_a_promise_of_silence_ends_slices() -> None:
    slicer = EventSlicer(SliceRule("time", period_ns=10))
    slicer.add(at(1))
    assert spans(slicer.advance(25)) == [(0, 10, [1], 0), (10, 20, [], 0)]


def test_a_reset_drops_the_open_slice_and_says_so() -> None:
    slicer = EventSlicer(SliceRule("time", period_ns=10))
    slicer.add(at(1, 2))
    slicer.reset()
    found = slicer.add(at(0)) + slicer.finish()
    assert spans(found) == [(0, 1, [0], 0)]
    assert found[0].after_gap
    assert slicer.account.dropped.total() == 2
    assert slicer.account.balanced


@pytest.mark.parametrize("wrong", [{"period_ns": 0}, {"count": 0}, {"max_events": 1}, {"min_ns": -1}])
def test_numbers_that_cut_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ShapeError, match="from"):
        SliceRule(**wrong)  # type: ignore[arg-type]


RULES = st.builds(
    SliceRule,
    by=st.sampled_from(("time", "count", "adaptive", "stamps")),
    period_ns=st.integers(1, 300), count=st.integers(1, 20), min_ns=st.integers(0, 100),
    max_events=st.integers(2, 15), max_gap_ns=st.integers(1, 400),
)  # fmt: skip
TIMES = st.lists(st.integers(0, 1000), max_size=60).map(sorted)


@settings(max_examples=300, deadline=None)
@given(
    rule=RULES, times=TIMES, cuts=st.lists(st.integers(0, 60), max_size=6), stamps=st.lists(st.integers(0, 1000)),
)  # fmt: skip
def test_slices_do_not_feel_packets_and_every_event_is_accounted_for(
    rule: SliceRule, times: list[int], cuts: list[int], stamps: list[int]
) -> None:
    events = at(*times)
    borders = sorted({0, len(events), *(min(place, len(events)) for place in cuts)})
    whole, packed = slicer_of(rule), slicer_of(rule)
    for slicer in (whole, packed):
        if isinstance(slicer, StampSlicer):
            for stamp in sorted(stamps):
                slicer.stamp(stamp)
    expected = whole.add(events)
    found: list[EventSlice] = []
    for begin, end in pairwise(borders):
        found += packed.add(events[begin:end])
        assert packed.account.balanced
        assert packed.account.received + packed.account.waiting == end
    expected, found = expected + whole.finish(), found + packed.finish()
    assert spans(found) == spans(expected)
    assert packed.account == whole.account
    assert packed.account.received == len(times)
    assert packed.account.given == sum(len(piece.events) for piece in found)
    assert all(len(piece.events) <= rule.max_events for piece in found)
    for piece in found:
        assert all(piece.begin_ns <= t < piece.end_ns for t in piece.events.t_ns)


@pytest.mark.parametrize("by", ["time", "count", "adaptive"])
def test_memory_under_a_flood_is_bounded_by_the_rule(by: By) -> None:
    slicer = EventSlicer(SliceRule(by, period_ns=1 << 40, count=1 << 40, max_events=1000))
    for begin in range(0, 100_000, 5000):
        slicer.add(at(*range(begin, begin + 5000)))
        assert sum(len(part) for part in slicer._open._kept) <= 1000
    (piece,) = slicer.finish()
    assert len(piece.events) + piece.dropped == 100_000
