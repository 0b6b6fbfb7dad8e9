"""What ROS messages hold of events: `event_camera_msgs/EventPacket` in its encodings, and `dvs_msgs/EventArray`.

    evt3, evt2, evt21   bytes as the sensor sent them; times are the camera's own
    mono                64 bits an event: nanoseconds after the packet's time base, x, y, polarity
    trigger             as mono, with edges
    libcaer             64 bits an event: address, microseconds after the time base
    libcaer_cmp         16-bit words like EVT3 with rows and columns exchanged; microseconds after the time base

Source: ros-event-camera/event_camera_msgs and event_camera_codecs (Apache-2.0), read. The recordings beside its tests,
of evt3, libcaer with a time that rolls over, and mono, give the sums that those tests expect.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from perception.logs.events.decoder import (
    CUT_OFF,
    OUTSIDE,
    Decoded,
    Decoder,
    Triggers,
    columns_for,
    first_events,
)
from perception.logs.events.prophesee_words import Evt2, Evt3, Evt21
from perception.logs.events.time_order import TimeOrder
from perception.ops.events import Events

RAW: dict[str, type[Decoder]] = {"evt3": Evt3, "evt2": Evt2, "evt21": Evt21}
ENCODINGS = (*RAW, "mono", "trigger", "libcaer", "libcaer_cmp")
UNKNOWN = "packet of an unknown encoding"
OF_ANOTHER_SIZE = "packet of another encoding or size than the first"


class PacketDecoder:
    """Decodes the packets of one topic, in their order."""

    def __init__(self, encoding: str, height: int, width: int) -> None:
        self.encoding, self.size = encoding, (height, width)
        self._skipped: Counter[str] = Counter()
        self._raw = RAW[encoding](height, width) if encoding in RAW else None
        self._order = TimeOrder()

    @property
    def skipped(self) -> Counter[str]:
        """What could not be decoded, by reason."""
        return self._skipped + (self._order.skipped if self._raw is None else self._raw.skipped)

    def feed(self, data: NDArray[np.uint8], time_base: int) -> Decoded:
        """Decode the bytes of a packet."""
        if self._raw is not None:
            return self._raw.feed(data.tobytes())
        if self.encoding not in ENCODINGS:
            self._skipped[UNKNOWN] += 1
            return Decoded()
        word = 2 if self.encoding == "libcaer_cmp" else 8
        if len(data) % word:
            self._skipped[CUT_OFF] += len(data) % word
        data = data[: len(data) // word * word]
        if self.encoding == "libcaer_cmp":
            return self._checked(*_compressed(data.view("<u2"), time_base))
        if self.encoding == "libcaer":
            return self._checked(*_libcaer(data.view("<u4").reshape(-1, 2), time_base))
        words = data.view("<u8")
        t = (words & np.uint64(0xFFFFFFFF)).astype(np.int64) + time_base
        x, y = (words >> np.uint64(32)) & np.uint64(0xFFFF), (words >> np.uint64(48)) & np.uint64(0x7FFF)
        on = (words >> np.uint64(63)).astype(np.uint8)
        if self.encoding == "trigger":
            return Decoded(triggers=Triggers.of(t, y & np.uint64(0xFF), on > 0))
        return self._checked(t, x, y, on)

    def finish(self) -> Decoded:
        """Decode what waits for a next packet."""
        return self._raw.finish() if self._raw is not None else Decoded(self._order.finish())

    def arrays(self, t_ns: Any, x: Any, y: Any, polarity: Any) -> Decoded:
        """Take events that are decoded already."""
        return self._checked(np.asarray(t_ns, np.int64), np.asarray(x), np.asarray(y), np.asarray(polarity))

    def _checked(self, t: NDArray[np.int64], x: Any, y: Any, polarity: Any) -> Decoded:
        inside = (x < self.size[1]) & (y < self.size[0])
        if not inside.all():
            self._skipped[OUTSIDE] += int((~inside).sum())
        return Decoded(self._order.feed(Events.of(t[inside], x[inside], y[inside], polarity[inside])))


def _libcaer(words: NDArray[np.uint32], time_base: int) -> tuple[NDArray[np.int64], Any, Any, Any]:
    address, low = words[:, 0], words[:, 1].view(np.int32).astype(np.int64)
    rolled = np.cumsum(np.concatenate(([0], np.diff(low) < 0))) if len(low) else low  # 31 bits of microseconds
    t = time_base + (low + (rolled << 31)) * 1000
    return t, address >> 17 & 0x7FFF, address >> 2 & 0x7FFF, address >> 1 & 1


def _compressed(words: NDArray[np.uint16], time_base: int) -> tuple[NDArray[np.int64], Any, Any, Any]:
    out = columns_for(8 * len(words))
    events = first_events(out, _decode_compressed(words, time_base, out))
    return events.t_ns * 1000, events.x, events.y, events.polarity


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _decode_compressed(words: Any, time_base: int, out: Any) -> int:
    t_out, x_out, y_out, p_out = out
    n = 0
    high = low = x = row = on = np.int64(0)
    for i in range(len(words)):
        word = np.int64(words[i])
        kind = word >> 12
        if kind == 0:
            high = (word & 0xFFF) << 12
        elif kind == 1:
            low = word & 0xFFF
        elif kind == 2:
            x = word & 0x7FF
        elif kind == 3:
            t_out[n], x_out[n], y_out[n], p_out[n] = time_base + (high | low), x, word & 0x7FF, (word >> 11) & 1
            n += 1
        elif kind == 4:
            row, on = word & 0x7FF, (word >> 11) & 1
        elif kind == 5:
            for j in range(8):
                if (word >> j) & 1:
                    t_out[n], x_out[n], y_out[n], p_out[n] = time_base + (high | low), x, row + j, on
                    n += 1
            row += 8
    return n


__all__ = ["ENCODINGS", "OF_ANOTHER_SIZE", "PacketDecoder"]
