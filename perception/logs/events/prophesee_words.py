"""The words of Prophesee's streams EVT2, EVT2.1 and EVT3, decoded by compiled loops.

All three send the high bits of the time in words of their own, which wrap around (EVT3 after 16.8 s, the others after
4.8 h): the shorter way around tells a wrap from a time that runs backwards, and the time goes on. A time word that
jumps is believed only if the next one, at most 65536 words later, does not go back behind it: events at a time that no
other word confirms are skipped, so that one flipped bit neither stamps them wrongly nor makes all later ones look late.
Times are microseconds in the files.

Source: Prophesee, "Event encoding formats" (docs.prophesee.ai, data/encoding_formats); order of the low and high time
words, and the fields of EVT2.1 in both orders of its halves, as in OpenEB's decoders (prophesee-ai/openeb,
hal/cpp/include/metavision/hal/decoders, Apache-2.0), read; EVT2 and EVT3 checked against recordings whose events
independent decoders listed.
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

LOOK_AHEAD_WORDS = 1 << 16
_unsigned: Any = np.uint64
_SPARE = 32
"""Entries behind the last event, which a vector may write before it counts."""
_NO_TIME = -(1 << 60)
_ONES = np.array([bin(value).count("1") for value in range(1 << 12)], np.uint8)
_LOWEST = np.array([max(0, (value & -value).bit_length() - 1) for value in range(1 << 12)], np.uint8)
"""Ones in twelve bits, and the place of the lowest."""
# Fields of the state that a stream carries from word to word.
_HIGH, _LOOPS, _BASE_TIME, _LOW, _ROW, _COLUMN, _POLARITY, _LAST, _STATE_FIELDS = range(9)
# Fields of the counts.
_EARLY, _EARLY_EDGE, _BACK, _DOUBT, _OUT, _UNKNOWN, _NO_ROW, _COUNT_FIELDS = range(8)
_REASONS = (
    "event before the first time word", "trigger without a sound time", BACKWARDS, CONTRADICTED, OUTSIDE,
    "unknown word", "event before its row",
)  # fmt: skip


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _take_high(high: int, following: int, bits: int, low_bits: int, state: Any) -> None:
    """Take the high bits of the time; `following` is those of the next time word, or -1 where there is none."""
    span = 1 << bits
    before = state[_HIGH]
    if before < 0:  # the first one: believed unless the next one is earlier
        if following >= 0 and ((following - high) & (span - 1)) > span >> 1:
            state[_BASE_TIME] = _NO_TIME
            return
    else:
        ahead = (high - before) & (span - 1)
        if ahead > 1 and following >= 0 and ((following - before) & (span - 1)) < ahead:
            state[_BASE_TIME] = _NO_TIME
            return
        if ahead <= span >> 1:
            state[_LOOPS] += high < before
        elif high > before and state[_LOOPS] > 0:
            state[_LOOPS] -= 1  # a late word from before the wrap
    if high != before or state[_BASE_TIME] == _NO_TIME:
        state[_LOW] = 0
    state[_HIGH] = high
    state[_BASE_TIME] = ((state[_LOOPS] << bits) | high) << low_bits


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_skipped(t: int, x: int, y: int, size: Any, state: Any, counts: Any) -> None:
    """Count an event under the first reason that holds."""
    if t < 0:
        counts[_EARLY if state[_HIGH] < 0 else _DOUBT] += 1
    elif y < 0:
        counts[_NO_ROW] += 1
    elif x >= size[1] or y >= size[0]:
        counts[_OUT] += 1
    else:
        counts[_BACK] += 1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _edge(t: int, channel: int, rising: int, k: int, edges: Any, counts: Any) -> int:
    """Write a trigger edge, or count why not; returns how many there are now."""
    if t < 0:
        counts[_EARLY_EDGE] += 1
        return k
    edges[0][k], edges[1][k], edges[2][k] = t * 1000, channel, rising
    return k + 1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _following_evt3(words: Any, begin: Any) -> Any:
    first: Any = np.int64(begin)
    for i in range(first, min(len(words), first + LOOK_AHEAD_WORDS)):
        if words[i] >> 12 == 0x8:
            return np.int64(words[i] & 0xFFF)
    return -1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _decode_evt3(words: Any, end: int, stream: Any) -> Any:
    """Decode the words before `end`; those behind it may be looked at. Returns the numbers of events and edges."""
    state, counts, size, out, edges, lowest = stream
    t_out, x_out, y_out, p_out = out
    height, width = np.int64(size[0]), np.int64(size[1])
    n, one, k = _unsigned(0), _unsigned(1), 0  # unsigned: no check for indices from the end
    row, last = state[_ROW], state[_LAST]
    column, polarity = state[_COLUMN], state[_POLARITY]
    base_time = state[_BASE_TIME]
    t = base_time + state[_LOW]
    for i in range(_unsigned(end)):
        word = np.int64(words[i])
        kind = word >> 12
        value = word & 0x7FF
        if kind == 0x2:
            t_out[n], x_out[n], y_out[n], p_out[n] = t * 1000, value, row, (word >> 11) & 1
            if t >= last and value < width and 0 <= row < height:
                last = t
                n += one
            else:
                state[_LAST] = last
                _count_skipped(t, value, row, size, state, counts)
        elif kind == 0x0:
            row = value
        elif kind == 0x6:
            t = base_time + (word & 0xFFF)
        elif kind in (0x4, 0x5):
            length = 12 if kind == 0x4 else 8
            hits = word & ((1 << length) - 1)
            if hits:
                sound = t >= last and column + length <= width and 0 <= row < height
                before = n
                while hits:
                    x = column + np.int64(lowest[hits & -hits])
                    hits &= hits - 1
                    t_out[n], x_out[n], y_out[n], p_out[n] = t * 1000, x, row, polarity
                    if sound or (t >= last and x < width and 0 <= row < height):
                        n += one
                    else:
                        _count_skipped(t, x, row, size, state, counts)
                if n > before:
                    last = t
            column += length
        elif kind == 0x3:
            column, polarity = value, (word >> 11) & 1
        elif kind == 0x8:
            high = word & 0xFFF
            if high != state[_HIGH] or base_time == _NO_TIME:
                following = _following_evt3(words, i + one)
                _take_high(high, following, 12, 12, state)
                base_time = state[_BASE_TIME]
                t = base_time
        elif kind == 0xA:
            k = _edge(t, (word >> 8) & 0xF, word & 1, k, edges, counts)
        elif kind not in (0x7, 0xE, 0xF):
            counts[_UNKNOWN] += 1
    state[_ROW], state[_LAST], state[_COLUMN], state[_POLARITY] = row, last, column, polarity
    state[_LOW] = t - base_time
    return n, k


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _following_evt2(words: Any, begin: Any) -> Any:
    first: Any = np.int64(begin)
    for i in range(first, min(len(words), first + LOOK_AHEAD_WORDS)):
        if words[i] >> 28 == 0x8:
            return np.int64(words[i] & 0xFFFFFFF)
    return -1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _decode_evt2(words: Any, end: int, stream: Any) -> Any:
    """As `_decode_evt3`."""
    state, counts, size, out, edges, _ = stream
    t_out, x_out, y_out, p_out = out
    height, width = np.int64(size[0]), np.int64(size[1])
    n, one, k = _unsigned(0), _unsigned(1), 0  # unsigned: no check for indices from the end
    last, base_time = state[_LAST], state[_BASE_TIME]
    for i in range(_unsigned(end)):
        word = np.int64(words[i])
        kind = word >> 28
        if kind <= 0x1:
            t, x, y = base_time + ((word >> 22) & 0x3F), (word >> 11) & 0x7FF, word & 0x7FF
            t_out[n], x_out[n], y_out[n], p_out[n] = t * 1000, x, y, kind
            if t >= last and x < width and y < height:
                last = t
                n += one
            else:
                state[_LAST] = last
                _count_skipped(t, x, y, size, state, counts)
        elif kind == 0x8:
            high = word & 0xFFFFFFF
            if high != state[_HIGH] or base_time == _NO_TIME:
                step = high - state[_HIGH]
                following = -1 if 0 <= step <= 1 else _following_evt2(words, i + one)
                _take_high(high, following, 28, 6, state)
                base_time = state[_BASE_TIME]
        elif kind == 0xA:
            k = _edge(base_time + ((word >> 22) & 0x3F), (word >> 8) & 0x1F, word & 1, k, edges, counts)
        elif kind not in (0xE, 0xF):
            counts[_UNKNOWN] += 1
    state[_LAST] = last
    return n, k


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _following_evt21(words: Any, begin: Any) -> Any:
    first: Any = np.int64(begin)
    for i in range(first, min(len(words), first + LOOK_AHEAD_WORDS)):
        upper = np.int64(words[i] >> np.uint64(32))
        if upper >> 28 == 0x8:
            return upper & 0xFFFFFFF
    return -1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _decode_evt21(words: Any, end: int, stream: Any) -> Any:
    """As `_decode_evt3`."""
    state, counts, size, out, edges, lowest = stream
    t_out, x_out, y_out, p_out = out
    height, width = np.int64(size[0]), np.int64(size[1])
    n, one, k = _unsigned(0), _unsigned(1), 0  # unsigned: no check for indices from the end
    last, base_time = state[_LAST], state[_BASE_TIME]
    for i in range(_unsigned(end)):
        upper, valid = np.int64(words[i] >> np.uint64(32)), np.int64(words[i] & np.uint64(0xFFFFFFFF))
        kind = upper >> 28
        if kind <= 0x1:
            t, x, y = base_time + ((upper >> 22) & 0x3F), (upper >> 11) & 0x7FF, upper & 0x7FF
            for begin in (0, 12, 24):
                hits = (valid >> begin) & 0xFFF
                while hits:
                    place = x + begin + np.int64(lowest[hits & -hits])
                    hits &= hits - 1
                    if t >= last and place < width and y < height:
                        t_out[n], x_out[n], y_out[n], p_out[n] = t * 1000, place, y, kind
                        last = t
                        n += one
                    else:
                        _count_skipped(t, place, y, size, state, counts)
        elif kind == 0x8:
            high = upper & 0xFFFFFFF
            if high != state[_HIGH] or base_time == _NO_TIME:
                step = high - state[_HIGH]
                following = -1 if 0 <= step <= 1 else _following_evt21(words, i + one)
                _take_high(high, following, 28, 6, state)
                base_time = state[_BASE_TIME]
        elif kind == 0xA:
            k = _edge(base_time + ((upper >> 22) & 0x3F), (upper >> 8) & 0x1F, upper & 1, k, edges, counts)
        elif kind not in (0xE, 0xF):
            counts[_UNKNOWN] += 1
    state[_LAST] = last
    return n, k


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _room_evt3(words: Any, end: int, ones: Any) -> int:
    n = 0
    for i in range(end):
        word = words[i]
        kind = word >> 12
        n += kind == 0x2
        if kind == 0x4:
            n += ones[word & 0xFFF]
        elif kind == 0x5:
            n += ones[word & 0xFF]
    return n


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _room_evt21(words: Any, end: int, ones: Any) -> int:
    n = 0
    for i in range(end):
        if words[i] >> np.uint64(61) == 0:
            valid = np.int64(words[i] & np.uint64(0xFFFFFFFF))
            n += ones[valid & 0xFFF] + ones[(valid >> 12) & 0xFFF] + ones[valid >> 24]
    return n


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _last_time_word(words: Any, shift: Any) -> int:
    """Return the place of the last word of type 8, or the number of words where there is none."""
    for i in range(len(words) - 1, -1, -1):
        if words[i] >> shift == 0x8:
            return i
    return len(words)


class PropheseeStream(Decoder):
    """What the three formats share."""

    WORD: ClassVar[str]
    TYPE_SHIFT: ClassVar[int]
    LOOP: ClassVar[Callable[[Any, int, Any], tuple[int, int]]]
    ROOM: ClassVar[Callable[[Any, int, Any], int] | None] = None
    """Counts events beforehand, where a word may hold several."""
    TRIGGERS = True

    def __init__(self, height: int, width: int) -> None:
        super().__init__(height, width)
        self.WORD_BYTES = np.dtype(self.WORD).itemsize
        self._state = np.zeros(_STATE_FIELDS, np.int64)
        self._state[_HIGH] = self._state[_ROW] = -1
        self._state[_BASE_TIME] = _NO_TIME

    def decode(self, data: bytes, *, last: bool) -> tuple[Decoded, int]:
        words = self.words(np.frombuffer(data, self.WORD))
        end = len(words) if last else self._decided(words)
        counts = np.zeros(_COUNT_FIELDS, np.int64)
        count = type(self).ROOM
        room = (end if count is None else count(words, end, _ONES)) + _SPARE
        out = columns_for(room)
        edges = (np.empty(end, np.int64), np.empty(end, np.uint8), np.empty(end, np.uint8))
        n, k = type(self).LOOP(words, end, (self._state, counts, self.size, out, edges, _LOWEST))
        for reason, number in zip(_REASONS, counts, strict=False):
            self.count(reason, int(number))
        t, channel, value = edges[0][:k].copy(), edges[1][:k].copy(), edges[2][:k] > 0
        return Decoded(first_events(out, n), Triggers(t, channel, value)), end * self.WORD_BYTES

    def _decided(self, words: NDArray[Any]) -> int:
        """Return how many words can be decoded: from the last time word on, what follows it must be seen first."""
        last = int(_last_time_word(words, words.dtype.type(self.TYPE_SHIFT)))
        return len(words) if len(words) - last > LOOK_AHEAD_WORDS else last

    def words(self, words: NDArray[Any]) -> NDArray[Any]:
        """Return the words as the loop takes them."""
        return words


class Evt3(PropheseeStream):
    """EVT3: 16-bit words, each changing a part of the state; vectors of up to 12 events in a word."""

    WORD = "<u2"
    TYPE_SHIFT = 12
    LOOP = staticmethod(_decode_evt3)
    ROOM = staticmethod(_room_evt3)


class Evt2(PropheseeStream):
    """EVT2: a 32-bit word per event."""

    WORD = "<u4"
    TYPE_SHIFT = 28
    LOOP = staticmethod(_decode_evt2)


class Evt21(PropheseeStream):
    """EVT2.1: a 64-bit word for up to 32 events in a row of the sensor."""

    WORD = "<u8"
    TYPE_SHIFT = 60
    LOOP = staticmethod(_decode_evt21)
    ROOM = staticmethod(_room_evt21)


class Evt21Legacy(Evt21):
    """EVT2.1 as an IMX636 sends it, a half after the other, the upper first: `endianness=legacy` in the header."""

    def words(self, words: NDArray[Any]) -> NDArray[Any]:
        return (words >> np.uint64(32)) | (words << np.uint64(32))


__all__ = ["LOOK_AHEAD_WORDS", "Evt2", "Evt3", "Evt21", "Evt21Legacy", "PropheseeStream"]
