"""What a node counts: messages, drops by input and reason, and how long its methods take."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field

MAX_REASONS = 20
"""Reasons kept apart per input; a text that changes with every message must not grow without end."""


@dataclass
class InputCounters:
    """One input topic of one node."""

    received: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    stamps: deque[int] = field(default_factory=lambda: deque(maxlen=20))

    def drop(self, reason: str, count: int = 1) -> None:
        """Count a drop under its reason."""
        if count:
            known = reason in self.dropped or len(self.dropped) < MAX_REASONS
            self.dropped[reason if known else "other reasons"] += count

    def rate_hz(self) -> float:
        """Rate by the stamps of the last messages; 0 with fewer than two."""
        if len(self.stamps) < 2 or self.stamps[-1] <= self.stamps[0]:
            return 0.0
        return (len(self.stamps) - 1) * 1e9 / (self.stamps[-1] - self.stamps[0])


class LatencyHistogram:
    """Durations in buckets that grow by 5 %, so a percentile is right to 5 %; constant memory."""

    _GROWTH = math.log(1.05)

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0

    def add(self, duration_ns: int) -> None:
        self._buckets[int(math.log(max(duration_ns, 1)) / self._GROWTH)] += 1
        self.count += 1

    def percentile_ms(self, percent: float) -> float:
        """Return the duration that `percent` of all stay below, in milliseconds; 0 without any."""
        wanted, seen = self.count * percent / 100, 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return math.exp((bucket + 0.5) * self._GROWTH) / 1e6
        return 0.0


__all__ = ["InputCounters", "LatencyHistogram"]
