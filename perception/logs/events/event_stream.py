"""Event Stream (.es), types dvs and atis: times as differences, one byte where nothing happens for long.

An event is five bytes, and nothing in the stream says where one begins: after an event outside the sensor, which a
sound stream cannot hold, all that follows is in doubt and is counted instead of decoded.

Source: neuromorphicsystems/event_stream, sepia.hpp, version 2.0.0 (MIT), read. Times are microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numba
import numpy as np

from perception.logs.events.decoder import Decoded, Decoder, columns_for, first_events

AFTER_FAULT = "byte after an event outside the sensor"
EXPOSURE = "exposure measurement"


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _decode_dvs(data: Any, state: Any, size: Any, out: Any) -> tuple[int, int]:
    """Return how many events there are, and how many bytes are done with; state: time, others, fault."""
    t_out, x_out, y_out, p_out = out
    n, i, t = 0, 0, state[0]
    while i < len(data):
        lead = np.int64(data[i])
        if lead == 0xFF:
            t += 127
            i += 1
        elif lead == 0xFE:  # the reset of a receiver, as on a network: time goes on
            i += 1
        elif i + 5 > len(data):
            break
        else:
            x = np.int64(data[i + 1]) | np.int64(data[i + 2]) << 8
            y = np.int64(data[i + 3]) | np.int64(data[i + 4]) << 8
            if x >= size[1] or y >= size[0]:
                state[2] = 1
                break
            t += lead >> 1
            t_out[n], x_out[n], y_out[n], p_out[n] = t * 1000, x, y, lead & 1
            n += 1
            i += 5
    state[0] = t
    return n, i


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _decode_atis(data: Any, state: Any, size: Any, out: Any) -> tuple[int, int]:
    """As `_decode_dvs`; ends of exposure measurements are counted apart."""
    t_out, x_out, y_out, p_out = out
    n, i, t = 0, 0, state[0]
    while i < len(data):
        lead = np.int64(data[i])
        if lead & 0xFC == 0xFC:
            t += 63 * (lead & 3)
            i += 1
        elif i + 5 > len(data):
            break
        else:
            x = np.int64(data[i + 1]) | np.int64(data[i + 2]) << 8
            y = np.int64(data[i + 3]) | np.int64(data[i + 4]) << 8
            if x >= size[1] or y >= size[0]:
                state[2] = 1
                break
            t += lead >> 2
            if lead & 1:
                state[1] += 1
            else:
                t_out[n], x_out[n], y_out[n], p_out[n] = t * 1000, x, y, (lead >> 1) & 1
                n += 1
            i += 5
    state[0] = t
    return n, i


class EventStream(Decoder):
    """Type dvs."""

    WORD_BYTES = 1
    LOOP: ClassVar[Callable[[Any, Any, Any, Any], tuple[int, int]]] = staticmethod(_decode_dvs)

    def __init__(self, height: int, width: int) -> None:
        super().__init__(height, width)
        self._state = np.zeros(3, np.int64)

    def decode(self, data: bytes, *, last: bool) -> tuple[Decoded, int]:
        del last  # an event that is cut off stays
        if self._state[2]:
            self.count(AFTER_FAULT, len(data))
            return Decoded(), len(data)
        room = len(data) // 5 + 1
        out = columns_for(room)
        others = int(self._state[1])
        count, used = type(self).LOOP(np.frombuffer(data, np.uint8), self._state, self.size, out)
        if self._state[1] > others:
            self.other_words[EXPOSURE] += int(self._state[1]) - others
        if self._state[2]:
            self.count(AFTER_FAULT, len(data) - used)
            used = len(data)
        return Decoded(first_events(out, count)), used


class AtisStream(EventStream):
    """Type atis: changes come out, the ends of exposure measurements do not."""

    LOOP = staticmethod(_decode_atis)


__all__ = ["AtisStream", "EventStream"]
