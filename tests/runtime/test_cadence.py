"""When the next message of a stream is due: told only of steady ones, and once for each message."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.runtime.cadence import AHEAD_S, ALIKE_S, LEAST_S, STEADY, Cadence, Lookout


def after(times_s: Iterable[float]) -> Cadence:
    cadence = Cadence()
    for time_s in times_s:
        cadence.take(time_s)
    return cadence


def steady(period_s: float, count: int = STEADY + 3) -> list[float]:
    return [100.0 + number * period_s for number in range(count)]


def test_a_steady_stream_is_due_one_period_after_its_last_message() -> None:
    times_s = steady(0.1)
    assert after(times_s).due_s(times_s[-1]) == pytest.approx(times_s[-1] + 0.1)


def test_asked_for_a_later_time_it_is_due_once_more_and_then_no_more() -> None:
    times_s = steady(0.1)
    cadence, last_s = after(times_s), times_s[-1]
    assert cadence.due_s(last_s + 0.15) == pytest.approx(last_s + 0.2)
    assert cadence.due_s(last_s + 0.25) == math.inf


@given(st.integers(0, STEADY))
def test_too_few_messages_tell_nothing(count: int) -> None:
    assert after(steady(0.1, count)).due_s(0.0) == math.inf


def test_an_interval_unlike_the_others_is_a_new_beginning() -> None:
    times_s = [*steady(0.1), 103.0]
    assert after(times_s).due_s(103.0) == math.inf


def test_streams_that_keep_their_process_awake_tell_nothing() -> None:
    times_s = steady(LEAST_S * 0.9)
    assert after(times_s).due_s(times_s[-1]) == math.inf


@given(st.lists(st.floats(-0.2, 0.2), min_size=40, max_size=40))
def test_a_stream_that_jitters_less_than_is_allowed_is_due_when_it_comes(jitters: list[float]) -> None:
    times_s = [100.0 + number * 0.05 + jitter * ALIKE_S for number, jitter in enumerate(jitters)]
    assert after(times_s[:-1]).due_s(times_s[-2]) == pytest.approx(times_s[-1], abs=ALIKE_S)


@given(st.lists(st.floats(0.0, 1.0), max_size=60), st.floats(0.0, 60.0))
def test_what_is_due_lies_ahead_whatever_came(intervals_s: list[float], later_s: float) -> None:
    now_s, cadence = 100.0, Cadence()
    for interval_s in intervals_s:
        now_s += interval_s
        cadence.take(now_s)
    assert cadence.due_s(now_s + later_s) > now_s + later_s


def test_it_is_time_once_for_each_message_and_shortly_before_it() -> None:
    cadence = after(steady(0.1))
    lookout, now_s = Lookout(cadence.due_s), steady(0.1)[-1]
    assert lookout.rest_s(now_s) == pytest.approx(0.1 - AHEAD_S)
    for number in range(1, 6):
        due_s = steady(0.1)[-1] + number * 0.1
        at_s = now_s + lookout.rest_s(now_s)
        assert at_s == pytest.approx(due_s - AHEAD_S)
        assert [lookout.is_time(at_s - 0.001), lookout.is_time(at_s), lookout.is_time(at_s)] == [False, True, False]
        cadence.take(due_s)
        now_s = due_s


def test_it_is_not_time_for_a_message_that_came_too_early_already() -> None:
    cadence = after(steady(0.1))
    lookout, now_s = Lookout(cadence.due_s), steady(0.1)[-1]
    at_s = now_s + lookout.rest_s(now_s)
    cadence.take(at_s - 0.0001)
    assert not lookout.is_time(at_s)
    assert not lookout.is_planned


def test_nothing_is_planned_where_nothing_can_be_counted_on() -> None:
    lookout = Lookout(Cadence().due_s)
    assert lookout.rest_s(100.0) == math.inf
    assert not lookout.is_planned
    assert not lookout.is_time(1e9)


def test_a_stream_that_has_stopped_is_planned_for_no_more() -> None:
    lookout, now_s = Lookout(after(steady(0.1)).due_s), steady(0.1)[-1]
    while (rest_s := lookout.rest_s(now_s)) < math.inf:
        now_s += rest_s
        lookout.is_time(now_s)
        assert now_s < steady(0.1)[-1] + 1.0
    assert not lookout.is_planned
