"""When the next message of a steady stream is due, and when to make ready for it."""

from __future__ import annotations

import math
from collections.abc import Callable

STEADY = 8
"""Intervals in a row that must be alike, before the next is counted on."""
ALIKE_S = 0.001
"""What they may differ by."""
LEAST_S = 0.0075
"""Faster streams keep their process awake; to make ready for each message would cost more than it gains."""
AHEAD_S = 0.0015
"""So long before a message is due its process makes ready."""
NEAR_S = 1.25 * AHEAD_S
"""What is due so soon is what it is time for now; the next is planned for after it."""


class Cadence:
    """The pace of one source, learned from when its messages come."""

    def __init__(self) -> None:
        self._last_s = self._period_s = math.inf
        self._alike = 0

    def take(self, now_s: float) -> None:
        """Take that a message came."""
        interval_s, self._last_s = now_s - self._last_s, now_s
        if abs(interval_s - self._period_s) <= ALIKE_S:
            self._alike += 1
            self._period_s += (interval_s - self._period_s) / STEADY
        else:
            self._alike, self._period_s = 0, interval_s

    def due_s(self, after_s: float) -> float:
        """Return when the first message after this time is due; infinity where none can be counted on.

        One that does not come is counted on no more.
        """
        if self._alike < STEADY or self._period_s < LEAST_S:
            return math.inf
        due_s = self._last_s + self._period_s
        if due_s <= after_s:
            due_s += self._period_s
        return due_s if due_s > after_s else math.inf


class Lookout:
    """Says when to make ready for the next message of a process' sources.

    Args:
        due_s: returns when the first message after a time is due, as `Cadence.due_s` does.
    """

    def __init__(self, due_s: Callable[[float], float]) -> None:
        self._due_s = due_s
        self._at_s = math.inf

    @property
    def is_planned(self) -> bool:
        """Whether somebody will make ready before the next message."""
        return self._at_s < math.inf

    def is_time(self, now_s: float) -> bool:
        """True once for each message that is due, shortly before it; not where it came already."""
        if now_s < self._at_s:
            return False
        is_near = self._due_s(now_s) <= now_s + NEAR_S
        self._plan(now_s)
        return is_near

    def rest_s(self, now_s: float) -> float:
        """Return the seconds until it is time again; infinity where nothing is counted on."""
        if self._at_s == math.inf:
            self._plan(now_s)
        return max(0.0, self._at_s - now_s)

    def _plan(self, now_s: float) -> None:
        self._at_s = self._due_s(now_s + NEAR_S) - AHEAD_S


__all__ = ["AHEAD_S", "ALIKE_S", "LEAST_S", "STEADY", "Cadence", "Lookout"]
