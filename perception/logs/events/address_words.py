"""Formats in which each word holds an address and a whole time: DAT, AEDAT-1, AEDAT-2, N-MNIST.

The time has few bits and wraps: the shorter way around tells a wrap from a time that runs backwards. An event whose
time the next one goes back behind is skipped, so that one flipped bit does not make all later ones look late.

Sources: Prophesee, "DAT file format", and openeb's structures in sdk/modules/base/cpp, event2d.h (`RawEventV1` is
version 1) and event_ext_trigger.h; iniVation, "AEDAT file formats", whose bits of a DAVIS SensorsINI/aedat4to2 writes
too, rows counted from the bottom; Orchard et al.,
"Converting static image datasets to spiking neuromorphic datasets using saccades", 2015. Checked against recordings
whose events independent readers listed. Times are microseconds in the files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numba
import numpy as np
from numpy.typing import NDArray

from perception.logs.events.decoder import (
    BACKWARDS,
    CONTRADICTED,
    OUTSIDE,
    Decoded,
    Decoder,
    Triggers,
    columns_for,
    first_events,
)

_BEFORE, _LOOPS, _LAST, _BEGUN, _OVERFLOW, _STATE_FIELDS = range(6)
_BACK, _DOUBT, _OUT, _KINDS, _COUNT_FIELDS = range(5)
_REASONS = (BACKWARDS, CONTRADICTED, OUTSIDE)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _unwrapped(now: Any, following: Any, bits: int, state: Any) -> Any:
    """Return the whole time of an event, or -1 where the next one (-1: there is none) contradicts it."""
    span = 1 << bits
    half = span >> 1
    if state[_BEGUN] == 0:
        if following >= 0 and ((following - now) & (span - 1)) > half:
            return -1
        state[_BEGUN] = 1
    else:
        before = state[_BEFORE]
        ahead = (now - before) & (span - 1)
        if following >= 0 and ((following - before) & (span - 1)) < ahead <= half:
            return -1
        if ahead <= half:
            state[_LOOPS] += now < before
        elif now > before:
            if state[_LOOPS] == 0:  # before the beginning
                return -2
            state[_LOOPS] -= 1
    state[_BEFORE] = now
    return (state[_LOOPS] << bits) | now


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _keep(event: Any, n: int, stream: Any) -> int:
    """Write an event, or count why not; returns how many there are now."""
    t, x, y, polarity = event
    state, counts, size, out = stream
    if t == -1:
        counts[_DOUBT] += 1
    elif t < state[_LAST]:
        counts[_BACK] += 1
    elif x >= size[1] or y >= size[0]:
        counts[_OUT] += 1
    else:
        state[_LAST] = t
        out[0][n], out[1][n], out[2][n], out[3][n] = t * 1000, x, y, polarity
        return n + 1
    return n


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _decode_dat(words: Any, end: int, stream: Any) -> int:
    state, _, size, out = stream
    t_out, x_out, y_out, p_out = out
    height, width = np.int64(size[0]), np.int64(size[1])
    n, one, two = np.uint64(0), np.uint64(1), np.uint64(2)  # unsigned: no check for indices from the end
    total, place = np.uint64(len(words)), np.uint64(0)
    before, last, high = state[_BEFORE], state[_LAST], state[_LOOPS] << 32
    for _ in range(end):
        now, address = np.int64(words[place]), np.int64(words[place + one])
        place += two
        following = np.int64(words[place]) if place < total else np.int64(0xFFFFFFFF)
        x, y = address & 0x3FFF, (address >> 14) & 0x3FFF
        t = high | now
        usual = (before <= now) & (now <= following) & (t >= last) & (x < width) & (y < height)
        if usual and state[_BEGUN] and now - before <= 0x7FFFFFFF:
            t_out[n], x_out[n], y_out[n], p_out[n] = t * 1000, x, y, (address >> 28) & 1
            n += one
            before, last = now, t
            continue
        state[_BEFORE], state[_LAST] = before, last
        whole = _unwrapped(now, following if place < total else np.int64(-1), 32, state)
        n = np.uint64(_keep((whole, x, y, (address >> 28) & 1), np.int64(n), stream))
        before, last, high = state[_BEFORE], state[_LAST], state[_LOOPS] << 32
    state[_BEFORE], state[_LAST] = before, last
    return n  # type: ignore[return-value]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _decode_dat1(words: Any, end: int, stream: Any) -> int:
    n = 0
    for i in range(end):
        now, address = np.int64(words[2 * i]), np.int64(words[2 * i + 1])
        following = np.int64(words[2 * i + 2]) if 2 * i + 2 < len(words) else np.int64(-1)
        t = _unwrapped(now, following, 32, stream[0])
        n = _keep((t, address & 0x1FF, (address >> 9) & 0xFF, (address >> 17) & 1), n, stream)
    return n


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _is_davis_event(address: int) -> bool:
    return address >> 31 == 0 and (address >> 10) & 1 == 0


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _decode_davis(words: Any, end: int, stream: Any) -> int:
    counts = stream[1]
    n = 0
    total = len(words) // 2
    j = 0  # the next event's place, searched once
    for i in range(end):
        address, now = np.int64(words[2 * i]), np.int64(words[2 * i + 1])
        if not _is_davis_event(address):
            counts[_KINDS] += 1
            continue
        j = max(j, i + 1)
        while j < total and not _is_davis_event(np.int64(words[2 * j])):
            j += 1
        following = np.int64(words[2 * j + 1]) if j < total else np.int64(-1)
        t = _unwrapped(now, following, 32, stream[0])
        n = _keep((t, (address >> 12) & 0x3FF, (address >> 22) & 0x1FF, (address >> 11) & 1), n, stream)
    return n


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _decode_dvs128(words: Any, end: int, stream: Any) -> int:
    counts = stream[1]
    n = 0
    for i in range(end):
        address, now = np.int64(words[2 * i]), np.int64(words[2 * i + 1])
        following = np.int64(words[2 * i + 3]) if 2 * i + 3 < len(words) else np.int64(-1)
        if address >> 15:  # bit 15: an edge on the synchronisation input
            counts[_KINDS] += 1
            continue
        t = _unwrapped(now, following, 32, stream[0])
        n = _keep((t, (address >> 1) & 0x7F, (address >> 8) & 0x7F, 1 - (address & 1)), n, stream)
    return n


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _nmnist_time(rows: Any, i: int) -> Any:
    return (np.int64(rows[i, 2] & 0x7F) << 16) | (np.int64(rows[i, 3]) << 8) | np.int64(rows[i, 4])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _decode_nmnist(rows: Any, end: int, stream: Any) -> int:
    state, counts = stream[0], stream[1]
    mask = (1 << 23) - 1
    n = 0
    for i in range(end):
        if rows[i, 1] == 240:  # no pixel: the time has overflowed 13 bits
            state[_OVERFLOW] += 1 << 13
            counts[_KINDS] += 1
            continue
        following = np.int64(-1)
        if i + 1 < len(rows) and rows[i + 1, 1] != 240:
            following = (_nmnist_time(rows, i + 1) + state[_OVERFLOW]) & mask
        t = _unwrapped((_nmnist_time(rows, i) + state[_OVERFLOW]) & mask, following, 23, state)
        n = _keep((t, np.int64(rows[i, 0]), np.int64(rows[i, 1]), np.int64(rows[i, 2] >> 7)), n, stream)
    return n


class AddressWords(Decoder):
    """What these formats share: a word is held back until the next one confirms its time."""

    LOOP: ClassVar[Callable[[Any, int, Any], int]]
    KIND = "word of another kind"

    def __init__(self, height: int, width: int) -> None:
        super().__init__(height, width)
        self._state = np.zeros(_STATE_FIELDS, np.int64)

    def decode(self, data: bytes, *, last: bool) -> tuple[Decoded, int]:
        total = len(data) // self.WORD_BYTES
        end = total if last else max(0, total - 1)
        counts = np.zeros(_COUNT_FIELDS, np.int64)
        out = columns_for(end)
        n = type(self).LOOP(self.words(data), end, (self._state, counts, self.size, out))
        for reason, number in zip(_REASONS, counts, strict=False):
            self.count(reason, int(number))
        if counts[_KINDS]:
            self.other_words[self.KIND] += int(counts[_KINDS])
        return Decoded(first_events(out, n)), end * self.WORD_BYTES

    def words(self, data: bytes) -> NDArray[Any]:
        """Return the words as the loop takes them."""
        return np.frombuffer(data, "<u4")


class Dat(AddressWords):
    """DAT, version 2, events (types 0 and 12): 32 bits of time, 14 of x, 14 of y, four of polarity."""

    WORD_BYTES = 8
    LOOP = staticmethod(_decode_dat)


class Dat1(AddressWords):
    """DAT, version 1, of ATIS cameras: nine bits of x, eight of y, one of polarity."""

    WORD_BYTES = 8
    LOOP = staticmethod(_decode_dat1)


class DatTriggers(Decoder):
    """DAT of trigger edges (type 14): 32 bits of time, four of value, six of channel in the highest bits."""

    WORD_BYTES = 8
    TRIGGERS = True

    def __init__(self, height: int, width: int) -> None:
        super().__init__(height, width)
        self._loops, self._before = 0, 0

    def decode(self, data: bytes, *, last: bool) -> tuple[Decoded, int]:
        del last  # edges are far apart: nothing waits
        words = np.frombuffer(data, "<u4").reshape(-1, 2).astype(np.int64)
        times: list[int] = []
        for t in words[:, 0].tolist():
            self._loops += self._before - t > 1 << 31
            self._before = t
            times.append((self._loops << 32 | t) * 1000)
        return Decoded(triggers=Triggers.of(times, words[:, 1] >> 26, words[:, 1] & 0xF > 0)), len(data)


class Davis(AddressWords):
    """AEDAT-2 of a DAVIS: big-endian address and time; frames, IMU samples and edges are other words."""

    WORD_BYTES = 8
    LOOP = staticmethod(_decode_davis)
    KIND = "word of a frame, an IMU sample or an edge"

    def decode(self, data: bytes, *, last: bool) -> tuple[Decoded, int]:
        # What waits is the last event and all behind it: the next event may be many words of a frame away.
        words = self.words(data).reshape(-1, 2)
        events = np.flatnonzero((words[:, 0] >> 31 == 0) & (words[:, 0] >> 10 & 1 == 0))
        end = len(words) if last or not len(events) else int(events[-1]) + 1
        decoded, used = super().decode(data[: end * self.WORD_BYTES], last=last or not len(events))
        return decoded, used

    def words(self, data: bytes) -> NDArray[Any]:
        return np.frombuffer(data, ">u4").astype(np.uint32)


class Dvs128(AddressWords):
    """AEDAT-2 of a DVS128: seven bits of x and of y, as stored, and a polarity that is 0 for brighter."""

    WORD_BYTES = 8
    LOOP = staticmethod(_decode_dvs128)
    KIND = "edge on the synchronisation input"

    def words(self, data: bytes) -> NDArray[Any]:
        return np.frombuffer(data, ">u4").astype(np.uint32)


class Dvs128Short(Dvs128):
    """AEDAT-1 of a DVS128: an address of 16 bits."""

    WORD_BYTES = 6

    def words(self, data: bytes) -> NDArray[Any]:
        rows = np.frombuffer(data, np.dtype([("address", ">u2"), ("t", ">u4")]))
        return np.column_stack((rows["address"], rows["t"])).astype(np.uint32).ravel()


class Nmnist(AddressWords):
    """N-MNIST and N-Caltech101: 40 bits an event: x, y, polarity and 23 bits of time."""

    WORD_BYTES = 5
    LOOP = staticmethod(_decode_nmnist)
    KIND = "overflow of the time"

    def words(self, data: bytes) -> NDArray[Any]:
        return np.frombuffer(data, np.uint8).reshape(-1, 5)


__all__ = ["Dat", "Dat1", "DatTriggers", "Davis", "Dvs128", "Dvs128Short", "Nmnist"]
