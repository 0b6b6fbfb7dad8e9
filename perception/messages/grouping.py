"""Tuples of different lengths, as messages hold them, out of one row of all their items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def grouped(items: Iterable[T], ends: Sequence[int]) -> list[tuple[T, ...]]:
    """Return items as tuples, given where each tuple ends; the next one begins there."""
    flat = tuple(items)
    each = ends[0] if ends else 0
    if each and ends == [*range(each, len(flat) + 1, each)]:  # all of one length, as most are
        return list(zip(*[iter(flat)] * each, strict=True))
    return [flat[begin:end] for begin, end in zip((0, *ends), ends, strict=False)]


__all__ = ["grouped"]
