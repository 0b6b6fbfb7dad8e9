"""When a paced source may give out its next message: at its stamp's place in time, counted from the first message.

A source that cannot keep up (a simulator on a busy machine, a slow disk) falls behind. What it missed is not caught up
in a burst, which would flood every reader: its time slips, and goes on at the same pace from where it is.
"""

from __future__ import annotations

SLIP_S = 0.5
"""A source that is later than this has its time shifted."""


class Turns:
    """Turns of one source.

    Args:
        rate: seconds of the source's time in one second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._zero_s: float | None = None
        self._first_ns = 0
        self.slipped_s = 0.0
        """Seconds by which its time was shifted so far."""

    def wait_s(self, t_ns: int, now_s: float) -> float:
        """Return how long a message with this stamp has to wait at a monotonic time; 0 where its turn has come."""
        if self._zero_s is None:
            self._zero_s, self._first_ns = now_s, t_ns
        late_s = now_s - (self._zero_s + (t_ns - self._first_ns) / 1e9 / self._rate)
        if late_s > SLIP_S:
            self._zero_s += late_s
            self.slipped_s += late_s
        return max(0.0, -late_s)


__all__ = ["SLIP_S", "Turns"]
