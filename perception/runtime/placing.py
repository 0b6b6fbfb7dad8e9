"""Arrays that are made where the record that begins with them will be, so that writing it copies nothing.

What is sent stays where it is as long as anybody in the writing process looks at it: the process borrows its own
record, as any reader does, through a reading end of its own. What could still be written to after it was given out is
copied instead, and counted; its place is not used again before nobody has it any more.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.errors import ChannelError
from perception.messages.codec import Record
from perception.runtime.slots import UNVIEWED, Slot

PLACED_FROM = 64 << 10
"""Bytes of an array that is worth a place of its own."""
PLACED_AT, PLACED_TAIL = 2048, 8192
"""Bytes before and behind a placed array: for header and body, and for smaller arrays and timing."""
MAX_HELD = 4
"""Places whose arrays may be kept, before what is made is plain memory."""


@dataclass(slots=True)
class Placed:
    """An array of the next record in its place, and what is loaned for it."""

    array: NDArray[Any]
    sample: Any
    slot: Slot
    room: int
    """Bytes of the place."""
    is_given: bool = False
    """Whether a node has it."""

    def is_viewed(self) -> bool:
        """True where anybody has a view of the place but the array itself and its writer."""
        return sys.getrefcount(self.slot.array) > UNVIEWED + 2


class Placing:
    """The placed arrays of one topic.

    Args:
        loan: loans a place of at least so many bytes, and says how many they are.
        subscribe: opens a reading end of the topic, for this process itself.
    """

    def __init__(self, loan: Callable[[int], tuple[Any, Slot, int]], subscribe: Callable[[], Any]) -> None:
        self._loan, self._subscribe = loan, subscribe
        self._own: Any = None
        self._next: Placed | None = None
        self._sent: Placed | None = None
        """What was sent in its place and is not borrowed yet."""
        self._is_behind = False
        """Whether a record was sent that the own reading end has not taken yet."""
        self._held: list[Slot] = []
        self._again: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        """Shape and dtype of the last array that was sent in its place."""
        self.keeps_names = False
        """Whether who gives out an array goes on with it in its hands, as a source does that yields it."""
        self.copied = 0
        """Arrays that were kept in a way that could have changed them."""

    @property
    def array(self) -> NDArray[Any] | None:
        """What was given to a node for the next record."""
        placed = self._next
        return placed.array if placed is not None and placed.is_given else None

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any] | None:
        """Return an array to be the first of the next record, in its place; None where there is no place for it."""
        placed = self._next
        if placed is not None and placed.is_given and (sys.getrefcount(placed.array) > UNVIEWED or placed.is_viewed()):
            return None  # it may still be given out
        if placed is None or placed.array.shape != shape or placed.array.dtype != dtype:
            self._next = placed = None
            self._next = placed = self._placed(shape, dtype)
            if placed is None:
                return None
        placed.is_given = True
        return placed.array

    def _placed(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Placed | None:
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes < PLACED_FROM or not self._has_hands_free():
            return None
        if self._own is None:
            self._own = self._subscribe()
        try:
            sample, slot, room = self._loan(PLACED_AT + nbytes + PLACED_TAIL)
        except ChannelError:  # it is told when there is a record
            return None
        slot.array.flags.writeable = True
        return Placed(slot.array[PLACED_AT : PLACED_AT + nbytes].view(dtype).reshape(shape), sample, slot, room)

    def _has_hands_free(self) -> bool:
        """Let go of the places that nobody looks at any more; False where too many are still held."""
        self.catch_up()
        for slot in self._held:
            if sys.getrefcount(slot.array) <= UNVIEWED + 1:  # its writer's view
                slot.sample = None
        self._held = [slot for slot in self._held if slot.sample is not None]
        return len(self._held) < MAX_HELD

    def take(self, record: Record) -> Placed | None:
        """Return where a record is to be sent whose array is in its place; None where it must be copied.

        The array does not change any more from then on.
        """
        placed = self._next
        if placed is None or not placed.is_given:
            return None
        self._next = None
        is_named = sys.getrefcount(placed.array) > UNVIEWED + 2  # by more than the message and the record
        is_kept = placed.is_viewed() or (is_named and not self.keeps_names)
        self.copied += is_kept
        placed.array.flags.writeable = placed.slot.array.flags.writeable = False
        if is_kept or record.size > placed.room:
            self._hold(placed, placed.sample)
            return None
        self._again = placed.array.shape, placed.array.dtype
        return placed

    def sent(self, placed: Placed | None) -> None:
        """Take that a record was sent, and where its array was placed."""
        self._sent, self._is_behind = placed, self._own is not None

    def catch_up(self) -> None:
        """Borrow what was sent last; before anything else is sent, and for when there is time.

        Raises:
            ChannelError: it is not there.
        """
        if not self._is_behind:
            return
        self._is_behind, sample = False, self._own.receive()
        placed, self._sent = self._sent, None
        if placed is not None:
            if sample is None:
                raise ChannelError("shared memory did not give a process its own record, whose array it may have kept")
            self._hold(placed, sample)

    def _hold(self, placed: Placed, sample: Any) -> None:
        placed.slot.sample = sample
        self._held.append(placed.slot)

    def prepare(self) -> None:
        """Make the next place ready, where it will be as the last; for when there is time."""
        if self._next is None and self._again is not None:
            self._next = self._placed(*self._again)


__all__ = ["MAX_HELD", "PLACED_AT", "PLACED_FROM", "Placed", "Placing"]
