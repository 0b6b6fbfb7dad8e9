"""Rows of numbers in shared memory of which only the newest counts, such as the bounds of a process' topics."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RowWriter:
    """The writing end of a row of numbers."""

    def __init__(self, publisher: Any, count: int) -> None:
        self._publisher, self._count = publisher, count

    def write(self, row: Sequence[int]) -> None:
        """Write the newest numbers; what a reader has not read yet is replaced."""
        sample = self._publisher.loan_slice_uninit(self._count)
        memory = (ctypes.c_int64 * self._count).from_address(sample.payload_ptr)
        memory[:] = list(row)
        sample.assume_init().send()


class RowReader:
    """A reading end of a row of numbers."""

    def __init__(self, subscriber: Any, count: int) -> None:
        self._subscriber, self._count = subscriber, count

    def take(self) -> NDArray[np.int64] | None:
        """Return the newest row, or None where nothing is new."""
        sample = self._subscriber.receive()
        if sample is None:
            return None
        return np.array((ctypes.c_int64 * self._count).from_address(sample.payload_ptr), np.int64)


__all__ = ["RowReader", "RowWriter"]
