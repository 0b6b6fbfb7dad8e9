"""The class lists of many objects at once: names with numbers, largest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numba
import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError
from perception.messages import ObjectClass
from perception.messages.grouping import grouped


@dataclass(frozen=True, eq=False)
class ClassLists:
    """A list for each of N objects, M entries in all.

    Attributes:
        names: of the classes.
        column: (M,) which class each entry is.
        share: (M,) its number.
        ends: (N,) where the entries of each object end; those of the next one begin there.
    """

    names: tuple[str, ...]
    column: NDArray[np.int64]
    share: NDArray[np.float64]
    ends: NDArray[np.int64]

    @classmethod
    def ranked(
        cls, names: Sequence[str], share: NDArray[np.float64], least: float, rows: NDArray[np.int64] | None = None
    ) -> Self:
        """Return the names whose share (N, K) is at least `least`, largest first, equal ones in order.

        With `rows` (M,) there are M lists, of those rows of the shares, and nothing where that is below 0.
        """
        return cls(tuple(names), *_ranked(share, least, np.arange(len(share)) if rows is None else rows))

    @classmethod
    def of_one_each(cls, names: Sequence[str], column: NDArray[np.int64], share: NDArray[np.float64]) -> Self:
        """Return one entry for each object.

        Raises:
            ShapeError: a column is none of the names'.
        """
        if len(column) and not 0 <= int(column.min()) <= int(column.max()) < len(names):
            raise ShapeError(
                f"labels from {int(column.min())} to {int(column.max())}; expected 0 to {len(names) - 1}, one of the "
                f"{len(names)} classes"
            )
        return cls(tuple(names), column, share, np.arange(1, len(column) + 1))

    @classmethod
    def empty(cls, count: int) -> Self:
        """Return nothing for so many objects."""
        return cls((), np.zeros(0, np.int64), np.zeros(0), np.zeros(count, np.int64))

    def tuples(self) -> list[tuple[ObjectClass, ...]]:
        """Return them as messages hold them."""
        labels = map(self.names.__getitem__, self.column.tolist())
        return grouped(map(ObjectClass, labels, self.share.tolist()), self.ends.tolist())

    def table(self) -> NDArray[np.float64]:
        """Return (N, K), 0 for what is not in a list."""
        return np.asarray(_table(self.column, self.share, self.ends, len(self.names)))


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _ranked(share: Any, least: float, rows: Any) -> Any:
    """Return columns (M,) and shares (M,) of one object after the other, and where each one's end (N,)."""
    room = rows.size * share.shape[1]
    column, part = np.empty(room, np.int64), np.empty(room)
    ends, count = np.empty(len(rows), np.int64), 0
    for n in range(len(rows)):
        begin, row = count, rows[n]
        for k in range(share.shape[1]):
            if row < 0 or share[row, k] < least:
                continue
            at = count
            while at > begin and part[at - 1] < share[row, k]:
                column[at], part[at] = column[at - 1], part[at - 1]
                at -= 1
            column[at], part[at] = k, share[row, k]
            count += 1
        ends[n] = count
    return column[:count], part[:count], ends


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _table(column: Any, share: Any, ends: Any, count: int) -> Any:
    found, entry = np.zeros((len(ends), count)), 0
    for row in range(len(ends)):
        for at in range(entry, ends[row]):
            found[row, column[at]] = share[at]
        entry = ends[row]
    return found


__all__ = ["ClassLists"]
