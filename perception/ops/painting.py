"""Which LiDAR points a camera cannot see, and which boxes points lie in: the inner loops of fusion."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

UNKNOWN = 255
"""Label of a point that no camera sees."""
NEARER_M = 0.7
NEARER_SHARE = 0.04
"""A point hides another when it is nearer by NEARER_M and this share of the other's distance."""
ASIDE_RAD = np.radians(0.3)


def hidden_points(points_optical_m: NDArray[Any], ring_gap_rad: float) -> NDArray[np.bool_]:
    """Return True for points that lie behind a nearer surface, seen from a camera.

    A LiDAR looks over the things that a lower camera looks at: what it sees behind them must not get their class. A
    point is hidden when there are much nearer points both right above it and right below it in the picture, no farther
    than the rings of the LiDAR lie apart: between two points of one surface the surface goes on. The road before a car
    is below it, never above, and so does not hide it.

    Args:
        points_optical_m: (N, 3) in the camera's optical frame: x right, y down, z forward.
        ring_gap_rad: angle between neighbouring rings of the LiDAR.
    """
    x, y, z = np.asarray(points_optical_m, np.float64).T
    across = np.arctan2(x, z)
    down = np.arctan2(y, np.hypot(x, z))
    cells = np.floor(across / ASIDE_RAD).astype(np.int64)
    cells -= cells.min(initial=0)
    order = np.lexsort((down, cells))
    starts = np.searchsorted(cells[order], np.arange(cells.max(initial=0) + 2))
    distance = np.sqrt(x * x + y * y + z * z)
    hidden = np.zeros(len(x), np.bool_)
    _hide(across[order], down[order], distance[order], cells[order], starts, 1.25 * ring_gap_rad, order, hidden)
    return hidden


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _hide(
    across: NDArray[Any],
    down: NDArray[Any],
    distance: NDArray[Any],
    cells: NDArray[np.int64],
    starts: NDArray[np.int64],
    reach: float,
    order: NDArray[np.int64],
    hidden: NDArray[np.bool_],
) -> None:
    """Search each point's own column of the picture and the two beside it; points come by column, from the top."""
    for i in range(len(across)):
        nearer = distance[i] * (1 - NEARER_SHARE) - NEARER_M
        above, below = False, False
        for cell in range(max(cells[i] - 1, 0), min(cells[i] + 2, len(starts) - 1)):
            first = starts[cell] + np.searchsorted(down[starts[cell] : starts[cell + 1]], down[i] - reach)
            for j in range(first, starts[cell + 1]):
                if down[j] > down[i] + reach:
                    break
                if distance[j] < nearer and abs(across[j] - across[i]) <= ASIDE_RAD:
                    above |= down[j] <= down[i]
                    below |= down[j] >= down[i]
        hidden[order[i]] = above and below


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def boxes_of_points(
    points_m: NDArray[Any],
    later_s: NDArray[Any],
    center_m: NDArray[Any],
    size_lwh_m: NDArray[Any],
    yaw_rad: NDArray[Any],
    velocity_mps: NDArray[Any],
    margin_m: float,
) -> NDArray[np.int64]:
    """Return for each point the first box that it lies in, -1 for none.

    Args:
        points_m: (P, 3) in the boxes' frame, where they were measured.
        later_s: (P,) how long before the boxes' instant each point was measured; it moves with the box until then.
        center_m: (N, 3) geometric centres.
        size_lwh_m: (N, 3).
        yaw_rad: (N,) counter-clockwise from +x.
        velocity_mps: (N, 2).
        margin_m: points so far outside still count.
    """
    owner = np.full(len(points_m), -1, np.int64)
    for n in range(len(center_m)):
        cosine, sine = np.cos(yaw_rad[n]), np.sin(yaw_rad[n])
        length, width = size_lwh_m[n, 0] / 2 + margin_m, size_lwh_m[n, 1] / 2 + margin_m
        height, reach = size_lwh_m[n, 2] / 2 + margin_m, length + width
        for p in range(len(points_m)):
            x = points_m[p, 0] + velocity_mps[n, 0] * later_s[p] - center_m[n, 0]
            y = points_m[p, 1] + velocity_mps[n, 1] * later_s[p] - center_m[n, 1]
            if owner[p] >= 0 or abs(x) > reach or abs(y) > reach or abs(points_m[p, 2] - center_m[n, 2]) > height:
                continue
            if abs(cosine * x + sine * y) <= length and abs(cosine * y - sine * x) <= width:
                owner[p] = n
    return owner


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def labels_in_boxes(
    points_m: NDArray[Any],
    label: NDArray[np.uint8],
    center_m: NDArray[Any],
    size_lwh_m: NDArray[Any],
    yaw_rad: NDArray[Any],
    margin_m: float,
) -> NDArray[np.int64]:
    """Count the labels of the points in each box: (N, 256). Arguments as in `boxes_of_points`; boxes may overlap."""
    counts = np.zeros((len(center_m), 256), np.int64)
    for n in range(len(center_m)):
        cosine, sine = np.cos(yaw_rad[n]), np.sin(yaw_rad[n])
        length, width = size_lwh_m[n, 0] / 2 + margin_m, size_lwh_m[n, 1] / 2 + margin_m
        height, reach = size_lwh_m[n, 2] / 2 + margin_m, length + width
        for p in range(len(points_m)):
            x, y = points_m[p, 0] - center_m[n, 0], points_m[p, 1] - center_m[n, 1]
            if abs(x) > reach or abs(y) > reach or abs(points_m[p, 2] - center_m[n, 2]) > height:
                continue
            if abs(cosine * x + sine * y) <= length and abs(cosine * y - sine * x) <= width:
                counts[n, label[p]] += 1
    return counts


__all__ = ["UNKNOWN", "boxes_of_points", "hidden_points", "labels_in_boxes"]
