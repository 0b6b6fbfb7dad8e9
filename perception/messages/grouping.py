"""Tuples of different lengths, as messages hold them, out of one row of all their items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")


def grouped(items: Iterable[T], ends: Sequence[int]) -> list[tuple[T, ...]]:
    """Return items as tuples, given where each tuple ends; the next one begins there."""
    flat = tuple(items)
    return [flat[begin:end] for begin, end in pairwise((0, *ends))]


__all__ = ["grouped"]
