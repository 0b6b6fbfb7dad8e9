"""Bring a sensor's stamps onto the host's clock by the quickest way that a message took."""

from __future__ import annotations

WINDOW_NS = 10_000_000_000
"""Delays are compared over 5 to 10 s; a clock that drifts 50 ppm is followed within 0.5 ms."""
JUMP_NS = 1_000_000_000
"""A difference that changes by more is another clock: the sensor started anew, or was set."""


class ClockOffset:
    """Host time minus sensor time.

    What a message waits for on its way only ever adds to the difference, so the smallest of the last seconds is the
    offset and the least delay together. Stamps never go back while those of the sensor go on.
    """

    def __init__(self, window_ns: int = WINDOW_NS) -> None:
        self.jumps = 0
        """How often the sensor's clock was another one suddenly."""
        self.offset_ns: int | None = None
        self._half_ns = window_ns // 2
        self._now: int | None = None
        self._before: int | None = None
        self._half_began_ns = 0
        self._last: tuple[int, int] | None = None

    def to_host(self, sensor_ns: int, arrival_ns: int) -> int:
        """Return the host time of a stamp whose message arrived at host time `arrival_ns`."""
        difference = arrival_ns - sensor_ns
        if self.offset_ns is not None and abs(difference - self.offset_ns) > JUMP_NS:
            self.jumps += 1
            self._now = self._before = self._last = None
        if self._now is None or arrival_ns - self._half_began_ns > self._half_ns:
            self._before, self._now, self._half_began_ns = self._now, difference, arrival_ns
        self._now = min(self._now, difference)
        self.offset_ns = self._now if self._before is None else min(self._now, self._before)
        host_ns = sensor_ns + self.offset_ns
        if self._last is not None and sensor_ns >= self._last[0]:
            host_ns = max(host_ns, self._last[1])
        self._last = (sensor_ns, host_ns)
        return host_ns


__all__ = ["ClockOffset"]
