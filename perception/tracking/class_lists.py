"""The class lists of many objects at once: names with numbers, largest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from perception.messages import ObjectClass
from perception.messages.grouping import grouped


def class_lists(names: Sequence[str], share: NDArray[np.float64], least: float) -> list[tuple[ObjectClass, ...]]:
    """Return for each object the names whose share (N, K) is at least `least`, largest first, equal ones in order."""
    column, part, ends = _ranked(share, least)
    labels = map(names.__getitem__, column.tolist())
    return grouped(map(ObjectClass, labels, part.tolist()), ends.tolist())


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _ranked(share: Any, least: float) -> Any:
    """Return columns (M,) and shares (M,) of one object after the other, and where each one's end (N,)."""
    column, part = np.empty(share.size, np.int64), np.empty(share.size)
    ends, count = np.empty(len(share), np.int64), 0
    for row in range(len(share)):
        begin = count
        for k in range(share.shape[1]):
            if share[row, k] < least:
                continue
            at = count
            while at > begin and part[at - 1] < share[row, k]:
                column[at], part[at] = column[at - 1], part[at - 1]
                at -= 1
            column[at], part[at] = k, share[row, k]
            count += 1
        ends[row] = count
    return column[:count], part[:count], ends


__all__ = ["class_lists"]
