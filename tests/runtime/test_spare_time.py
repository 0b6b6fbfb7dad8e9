"""What can wait is done when nobody waits any more, and not for ever later."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception.runtime.spare_time import IDLE_S, LONGEST_S, SPARE_S, SpareTime
from perception.runtime.wakeups import Sleeper, Waker


@pytest.fixture
def sleeper(tmp_path: Path) -> Sleeper:
    return Sleeper(tmp_path, "relay")


def test_there_is_time_once_nothing_ran_for_a_while(sleeper: Sleeper) -> None:
    spare = SpareTime(sleeper)
    spare.use(100.0)
    spare.ran(100.0)
    assert [spare.is_there(100.0 + share * SPARE_S) for share in (0.0, 0.9, 1.1)] == [False, False, True]


def test_after_a_long_rest_the_first_to_run_is_not_held_up_by_it_either(sleeper: Sleeper) -> None:
    spare = SpareTime(sleeper)
    spare.use(100.0)
    spare.ran(100.0 + 5 * LONGEST_S)
    assert not spare.is_there(100.0 + 5 * LONGEST_S)


def test_what_is_done_is_not_done_again_before_something_ran(sleeper: Sleeper) -> None:
    spare = SpareTime(sleeper)
    spare.ran(100.0)
    spare.use(101.0)
    assert not spare.is_there(101.1)
    assert spare.rest_s() == IDLE_S
    spare.owe(101.05)
    assert spare.is_there(101.1)


def test_where_nothing_runs_there_is_time_whenever_it_has_rested(sleeper: Sleeper) -> None:
    spare = SpareTime(sleeper)
    spare.use(100.0)
    assert [spare.is_there(100.0 + share * IDLE_S) for share in (0.5, 1.0)] == [False, True]


def test_who_has_something_left_to_do_rests_no_longer_than_until_there_is_time(sleeper: Sleeper) -> None:
    spare = SpareTime(sleeper)
    spare.ran(100.0)
    assert spare.rest_s() == SPARE_S


def test_however_much_there_is_to_run_there_is_time_now_and_then(sleeper: Sleeper) -> None:
    spare = SpareTime(sleeper)
    spare.use(100.0)
    times_s = [100.0 + number * SPARE_S / 3 for number in range(1, 800)]
    used_s = []
    for now_s in times_s:
        spare.ran(now_s)
        if spare.is_there(now_s):
            spare.use(now_s)
            used_s.append(now_s)
    gaps_s = [after - before for before, after in zip([100.0, *used_s], used_s, strict=False)]
    assert gaps_s
    assert min(gaps_s) >= LONGEST_S - 1e-6
    assert max(gaps_s) <= LONGEST_S + SPARE_S


def test_there_is_no_time_while_a_record_may_come_any_moment(sleeper: Sleeper, tmp_path: Path) -> None:
    spare = SpareTime(sleeper)
    spare.use(100.0)
    spare.ran(100.0)
    Waker(tmp_path, "relay").announce()
    sleeper.sleep(10.0)
    assert not spare.is_there(100.0 + 2 * SPARE_S)
    Waker(tmp_path, "relay").wake()
    sleeper.sleep(10.0)
    assert spare.is_there(100.0 + 2 * SPARE_S)


def test_in_lockstep_there_is_always_time(sleeper: Sleeper) -> None:
    spare = SpareTime(sleeper, is_always=True)
    spare.use(100.0)
    assert not spare.is_there(100.0)
    spare.ran(100.0)
    assert spare.is_there(100.0)
