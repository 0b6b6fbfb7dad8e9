"""The words of Prophesee's streams EVT2, EVT2.1 and EVT3, decoded by compiled loops.

All three send the high bits of the time in words of their own, which wrap around (EVT3 after 16.8 s, the others after
4.8 h): a fall by more than half of the range is a wrap, and the time goes on. Times are microseconds.

Source: Prophesee, "Event encoding formats" (docs.prophesee.ai, data/encoding_formats), read; checked against recordings
whose events an independent decoder listed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numba
import numpy as np
from numpy.typing import NDArray

from perception.logs.events.decoder import BACKWARDS, OUTSIDE, Decoded, Decoder, Triggers
from perception.ops.events import Events

_PIECE_WORDS = 1 << 16
# Fields of the state that a stream carries from word to word.
_HIGH, _LOOPS, _LOW, _ROW, _BASE, _POLARITY, _LAST, _HAVE_TIME, _HAVE_ROW = range(9)
# Fields of the counts.
_EARLY, _EARLY_EDGE, _BACK, _OUT, _UNKNOWN, _NO_ROW = range(6)
_REASONS = (
    "event before the first time word", "trigger before the first time word", BACKWARDS, OUTSIDE, "unknown word",
    "event before its row",
)  # fmt: skip


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _take_high(high: int, bits: int, state: Any) -> None:
    """Take the high bits of the time; a fall by more than half of their range is a wrap."""
    if state[_HAVE_TIME] and high < state[_HIGH] and state[_HIGH] - high > (1 << (bits - 1)):
        state[_LOOPS] += 1
    if not state[_HAVE_TIME] or high != state[_HIGH]:
        state[_LOW] = 0
    state[_HIGH] = high
    state[_HAVE_TIME] = 1


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _emit(event: Any, n: int, stream: Any) -> int:
    """Write one event, or count why not; returns how many there are now."""
    state, counts, size, out = stream
    t, x, y, polarity = event
    if not state[_HAVE_TIME]:
        counts[_EARLY] += 1
    elif t < state[_LAST]:
        counts[_BACK] += 1
    elif x >= size[1] or y >= size[0]:
        counts[_OUT] += 1
    else:
        state[_LAST] = t
        out[0][n], out[1][n], out[2][n], out[3][n] = t, x, y, polarity
        return n + 1
    return n


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _edge(edge: Any, k: int, stream: Any) -> int:
    """Write one trigger, or count why not; returns how many there are now."""
    state, counts, _, out = stream
    if not state[_HAVE_TIME]:
        counts[_EARLY_EDGE] += 1
        return k
    out[4][k], out[5][k], out[6][k] = edge
    return k + 1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _decode_evt3(words: Any, stream: Any) -> tuple[int, int]:
    state, counts, _, _ = stream
    n, k = 0, 0
    for i in range(len(words)):
        word = np.int64(words[i])
        kind = word >> 12
        t = (((state[_LOOPS] << 12) | state[_HIGH]) << 12) | state[_LOW]
        if kind == 0x2:
            if state[_HAVE_ROW]:
                n = _emit((t, word & 0x7FF, state[_ROW], (word >> 11) & 1), n, stream)
            else:
                counts[_NO_ROW] += 1
        elif kind == 0x6:
            state[_LOW] = word & 0xFFF
        elif kind == 0x0:
            state[_ROW] = word & 0x7FF
            state[_HAVE_ROW] = 1
        elif kind == 0x3:
            state[_BASE] = word & 0x7FF
            state[_POLARITY] = (word >> 11) & 1
        elif kind in {0x4, 0x5}:
            length = 12 if kind == 0x4 else 8
            for j in range(length):
                if (word >> j) & 1:
                    if state[_HAVE_ROW]:
                        n = _emit((t, state[_BASE] + j, state[_ROW], state[_POLARITY]), n, stream)
                    else:
                        counts[_NO_ROW] += 1
            state[_BASE] += length
        elif kind == 0x8:
            _take_high(word & 0xFFF, 12, state)
        elif kind == 0xA:
            k = _edge((t, (word >> 8) & 0xF, word & 1), k, stream)
        elif kind not in {0x7, 0xE, 0xF}:
            counts[_UNKNOWN] += 1
    return n, k


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _decode_evt2(words: Any, stream: Any) -> tuple[int, int]:
    state, counts, _, _ = stream
    n, k = 0, 0
    for i in range(len(words)):
        word = np.int64(words[i])
        kind = word >> 28
        t = (((state[_LOOPS] << 28) | state[_HIGH]) << 6) | ((word >> 22) & 0x3F)
        if kind <= 0x1:
            n = _emit((t, (word >> 11) & 0x7FF, word & 0x7FF, kind), n, stream)
        elif kind == 0x8:
            _take_high(word & 0xFFFFFFF, 28, state)
        elif kind == 0xA:
            k = _edge((t, (word >> 8) & 0x1F, word & 1), k, stream)
        elif kind not in {0xE, 0xF}:
            counts[_UNKNOWN] += 1
    return n, k


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _decode_evt21(words: Any, stream: Any) -> tuple[int, int]:
    state, counts, _, _ = stream
    n, k = 0, 0
    for i in range(len(words)):
        upper, valid = np.int64(words[i] >> np.uint64(32)), np.int64(words[i] & np.uint64(0xFFFFFFFF))
        kind = upper >> 28
        t = (((state[_LOOPS] << 28) | state[_HIGH]) << 6) | ((upper >> 22) & 0x3F)
        if kind <= 0x1:
            for j in range(32):
                if (valid >> j) & 1:
                    n = _emit((t, ((upper >> 11) & 0x7FF) + j, upper & 0x7FF, kind), n, stream)
        elif kind == 0x8:
            _take_high(upper & 0xFFFFFFF, 28, state)
        elif kind == 0xA:
            k = _edge((t, (upper >> 8) & 0x1F, upper & 1), k, stream)
        elif kind not in {0xE, 0xF}:
            counts[_UNKNOWN] += 1
    return n, k


class PropheseeStream(Decoder):
    """What the three formats share: state, and buffers that are filled again and again."""

    WORD: ClassVar[str]
    MOST_EVENTS_PER_WORD: ClassVar[int]
    LOOP: ClassVar[Callable[[Any, Any], tuple[int, int]]]

    def __init__(self, height: int, width: int) -> None:
        """Start a stream of a sensor with this many rows and columns; events beyond it are skipped and counted."""
        super().__init__()
        self.WORD_BYTES = np.dtype(self.WORD).itemsize
        self._size = (height, width)
        self._state = np.zeros(9, np.int64)
        self._state[_LAST] = np.iinfo(np.int64).min
        room = _PIECE_WORDS * self.MOST_EVENTS_PER_WORD
        types = ((room, np.int64), (room, np.uint16), (room, np.uint16), (room, np.uint8))
        edge_types = ((_PIECE_WORDS, np.int64), (_PIECE_WORDS, np.uint8), (_PIECE_WORDS, np.uint8))
        self._out: tuple[Any, ...] = tuple(np.empty(length, dtype) for length, dtype in (*types, *edge_types))

    def decode(self, data: bytes) -> Decoded:
        """Decode whole words."""
        words = self.words(np.frombuffer(data, self.WORD))
        counts = np.zeros(len(_REASONS), np.int64)
        events: list[Events] = []
        triggers: list[Triggers] = []
        for begin in range(0, len(words), _PIECE_WORDS):
            stream = (self._state, counts, self._size, self._out)
            n, k = type(self).LOOP(words[begin : begin + _PIECE_WORDS], stream)
            t, x, y, polarity, t_edge, channel, value = self._out
            events.append(Events(t[:n] * 1000, x[:n].copy(), y[:n].copy(), polarity[:n].copy()))
            triggers.append(Triggers(t_edge[:k] * 1000, channel[:k].copy(), value[:k] > 0))
        for reason, number in zip(_REASONS, counts, strict=True):
            self.count(reason, int(number))
        return Decoded(Events.joined(events), Triggers.joined(triggers))

    def words(self, words: NDArray[Any]) -> NDArray[Any]:
        """Return the words as the loop takes them."""
        return words


class Evt3(PropheseeStream):
    """EVT3: 16-bit words, each changing a part of the state; vectors of up to 12 events in a word."""

    WORD = "<u2"
    MOST_EVENTS_PER_WORD = 12
    LOOP = staticmethod(_decode_evt3)


class Evt2(PropheseeStream):
    """EVT2: a 32-bit word per event."""

    WORD = "<u4"
    MOST_EVENTS_PER_WORD = 1
    LOOP = staticmethod(_decode_evt2)


class Evt21(PropheseeStream):
    """EVT2.1: a 64-bit word for up to 32 events in a row of the sensor."""

    WORD = "<u8"
    MOST_EVENTS_PER_WORD = 32
    LOOP = staticmethod(_decode_evt21)

    def __init__(self, height: int, width: int, *, swapped_halves: bool = False) -> None:
        """As for the others; in the legacy form of the format the halves of each word are swapped."""
        super().__init__(height, width)
        self._swapped = swapped_halves

    def words(self, words: NDArray[Any]) -> NDArray[Any]:
        """Return the words with the type in the highest bits."""
        return (words >> np.uint64(32)) | (words << np.uint64(32)) if self._swapped else words
