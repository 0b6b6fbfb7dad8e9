"""The words of Prophesee's DAT, of AEDAT-2, of Event Stream and of N-MNIST, decoded by compiled loops.

Sources: Prophesee, "DAT format"; inivation, "AEDAT file formats" (2.0, DAVIS); neuromorphic-paris, "Event Stream
specification" (dvs); Orchard et al., "Converting static image datasets to spiking neuromorphic datasets", 2015.
Checked against recordings whose events independent readers listed. Times are microseconds in the files.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from perception.logs.events.decoder import BACKWARDS, OUTSIDE, Decoded, Decoder
from perception.ops.events import Events

NO_EVENT = "word of another kind (frame or IMU)"
RESET = "reset of the stream"


class _Unwrapping(Decoder):
    """Formats whose words hold a whole time of few bits: a fall by more than half of the range is a wrap."""

    TIME_BITS: int

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self._size = (height, width)
        self._wraps, self._before, self._last = 0, 0, np.iinfo(np.int64).min

    def _kept(self, t: NDArray[np.int64], x: Any, y: Any, polarity: Any) -> Decoded:
        """Return the events with times that never fall, and count the others."""
        times = np.concatenate(([self._before], t))
        wraps = self._wraps + np.cumsum(np.diff(times) < -(1 << (self.TIME_BITS - 1)))
        if len(t):
            self._wraps, self._before = int(wraps[-1]), int(t[-1])
        t = t + (wraps << self.TIME_BITS)
        inside = (x < self._size[1]) & (y < self._size[0])
        self.count(OUTSIDE, int((~inside).sum()))
        t, x, y, polarity = t[inside], x[inside], y[inside], polarity[inside]
        highest = np.maximum.accumulate(np.concatenate(([self._last], t)))
        ordered = t >= highest[:-1]
        self.count(BACKWARDS, int((~ordered).sum()))
        self._last = int(highest[-1])
        return Decoded(Events.of(t[ordered] * 1000, x[ordered], y[ordered], polarity[ordered]))


class Dat(_Unwrapping):
    """DAT, event type 2D: 32 bits of time, 14 of x, 14 of y, one of polarity."""

    WORD_BYTES = 8
    TIME_BITS = 32

    def decode(self, data: bytes) -> Decoded:
        words = np.frombuffer(data, "<u4").reshape(-1, 2)
        address = words[:, 1].astype(np.int64)
        return self._kept(words[:, 0].astype(np.int64), address & 0x3FFF, address >> 14 & 0x3FFF, address >> 28 & 1)


class Aedat2(_Unwrapping):
    """AEDAT-2 of a DAVIS: big-endian address and time; frames and IMU samples are other words."""

    WORD_BYTES = 8
    TIME_BITS = 32

    def decode(self, data: bytes) -> Decoded:
        words = np.frombuffer(data, ">u4").reshape(-1, 2).astype(np.int64)
        address = words[:, 0]
        event = (address >> 31 == 0) & (address >> 10 & 1 == 0)
        self.count(NO_EVENT, int((~event).sum()))
        address = address[event]
        return self._kept(words[event, 1], address >> 12 & 0x3FF, address >> 22 & 0x1FF, address >> 11 & 1)


class Nmnist(_Unwrapping):
    """N-MNIST: 40 bits an event, x, y, polarity and 23 bits of time."""

    WORD_BYTES = 5
    TIME_BITS = 23

    def decode(self, data: bytes) -> Decoded:
        rows = np.frombuffer(data, np.uint8).reshape(-1, 5).astype(np.int64)
        t = (rows[:, 2] & 0x7F) << 16 | rows[:, 3] << 8 | rows[:, 4]
        return self._kept(t, rows[:, 0], rows[:, 1], rows[:, 2] >> 7)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _decode_es(data: Any, state: Any, out: Any) -> tuple[int, int]:
    """Read whole events from the beginning of `data`; return how many there are, and how many bytes they took."""
    t_out, x_out, y_out, p_out = out
    n, i, size = 0, 0, len(data)
    while i < size:
        lead = data[i]
        if lead == 0xFF:
            state[0] += 127
            i += 1
        elif lead == 0xFE:
            state[1] += 1
            i += 1
        elif i + 5 > size:
            break
        else:
            state[0] += lead >> 1
            t_out[n], p_out[n] = state[0], lead & 1
            x_out[n] = data[i + 1] | np.uint16(data[i + 2]) << 8
            y_out[n] = data[i + 3] | np.uint16(data[i + 4]) << 8
            n += 1
            i += 5
    return n, i


class EventStream(Decoder):
    """Event Stream, type dvs: times as differences, one byte where nothing happens for long, five for an event."""

    WORD_BYTES = 1

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self._size = (height, width)
        self._state = np.zeros(2, np.int64)
        self._begun = b""

    def decode(self, data: bytes) -> Decoded:
        data = self._begun + data
        room = len(data) // 5 + 1
        out = (np.empty(room, np.int64), np.empty(room, np.uint16), np.empty(room, np.uint16), np.empty(room, np.uint8))
        before = int(self._state[1])
        count, used = _decode_es(np.frombuffer(data, np.uint8), self._state, out)
        self._begun = data[used:]
        self.count(RESET, int(self._state[1]) - before)
        t, x, y, polarity = (values[:count] for values in out)
        inside = (x < self._size[1]) & (y < self._size[0])
        self.count(OUTSIDE, int((~inside).sum()))
        return Decoded(Events.of(t[inside] * 1000, x[inside], y[inside], polarity[inside]))

    def finish(self) -> None:
        self._rest, self._begun = self._begun, b""
        super().finish()


__all__ = ["Aedat2", "Dat", "EventStream", "Nmnist"]
