"""Memory for the arrays of a node's outputs that is shared already, so that giving them out copies nothing.

A node asks for it with `Node.empty`, fills it and gives it out; `placing.py` says what becomes of what it keeps.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from perception.runtime.placing import Placing


class Places:
    """The memory for one node's outputs.

    Args:
        placings: by name of the output, of those that leave the process through shared memory alone.
        driving: for a source, which has a thread of its own: held by whoever uses the channels.
    """

    def __init__(self, placings: Mapping[str, Placing], driving: threading.Lock | None = None) -> None:
        self._placings, self._driving = placings, driving
        for placing in placings.values():
            placing.keeps_names = driving is not None

    def empty(self, output: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array for an output, in shared memory where there is a place for it."""
        placing, placed = self._placings.get(output), None
        if placing is not None:
            if self._driving is None:
                placed = placing.empty(shape, np.dtype(dtype))
            elif self._driving.acquire(blocking=False):
                try:
                    placed = placing.empty(shape, np.dtype(dtype))
                finally:
                    self._driving.release()
        return np.empty(shape, dtype) if placed is None else placed

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


__all__ = ["Places"]
