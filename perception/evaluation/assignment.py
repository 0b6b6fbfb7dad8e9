"""The best assignment of rows to columns, by scipy.

scipy.optimize is loaded by the first call: it would be a quarter of what `perception check` takes, which reads nodes
that score, and never scores.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray


def best_assignment(cost: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return (rows, columns) of the assignment with the least sum of costs; as many as the shorter side of (R, C)."""
    from scipy.optimize import linear_sum_assignment

    found: tuple[NDArray[Any], NDArray[Any]] = linear_sum_assignment(cost)
    return found


__all__ = ["best_assignment"]
