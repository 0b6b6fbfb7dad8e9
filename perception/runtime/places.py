"""Memory for the arrays of a node's outputs that is shared already, so that giving them out copies nothing.

A node asks for it with `Node.empty`, fills it and gives it out. What it holds on to afterwards is copied after all, and
counted: the place is taken from the pool until nobody looks at it any more, so that its data never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from perception.runtime.shared_memory import Writer


class Places:
    """The memory for one node's outputs.

    Args:
        writers: by name of the output, of those that leave the process through shared memory alone.
    """

    def __init__(self, writers: Mapping[str, Writer]) -> None:
        self._writers = writers

    def empty(self, output: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array for an output, in shared memory where there is a place for it."""
        writer = self._writers.get(output)
        placed = None if writer is None else writer.place(shape, np.dtype(dtype))
        return np.empty(shape, dtype) if placed is None else placed

    @property
    def copied(self) -> int:
        """Arrays that the node kept, so that they were copied."""
        return sum(writer.copied for writer in self._writers.values())

    def hold(self, array: NDArray[Any]) -> bool:
        """True where an array is one of these."""
        return any(writer.has_placed(array) for writer in self._writers.values())


__all__ = ["Places"]
