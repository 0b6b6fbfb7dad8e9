"""What a driver tells of its stream in the status: rate, gaps, silence, and whatever else it counts."""

from __future__ import annotations

from collections import Counter, deque
from itertools import pairwise

SECOND_NS = 1_000_000_000
WINDOW_NS = 5 * SECOND_NS
"""The rate is that of the last seconds."""
GAP_PERIODS = 2.5
"""Messages so many periods apart have lost one between them."""
SILENT_NS, SILENT_PERIODS = SECOND_NS, 5
"""Silence degrades after a second, or after so many periods of a slow sensor."""
LEARNT_FROM = 10
"""Messages after which a period that nobody gave is known."""


class StreamMonitor:
    """Follows one stream by the host's monotonic clock.

    Args:
        sensor: whose stream it is.
        period_ns: what the rig says; None learns it from the stream.
    """

    def __init__(self, sensor: str, period_ns: int | None = None) -> None:
        self.sensor, self.period_ns = sensor, period_ns
        self.counts: Counter[str] = Counter()
        """What else happened, in words: "repeated packets", "checksums wrong"."""
        self.facts: tuple[str, ...] = ()
        """What else is worth telling, such as the decoder."""
        self.gaps = self.longest_gap_ns = self.reconnections = 0
        self.failure = ""
        """Why the stream is broken now; empty while it runs."""
        self._learns = period_ns is None
        self._arrivals: deque[int] = deque()
        self._last_ns: int | None = None
        self._started_ns: int | None = None

    def started(self, now_ns: int) -> None:
        """Take note that somebody listens from now on."""
        if self._started_ns is None:
            self._started_ns = now_ns

    def message(self, now_ns: int) -> None:
        """Take note of a message."""
        if self._last_ns is not None and self.period_ns is not None:
            apart_ns = now_ns - self._last_ns
            if apart_ns > GAP_PERIODS * self.period_ns:
                self.gaps += 1
                self.longest_gap_ns = max(self.longest_gap_ns, apart_ns)
        self.reconnections += bool(self.failure) and self._last_ns is not None
        self.failure = ""
        self._last_ns = now_ns
        self._arrivals.append(now_ns)
        self._forget(now_ns)

    def failed(self, why: str) -> None:
        """Take note that the stream broke; the next message ends that."""
        self.failure = why

    def rate_hz(self, now_ns: int) -> float:
        """Return the rate of the last seconds."""
        self._forget(now_ns)
        if not self._arrivals or self._started_ns is None:
            return 0.0
        return len(self._arrivals) / (max(min(WINDOW_NS, now_ns - self._started_ns), SECOND_NS) / SECOND_NS)

    def notes(self, now_ns: int) -> tuple[str, ...]:
        """Return the facts for the status."""
        self._learn()
        facts = [f"{self.rate_hz(now_ns):.1f} Hz"]
        if self.gaps:
            facts.append(f"{self.gaps} gaps, the longest {self.longest_gap_ns / 1e6:.0f} ms")
        if self.reconnections:
            facts.append(f"{self.reconnections} reconnections")
        facts += [f"{what}: {count}" for what, count in sorted(self.counts.items()) if count]
        return (f"{self.sensor}: {'; '.join((*facts, *self.facts))}",)

    def degraded(self, now_ns: int) -> tuple[str, ...]:
        """Return what makes the stream worth less now: silence, with its reason where one is known."""
        since_ns = self._last_ns if self._last_ns is not None else self._started_ns
        if since_ns is None:
            return ()
        silent_ns = now_ns - since_ns
        if silent_ns <= max(SILENT_NS, SILENT_PERIODS * (self.period_ns or 0)):
            return ()
        what = "nothing received yet" if self._last_ns is None else f"silent for {silent_ns // SECOND_NS} s"
        return (f"{self.sensor}: {what}{f' ({self.failure})' if self.failure else ''}",)

    def _learn(self) -> None:
        if self._learns and len(self._arrivals) >= LEARNT_FROM:
            arrivals = list(self._arrivals)
            apart = sorted(after - before for before, after in pairwise(arrivals))
            self.period_ns = apart[len(apart) // 2]

    def _forget(self, now_ns: int) -> None:
        while self._arrivals and self._arrivals[0] < now_ns - WINDOW_NS:
            self._arrivals.popleft()


__all__ = ["StreamMonitor"]
