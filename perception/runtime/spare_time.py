"""When a process does what was not needed to send its outputs: not while somebody may wait for its core."""

from __future__ import annotations

from perception.runtime.wakeups import Sleeper

IDLE_S = 0.5
"""Whoever has something for a process wakes it; so long it rests where nobody does."""
SPARE_S = 0.0008
"""Who was given something wakes up right after that, maybe on this core; so long afterwards there is time."""
LONGEST_S = 0.02
"""So long after the first thing to do there has to be time, however much there is to run."""


class SpareTime:
    """The time of one process.

    Args:
        sleeper: of the process; while it expects something there is no time.
        is_always: there is always time, as in lockstep.
    """

    def __init__(self, sleeper: Sleeper, *, is_always: bool = False) -> None:
        self._sleeper, self._is_always = sleeper, is_always
        self._owed_since_s: float | None = None
        self._busy_s = self._used_s = 0.0

    def owe(self, now_s: float) -> None:
        """Take that there is something to do when there is time."""
        if self._owed_since_s is None:
            self._owed_since_s = now_s

    def ran(self, now_s: float) -> None:
        """Take that something was taken or run just now."""
        self._busy_s = now_s
        self.owe(now_s)

    def is_there(self, now_s: float) -> bool:
        """True where there is something to do, and time for it; so it is now and then where nothing ran, too.

        A source that publishes from its own thread leaves garbage behind of which this one knows nothing.
        """
        since_s = self._owed_since_s
        if since_s is None:
            return now_s - self._used_s >= IDLE_S
        is_quiet = now_s - self._busy_s >= SPARE_S and not self._sleeper.is_expecting
        return is_quiet or self._is_always or now_s - since_s >= LONGEST_S

    def use(self, now_s: float) -> None:
        """Take that everything is done."""
        self._used_s, self._owed_since_s = now_s, None

    def idle_s(self, now_s: float) -> float:
        """Return how long nothing was taken or run."""
        return now_s - self._busy_s

    def rest_s(self) -> float:
        """Return how long to rest at most."""
        return IDLE_S if self._owed_since_s is None else SPARE_S


__all__ = ["IDLE_S", "LONGEST_S", "SPARE_S", "SpareTime"]
