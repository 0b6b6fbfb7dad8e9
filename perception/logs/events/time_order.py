"""Leave out events whose time cannot be right, where a format gives whole times."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numba
import numpy as np

from perception.logs.events.decoder import BACKWARDS, CONTRADICTED
from perception.ops.events import Events


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _mark(t: Any, end: int, last: Any, sound: Any) -> Any:
    """Mark what is kept; returns the last kept time, and how many are too early and contradicted."""
    early = contradicted = 0
    for i in range(end):
        sound[i] = False
        if t[i] < last:
            early += 1
        elif i + 1 < len(t) and last <= t[i + 1] < t[i]:
            contradicted += 1
        else:
            sound[i] = True
            last = t[i]
    return last, early, contradicted


class TimeOrder:
    """Passes on events in the order of time; the newest waits until the next one confirms it.

    An event is left out where it is earlier than one before it, or where the next one goes back behind it: so a single
    time that is far too late does not make all that follow look early.
    """

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self._last = np.int64(-(1 << 62))
        self._waiting = Events.none()

    def feed(self, events: Events) -> Events:
        """Take the next events; returns those that are decided and sound."""
        if not len(events):
            return events
        return self._decided(Events.joined([self._waiting, events]), len(events) + len(self._waiting) - 1)

    def finish(self) -> Events:
        """Return what waits."""
        return self._decided(self._waiting, len(self._waiting))

    def _decided(self, events: Events, end: int) -> Events:
        sound = np.zeros(len(events), bool)
        self._last, early, contradicted = _mark(events.t_ns, end, self._last, sound)
        for reason, count in ((BACKWARDS, early), (CONTRADICTED, contradicted)):
            if count:
                self.skipped[reason] += int(count)
        self._waiting = events[end:]
        return events[:end] if sound[:end].all() else events[sound]


__all__ = ["TimeOrder"]
