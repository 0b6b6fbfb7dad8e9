"""Memory for the arrays of a node's outputs that is shared already, so that giving them out copies nothing.

A node asks for it with `Node.empty`, fills it and gives it out; `placing.py` says what becomes of what it keeps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from perception.runtime.placing import Placing

SENT_NS = 400_000
"""What an array is asked for is expected to be sent as soon after that as the last time: below this, in a moment."""


class Places:
    """The memory for one node's outputs.

    Args:
        placings: by name of the output, of those that leave the process through shared memory alone.
    """

    def __init__(self, placings: Mapping[str, Placing]) -> None:
        self._placings = placings

    def empty(self, output: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array for an output, in shared memory where there is a place for it."""
        placing = self._placings.get(output)
        placed = None if placing is None else placing.empty(shape, np.dtype(dtype))
        return np.empty(shape, dtype) if placed is None else placed

    def gave_out(self, output: str) -> None:
        """Take that a message was given out and sent."""

    @property
    def copied(self) -> int:
        """Arrays that the node kept, so that they were copied."""
        return sum(placing.copied for placing in self._placings.values())

    def hold(self, array: NDArray[Any]) -> bool:
        """True where an array was made here and is not given out yet."""
        for placing in self._placings.values():  # noqa: SIM110 - a generator costs as much as all of this
            if placing.array is array:
                return True
        return False


class SourcePlaces(Places):
    """The memory for a source's outputs, where it has a thread of its own.

    A source that asks for memory has something to give out, which it fills that with first: who reads it is woken
    meanwhile, where the last time took no longer than a wake-up is worth.

    Args:
        placings: as of `Places`.
        driving: held by whoever uses the channels; while another thread does, arrays are plain memory.
        announce: called with the topics on which something is given out in a moment.
    """

    def __init__(
        self, placings: Mapping[str, Placing], driving: threading.Lock, announce: Callable[[Iterable[str]], None]
    ) -> None:
        super().__init__(placings)
        self._driving, self._announce = driving, announce
        self._asked_ns: dict[str, int] = {}
        self._is_quick: dict[str, bool] = {}
        for placing in placings.values():
            placing.keeps_names = True

    def empty(self, output: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array for an output, a topic; who reads it may be woken."""
        array = None
        if self._driving.acquire(blocking=False):
            try:
                if self._is_quick.get(output, False):
                    self._announce((output,))
                array = super().empty(output, shape, dtype)
            finally:
                self._driving.release()
        self._asked_ns[output] = time.monotonic_ns()
        return np.empty(shape, dtype) if array is None else array

    def gave_out(self, output: str) -> None:
        """Take that a message was given out and sent, to know how soon after its memory was asked for."""
        asked_ns = self._asked_ns.pop(output, None)
        self._is_quick[output] = asked_ns is not None and time.monotonic_ns() - asked_ns < SENT_NS


__all__ = ["Places", "SourcePlaces"]
