"""Which LiDAR points a camera cannot see, and which boxes points lie in: the inner loops of fusion."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

UNKNOWN = 255
"""Label of a point that no camera sees."""
NEARER_M = 0.7
NEARER_SHARE = 0.04
"""A point hides another when it is nearer by NEARER_M and this share of the other's distance."""
ASIDE_RAD = float(np.radians(0.3))
FEW = 48
"""So many are sorted one by one."""
TILE_M, TILES = 2.0, 96
"""Points are looked up by square tiles of the ground, so many along each axis; the outer ones hold all beyond."""


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
    points = np.ascontiguousarray(points_optical_m, np.float64)
    hidden = np.zeros(len(points), np.bool_)
    if len(points):
        _hide(points, 1.25 * ring_gap_rad, hidden)
    return hidden


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _hide(points: Any, reach: float, hidden: Any) -> None:
    """Search each point's own column of the picture and the two beside it, both from the top."""
    across, down, distance = np.empty(len(points)), np.empty(len(points)), np.empty(len(points))
    column = np.empty(len(points), np.int64)
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        across[i], down[i] = math.atan2(x, z), math.atan2(y, math.hypot(x, z))
        distance[i] = math.sqrt(x * x + y * y + z * z)
        column[i] = math.floor(across[i] / ASIDE_RAD)
    column -= column.min()
    order, starts = _grouped(column, column.max() + 1)
    for at in range(len(starts) - 1):
        _sort(order[starts[at] : starts[at + 1]], down)
    across, down, distance = across[order], down[order], distance[order]  # side by side in memory
    above, below = np.zeros(len(points), np.bool_), np.zeros(len(points), np.bool_)
    for at in range(len(starts) - 1):
        for beside in range(max(at - 1, 0), min(at + 2, len(starts) - 1)):
            first = starts[beside]
            for i in range(starts[at], starts[at + 1]):
                nearer = distance[i] * (1 - NEARER_SHARE) - NEARER_M
                while first < starts[beside + 1] and down[first] < down[i] - reach:
                    first += 1
                for j in range(first, starts[beside + 1]):
                    if down[j] > down[i] + reach or (above[i] and below[i]):
                        break
                    if distance[j] < nearer and abs(across[j] - across[i]) <= ASIDE_RAD:
                        above[i] |= down[j] <= down[i]
                        below[i] |= down[j] >= down[i]
    for i in range(len(points)):
        hidden[order[i]] = above[i] and below[i]


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _sort(indices: Any, key: Any) -> None:
    """Sort indices by their keys, in place."""
    if len(indices) > FEW:
        indices[:] = indices[np.argsort(key[indices])]
        return
    for i in range(1, len(indices)):
        one, at = indices[i], i
        while at > 0 and key[indices[at - 1]] > key[one]:
            indices[at] = indices[at - 1]
            at -= 1
        indices[at] = one


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _grouped(group: Any, groups: int) -> Any:
    """Return the order that brings equal numbers together, else as they come, and where each group starts."""
    starts = np.zeros(groups + 1, np.int64)
    for i in range(len(group)):
        starts[group[i] + 1] += 1
    starts = np.cumsum(starts)
    filled, order = starts[:-1].copy(), np.empty(len(group), np.int64)
    for i in range(len(group)):
        order[filled[group[i]]] = i
        filled[group[i]] += 1
    return order, starts


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _tile(metres: float) -> int:
    """Return the tile along one axis; the first and the last reach to infinity, and hold what is no number."""
    tile = metres / TILE_M + TILES / 2
    if tile >= 1:
        return int(tile) if tile < TILES - 1 else TILES - 1
    return 0


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _on_tiles(points: Any) -> Any:
    """Return points (P, 3) tile by tile: their order, and where each tile starts."""
    tile = np.empty(len(points), np.int64)
    for p in range(len(points)):
        tile[p] = _tile(points[p, 0]) * TILES + _tile(points[p, 1])
    return _grouped(tile, TILES * TILES)


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
    if not len(points_m):
        return owner
    order, starts = _on_tiles(points_m)
    least, most = later_s.min(), later_s.max()
    for n in range(len(center_m)):
        cosine, sine = np.cos(yaw_rad[n]), np.sin(yaw_rad[n])
        length, width = size_lwh_m[n, 0] / 2 + margin_m, size_lwh_m[n, 1] / 2 + margin_m
        height, reach = size_lwh_m[n, 2] / 2 + margin_m, length + width
        (x, y, z), (fast_x, fast_y) = center_m[n], velocity_mps[n]
        low_x, high_x = min(fast_x * least, fast_x * most), max(fast_x * least, fast_x * most)
        low_y, high_y = min(fast_y * least, fast_y * most), max(fast_y * least, fast_y * most)
        for column in range(_tile(x - reach - high_x), _tile(x + reach - low_x) + 1):
            first = starts[column * TILES + _tile(y - reach - high_y)]
            last = starts[column * TILES + _tile(y + reach - low_y) + 1]
            for k in range(first, last):
                p = order[k]
                dx = points_m[p, 0] + fast_x * later_s[p] - x
                dy = points_m[p, 1] + fast_y * later_s[p] - y
                if owner[p] >= 0 or abs(dx) > reach or abs(dy) > reach or abs(points_m[p, 2] - z) > height:
                    continue
                if abs(cosine * dx + sine * dy) <= length and abs(cosine * dy - sine * dx) <= width:
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
    order, starts = _on_tiles(points_m)
    for n in range(len(center_m)):
        cosine, sine = np.cos(yaw_rad[n]), np.sin(yaw_rad[n])
        length, width = size_lwh_m[n, 0] / 2 + margin_m, size_lwh_m[n, 1] / 2 + margin_m
        height, reach = size_lwh_m[n, 2] / 2 + margin_m, length + width
        x, y, z = center_m[n]
        for column in range(_tile(x - reach), _tile(x + reach) + 1):
            for k in range(starts[column * TILES + _tile(y - reach)], starts[column * TILES + _tile(y + reach) + 1]):
                p = order[k]
                dx, dy = points_m[p, 0] - x, points_m[p, 1] - y
                if abs(dx) > reach or abs(dy) > reach or abs(points_m[p, 2] - z) > height:
                    continue
                if abs(cosine * dx + sine * dy) <= length and abs(cosine * dy - sine * dx) <= width:
                    counts[n, label[p]] += 1
    return counts


__all__ = ["UNKNOWN", "boxes_of_points", "hidden_points", "labels_in_boxes"]
