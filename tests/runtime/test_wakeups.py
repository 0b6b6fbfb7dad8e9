"""Waking a process that waits: nothing that was rung is slept through, and nobody ever waits for a sleeper."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from perception.runtime import wakeups
from perception.runtime.wakeups import Sleeper, Waker

LONG_S = 60.0
"""Far above what a test may take: whoever sleeps that long was not woken."""


def test_what_was_rung_before_the_sleep_ends_it_at_once(tmp_path: Path) -> None:
    sleeper, waker = Sleeper(tmp_path, "sink"), Waker(tmp_path, "sink")
    began_s = time.monotonic()
    waker.wake()
    sleeper.sleep(LONG_S)
    assert time.monotonic() - began_s < LONG_S / 2


def test_a_sleeper_is_woken_by_whoever_rings(tmp_path: Path) -> None:
    sleeper = Sleeper(tmp_path, "sink")
    sleeping = threading.Thread(target=sleeper.sleep, args=(LONG_S,), daemon=True)
    sleeping.start()
    Waker(tmp_path, "another").wake()
    sleeping.join(0.2)
    assert sleeping.is_alive()
    Waker(tmp_path, "sink").wake()
    sleeping.join(LONG_S / 2)
    assert not sleeping.is_alive()


def test_many_rings_are_one_wake_up(tmp_path: Path) -> None:
    sleeper, waker = Sleeper(tmp_path, "sink"), Waker(tmp_path, "sink")
    for _ in range(5):
        waker.wake()
    sleeper.sleep(LONG_S)
    began_s = time.monotonic()
    sleeper.sleep(0.05)
    assert time.monotonic() - began_s >= 0.05


def test_what_is_rung_after_a_wake_up_ends_the_next_sleep(tmp_path: Path) -> None:
    sleeper, waker = Sleeper(tmp_path, "sink"), Waker(tmp_path, "sink")
    waker.wake()
    sleeper.sleep(LONG_S)
    waker.wake()
    began_s = time.monotonic()
    sleeper.sleep(LONG_S)
    assert time.monotonic() - began_s < LONG_S / 2


def test_a_process_that_never_looks_holds_nobody_up(tmp_path: Path) -> None:
    waker = Waker(tmp_path, "gone")
    for _ in range(100_000):  # more than a pipe holds
        waker.wake()
    sleeper = Sleeper(tmp_path, "gone")  # it was started anew
    sleeper.sleep(LONG_S)
    waker.wake()
    sleeper.sleep(LONG_S)


def test_any_name_of_a_process_has_a_pipe_of_its_own(tmp_path: Path) -> None:
    names = ("a/b", "a_b", "a%2Fb", "größe")
    sleepers = [Sleeper(tmp_path, name) for name in names]
    for kind in ("wake", "answers"):
        assert len(list(tmp_path.glob(f"{kind}_*"))) == len(sleepers)


def test_whoever_hears_that_something_comes_does_not_sleep_until_it_is_rung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeups, "EXPECTED_S", LONG_S)
    sleeper, waker = Sleeper(tmp_path, "sink"), Waker(tmp_path, "sink")
    began_s = time.monotonic()
    waker.announce()
    for _ in range(5):
        sleeper.sleep(LONG_S)
    assert time.monotonic() - began_s < LONG_S / 2
    waker.wake()
    sleeper.sleep(LONG_S)
    rung_s = time.monotonic()
    sleeper.sleep(0.05)
    assert time.monotonic() - rung_s >= 0.05


def test_what_was_announced_and_rung_before_anybody_looked_is_one_wake_up(tmp_path: Path) -> None:
    sleeper, waker = Sleeper(tmp_path, "sink"), Waker(tmp_path, "sink")
    waker.announce()
    waker.wake()
    sleeper.sleep(LONG_S)
    began_s = time.monotonic()
    sleeper.sleep(0.05)
    assert time.monotonic() - began_s >= 0.05


def test_what_was_announced_and_never_comes_is_waited_for_asleep(tmp_path: Path) -> None:
    sleeper = Sleeper(tmp_path, "sink")
    Waker(tmp_path, "sink").announce()
    sleeper.sleep(LONG_S)
    sleeper.sleep(LONG_S)
    time.sleep(2 * wakeups.EXPECTED_S)
    began_s = time.monotonic()
    sleeper.sleep(0.05)
    assert time.monotonic() - began_s >= 0.05


def test_whether_a_process_answers_at_once_is_known_to_whoever_wakes_it(tmp_path: Path) -> None:
    early = Waker(tmp_path, "relay")
    Sleeper(tmp_path, "relay").answers_at_once = True
    late, another = Waker(tmp_path, "relay"), Waker(tmp_path, "another")
    assert [waker.answers_at_once for waker in (early, late, another)] == [True, True, False]
    Sleeper(tmp_path, "relay")  # started anew, it has answered nothing yet
    assert [waker.answers_at_once for waker in (early, late, another)] == [False, False, False]


def test_who_is_woken_for_what_comes_expects_it_until_it_is_rung_or_too_late(tmp_path: Path) -> None:
    sleeper, waker = Sleeper(tmp_path, "sink"), Waker(tmp_path, "sink")

    def state() -> tuple[bool, bool, bool]:
        return sleeper.is_announced, sleeper.is_expecting, sleeper.is_rung()

    assert state() == (False, False, False)
    waker.announce()
    sleeper.sleep(LONG_S)
    assert state() == (True, True, False)
    waker.wake()
    assert state() == (True, True, True)
    sleeper.sleep(LONG_S)
    assert state() == (False, False, False)
    waker.announce()
    sleeper.sleep(LONG_S)
    sleeper.sleep(LONG_S)
    time.sleep(2 * wakeups.EXPECTED_S)
    assert state() == (False, False, False)


def test_a_precise_sleep_is_as_long_as_asked_and_ended_by_a_ring(tmp_path: Path) -> None:
    sleeper, waker = Sleeper(tmp_path, "sink"), Waker(tmp_path, "sink")
    for seconds in (0.0, 0.0004, 0.0123):
        began_s = time.monotonic()
        sleeper.sleep_precisely(seconds)
        assert time.monotonic() - began_s >= seconds
    waker.wake()
    began_s = time.monotonic()
    sleeper.sleep_precisely(LONG_S)
    assert time.monotonic() - began_s < LONG_S / 2
    began_s = time.monotonic()
    sleeper.sleep_precisely(0.02)  # one ring ends one sleep
    assert time.monotonic() - began_s >= 0.02
