"""The places of a topic's pool in shared memory, as its writer or one of its readers sees them."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

MAX_SLOTS = 1024
"""Places of a pool that are remembered."""
UNVIEWED = 2
"""References to a place's array by `sys.getrefcount` where there is no view: the place's own, and its argument."""


class Extent(ctypes.Structure):
    """What stands beside a record: how many bytes it has, exactly, and its cuts, where body and timing begin."""

    _fields_ = [("numbers", ctypes.c_uint64 * 3)]

    @staticmethod
    def type_name() -> str:
        return "PerceptionExtent"


class Slot:
    """One place of a topic's pool. Records come to the same few places again and again: what refers to one is kept.

    Args:
        sample: what was loaned or received there.
        least: bytes that it holds for certain; what is beyond them is never touched.
    """

    __slots__ = ("array", "extent", "room", "sample", "view", "written")

    def __init__(self, sample: Any, least: int) -> None:
        self.room = 1 << (least - 1).bit_length()  # few sizes: each makes a type, which ctypes keeps
        self.written = 0
        """Bytes of it that its writer has written before: these are there for certain."""
        memory = memoryview((ctypes.c_uint8 * self.room).from_address(sample.payload_ptr))
        self.array = np.frombuffer(memory, np.uint8)
        self.view: memoryview | None = None
        """For its writer: the same memory, which may be written to whatever the array's flags say."""
        self.extent = extent_of(sample)
        self.sample: Any = None
        """Borrowed as long as it stands here."""


def extent_of(sample: Any) -> memoryview:
    """Return a record's size and cuts, three integers."""
    return memoryview(Extent.from_address(sample.user_header_ptr).numbers).cast("B").cast("Q")


class Slots(dict[int, Slot]):
    """The places of a pool by address; those of one that was given up for a larger one are forgotten in time."""

    def add(self, sample: Any, least: int) -> Slot:
        """Refer to a place that is new, or holds more than was known."""
        if len(self) >= MAX_SLOTS:
            self.clear()
        slot = self[sample.payload_ptr] = Slot(sample, least)
        return slot


__all__ = ["UNVIEWED", "Extent", "Slot", "Slots", "extent_of"]
