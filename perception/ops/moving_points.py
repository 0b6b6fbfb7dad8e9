"""The points of a sweep as they move and as cameras see them: one pass over all of them each."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def along_poses(points_m: Any, t_ns: Any, knots_ns: Any, matrices: Any) -> Any:
    """Return points (N, 3) moved by poses that are known at knots; between two, points move along straight lines.

    Args:
        points_m: (N, 3).
        t_ns: (N,) the instant of each; beyond the knots the nearest two go on.
        knots_ns: (K,) rising, K at least 2.
        matrices: (K, 3, 4).
    """
    moved, at = np.empty((len(points_m), 3)), 0
    for i in range(len(points_m)):
        while at < len(knots_ns) - 2 and t_ns[i] >= knots_ns[at + 1]:  # points mostly come in the order of time
            at += 1
        while at > 0 and t_ns[i] < knots_ns[at]:
            at -= 1
        share = (t_ns[i] - knots_ns[at]) / max(knots_ns[at + 1] - knots_ns[at], 1)
        for row in range(3):
            before, after = matrices[at, row, 3], matrices[at + 1, row, 3]
            for k in range(3):
                before += matrices[at, row, k] * points_m[i, k]
                after += matrices[at + 1, row, k] * points_m[i, k]
            moved[i, row] = (1 - share) * before + share * after
    return moved


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def at_instant(points_m: Any, velocity_mps: Any, t_ns: Any, now_ns: int, matrix: Any) -> Any:
    """Return points (N, 3), each moved from its own instant t_ns (N,) to `now_ns`, then by a matrix (3, 4)."""
    moved = np.empty((len(points_m), 3))
    for i in range(len(points_m)):
        seconds = (now_ns - t_ns[i]) * 1e-9
        x = points_m[i, 0] + velocity_mps[i, 0] * seconds
        y = points_m[i, 1] + velocity_mps[i, 1] * seconds
        z = points_m[i, 2] + velocity_mps[i, 2] * seconds
        for row in range(3):
            moved[i, row] = matrix[row, 0] * x + matrix[row, 1] * y + matrix[row, 2] * z + matrix[row, 3]
    return moved


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def in_cone(points_m: Any, matrix: Any, cosine: float) -> Any:
    """Return which points lie in a cone about the z axis of another frame, and where they are in it.

    Args:
        points_m: (N, 3).
        matrix: (3, 4) from their frame to the cone's.
        cosine: of the largest angle to the axis.

    Returns:
        (M,) indices and (M, 3) places.
    """
    chosen, seen, count = np.empty(len(points_m), np.int64), np.empty((len(points_m), 3)), 0
    for i in range(len(points_m)):
        x, y, z = points_m[i, 0], points_m[i, 1], points_m[i, 2]
        depth = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
        if depth < 0 <= cosine:
            continue
        across = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]
        down = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]
        if depth >= cosine * math.sqrt(across * across + down * down + depth * depth):
            chosen[count] = i
            seen[count, 0], seen[count, 1], seen[count, 2] = across, down, depth
            count += 1
    return chosen[:count], seen[:count]


def compile_all() -> None:
    """Compile what this file holds, before points come."""
    point, stamp, matrices = np.ones((1, 3)), np.zeros(1, np.int64), np.ones((2, 3, 4))
    along_poses(point, stamp, np.array([0, 1]), matrices)
    at_instant(point, point, stamp, 0, matrices[0])
    in_cone(point, matrices[0], 0.5)


__all__ = ["along_poses", "at_instant", "compile_all", "in_cone"]
