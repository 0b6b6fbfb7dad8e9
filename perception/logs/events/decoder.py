"""What every event format gives: bytes in any pieces become events and triggers, a piece at a time.

Nothing depends on where the pieces are cut. What cannot be decoded is skipped and counted by reason, and so are events
whose time cannot be right: the events that come out have times that never fall.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.messages import Message
from perception.ops.events import Events

BACKWARDS = "event whose time runs backwards"
CONTRADICTED = "event at a time that the next one contradicts"
OUTSIDE = "event outside the sensor"
CUT_OFF = "byte of a word that is cut off"


@dataclass(frozen=True)
class Triggers:
    """Edges on external trigger inputs, in the order of time."""

    t_ns: NDArray[np.int64]
    channel: NDArray[np.uint8]
    rising: NDArray[np.bool_]

    @classmethod
    def of(cls, t_ns: Any, channel: Any, rising: Any) -> Self:
        """Convert array-likes."""
        return cls(np.asarray(t_ns, np.int64), np.asarray(channel, np.uint8), np.asarray(rising, np.bool_))

    @classmethod
    def none(cls) -> Self:
        """Return no triggers."""
        return cls.of([], [], [])

    @classmethod
    def joined(cls, parts: Iterable[Triggers]) -> Self:
        """Put parts behind each other."""
        given = list(parts) or [cls.none()]
        return cls(
            np.concatenate([part.t_ns for part in given]),
            np.concatenate([part.channel for part in given]),
            np.concatenate([part.rising for part in given]),
        )

    def __len__(self) -> int:
        return len(self.t_ns)

    def __getitem__(self, chosen: slice) -> Triggers:
        return Triggers(self.t_ns[chosen], self.channel[chosen], self.rising[chosen])


@dataclass(frozen=True)
class Decoded:
    """What came out of some bytes."""

    events: Events = field(default_factory=Events.none)
    triggers: Triggers = field(default_factory=Triggers.none)
    others: tuple[tuple[str, Message], ...] = ()
    """What else the camera measures: last part of its topic, such as "imu", and message; in the order of time."""


class Decoder(ABC):
    """Decodes one stream of words.

    Args:
        height: rows of the sensor.
        width: columns of the sensor; events beyond them are skipped and counted.
    """

    WORD_BYTES: int
    TRIGGERS = False
    """Whether the format can hold trigger edges."""

    def __init__(self, height: int, width: int) -> None:
        self.size = (height, width)
        self.skipped: Counter[str] = Counter()
        self.other_words: Counter[str] = Counter()
        """Sound words that are neither events nor triggers, by kind."""
        self._rest = b""

    def feed(self, data: bytes) -> Decoded:
        """Decode the next bytes; those that cannot be decided yet wait for the next call."""
        return self._decode(self._rest + data if self._rest else data, last=False)

    def finish(self) -> Decoded:
        """Decode what waits; what a stream that ends in the middle of a word leaves behind is counted."""
        decoded = self._decode(self._rest, last=True)
        self.count(CUT_OFF, len(self._rest))
        self._rest = b""
        return decoded

    def _decode(self, data: bytes, *, last: bool) -> Decoded:
        whole = len(data) // self.WORD_BYTES * self.WORD_BYTES
        decoded, used = self.decode(data if whole == len(data) else data[:whole], last=last)
        self._rest = data[used:]
        return decoded

    @abstractmethod
    def decode(self, data: bytes, *, last: bool) -> tuple[Decoded, int]:
        """Decode whole words; return what came out, and how many bytes are done with.

        `last`: nothing comes any more, so that nothing may wait.
        """

    def count(self, reason: str, number: int) -> None:
        """Count what was skipped."""
        if number:
            self.skipped[reason] += int(number)


Columns: TypeAlias = tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint8]]


def columns_for(room: int) -> Columns:
    """Return empty columns t, x, y and polarity for a loop to fill."""
    return np.empty(room, np.int64), np.empty(room, np.uint16), np.empty(room, np.uint16), np.empty(room, np.uint8)


def first_events(columns: Columns, count: int) -> Events:
    """Return the first events of columns, without a copy."""
    t, x, y, polarity = columns
    return Events(t[:count], x[:count], y[:count], polarity[:count])


__all__ = [
    "BACKWARDS",
    "CONTRADICTED",
    "CUT_OFF",
    "OUTSIDE",
    "Columns",
    "Decoded",
    "Decoder",
    "Triggers",
    "columns_for",
    "first_events",
]
