"""Bring a sensor's stamps onto the host's clock by the quickest way that a message took."""

from __future__ import annotations

WINDOW_NS = 10_000_000_000
"""Delays are compared over 5 to 10 s; a clock that drifts 50 ppm is followed within 0.5 ms."""
JUMP_NS = 1_000_000_000
"""A difference that changes by more at once is another clock: the sensor started anew, or was set."""
HELD_UP_NS = WINDOW_NS // 2
"""A message that comes so much later while the sensor's time goes on was held up on its way: its clock is the same."""


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
        self._last_difference = 0

    def to_host(self, sensor_ns: int, arrival_ns: int) -> int:
        """Return the host time of a stamp whose message arrived at host time `arrival_ns`."""
        difference = arrival_ns - sensor_ns
        if self._is_another_clock(sensor_ns, difference):
            self.jumps += 1
            self._now = self._before = self._last = None
        self._last_difference = difference
        if self._now is None or arrival_ns - self._half_began_ns > self._half_ns:
            self._before, self._now, self._half_began_ns = self._now, difference, arrival_ns
        self._now = min(self._now, difference)
        self.offset_ns = self._now if self._before is None else min(self._now, self._before)
        host_ns = sensor_ns + self.offset_ns
        if self._last is not None and sensor_ns >= self._last[0]:
            host_ns = max(host_ns, self._last[1])
        self._last = (sensor_ns, host_ns)
        return host_ns

    def _is_another_clock(self, sensor_ns: int, difference: int) -> bool:
        """Tell a clock that was set from messages that were held up, each or more and more, and then come all at once.

        What was held up adds to the difference, and never makes it less than it was without.
        """
        if self._last is None or self.offset_ns is None:
            return False
        change = difference - self._last_difference
        if change < -JUMP_NS:
            return difference < self.offset_ns - JUMP_NS
        held_up = sensor_ns >= self._last[0] and change <= HELD_UP_NS
        return change > JUMP_NS and not held_up


__all__ = ["ClockOffset"]
