"""Which LiDAR points a camera cannot see, and which boxes points lie in: the inner loops of fusion."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

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

EACH_LABEL = np.arange(256)
"""Every label is counted for itself."""


class Tiles(NamedTuple):
    """Points tile by tile."""

    order: NDArray[np.int64]
    """(P,) which point each of them is."""
    starts: NDArray[np.int64]
    """Where each tile starts, and the end of the last."""
    points_m: NDArray[np.float64]
    """(P, 3)."""


class Surface(NamedTuple):
    """Points as one camera sees them, sorted by columns of the picture, each column from the top."""

    across_rad: NDArray[np.float64]
    down_rad: NDArray[np.float64]
    distance_m: NDArray[np.float64]
    order: NDArray[np.int64]
    """(N,) which point each of them is."""
    starts: NDArray[np.int64]
    """Where each column begins, and the end of the last."""
    leftmost: int
    """Number of the first column; column 0 begins at the optical axis."""


NO_SURFACE = Surface(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, np.int64), np.zeros(1, np.int64), 0)
NO_NUMBERS, NONE_GONE = np.zeros(0, np.int64), np.zeros(0, np.bool_)


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
    return hidden_behind(surface_of(points_optical_m), ring_gap_rad)


def surface_of(points_optical_m: NDArray[Any]) -> Surface:
    """Return points (N, 3) in a camera's optical frame as the surface that they lie on."""
    found: Surface = _surface(np.ascontiguousarray(points_optical_m, np.float64).reshape(-1, 3))
    return found


def hidden_behind(points: Surface, ring_gap_rad: float) -> NDArray[np.bool_]:
    """Return True for each point of a surface that this surface hides.

    Args:
        points: N points.
        ring_gap_rad: as in `hidden_points`.
    """
    hidden: NDArray[np.bool_] = _hidden(points, NO_SURFACE, NO_NUMBERS, NONE_GONE, ring_gap_rad)
    return hidden


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def hidden_anew(points: Any, chosen: Any, ring_gap_rad: float, other: Any, number: Any, gone: Any) -> Any:
    """Return True for each of a few points that they and another surface hide together.

    Args:
        points: (N, 3) in the camera's optical frame.
        chosen: (n,) which of them.
        ring_gap_rad: as in `hidden_points`.
        other: a surface of M points.
        number: (M,) which point of all each of them is, in the surface's order.
        gone: (P,) True for those of all points that are not there any more.
    """
    few = np.empty((len(chosen), 3))
    for i in range(len(chosen)):
        few[i, 0], few[i, 1], few[i, 2] = points[chosen[i], 0], points[chosen[i], 1], points[chosen[i], 2]
    return _hidden(_surface(few), other, number, gone, ring_gap_rad)


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _surface(points: Any) -> Any:
    across, down, distance = np.empty(len(points)), np.empty(len(points)), np.empty(len(points))
    column, leftmost = np.empty(len(points), np.int64), 0
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        across[i], down[i] = math.atan2(x, z), math.atan2(y, math.hypot(x, z))
        distance[i] = math.sqrt(x * x + y * y + z * z)
        column[i] = math.floor(across[i] / ASIDE_RAD)
    if len(points):
        leftmost = column.min()
    column -= leftmost
    order, starts = _grouped(column, column.max() + 1 if len(points) else 0)
    for at in range(len(starts) - 1):
        _sort(order[starts[at] : starts[at + 1]], down)
    return Surface(across[order], down[order], distance[order], order, starts, leftmost)  # side by side in memory


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _hidden(points: Any, other: Any, number: Any, gone: Any, ring_gap_rad: float) -> Any:
    count, reach = len(points.order), 1.25 * ring_gap_rad
    above, below, hidden = np.zeros(count, np.bool_), np.zeros(count, np.bool_), np.empty(count, np.bool_)
    _cover(points, points, NO_NUMBERS, NONE_GONE, reach, above, below)
    _cover(points, other, number, gone, reach, above, below)
    for i in range(count):
        hidden[points.order[i]] = above[i] and below[i]
    return hidden


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _cover(points: Any, surface: Any, number: Any, gone: Any, reach: float, above: Any, below: Any) -> None:
    """Note which points have something nearer right above and below: in their column and the two beside it.

    What is `gone` (P,) of all points hides nothing: `number` tells which of them the surface's are; without, none is.
    """
    there_across, there_down, there_m, _, starts, leftmost = surface
    named_all = len(number) > 0
    shift, columns = points.leftmost - leftmost, len(starts) - 1
    first = np.empty(3, np.int64)  # in each of the three columns, what may reach the point, and the next ones
    for at in range(len(points.starts) - 1):
        left, right = max(at + shift - 1, 0), min(at + shift + 2, columns)
        for beside in range(left, right):
            first[beside - left] = starts[beside]
        for i in range(points.starts[at], points.starts[at + 1]):
            nearer = points.distance_m[i] * (1 - NEARER_SHARE) - NEARER_M
            down, across, over, under = points.down_rad[i], points.across_rad[i], above[i], below[i]
            for beside in range(left, right):
                if over and under:
                    break
                begin, end = first[beside - left], starts[beside + 1]
                while begin < end and there_down[begin] < down - reach:
                    begin += 1
                first[beside - left] = begin
                for j in range(begin, end):
                    if there_down[j] > down + reach:
                        break
                    hides = (there_m[j] < nearer) & (abs(there_across[j] - across) <= ASIDE_RAD)  # no branches
                    if named_all:
                        hides &= not gone[number[j]]
                    over |= hides & (there_down[j] <= down)
                    under |= hides & (there_down[j] >= down)
            above[i], below[i] = over, under


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
def on_tiles(points: Any) -> Any:
    """Return points (P, 3) tile by tile, as `Tiles`."""
    tile = np.empty(len(points), np.int64)
    for p in range(len(points)):
        tile[p] = _tile(points[p, 0]) * TILES + _tile(points[p, 1])
    order, starts = _grouped(tile, TILES * TILES)
    places = np.empty((len(points), 3))
    for k in range(len(points)):
        places[k, 0], places[k, 1], places[k, 2] = points[order[k], 0], points[order[k], 1], points[order[k], 2]
    return Tiles(order, starts, places)


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def points_of_boxes(
    tiles: Any, later_s: Any, span_s: Any, center_m: Any, size_lwh_m: Any, yaw_rad: Any, velocity_mps: Any,
    margin_m: float, least_mps: float,
) -> Any:  # fmt: skip
    """Return which points lie in a box that moves, and in which, the first of several.

    Args:
        tiles: P points in the boxes' frame, where they were measured.
        later_s: (P,) how long before the boxes' instant each was measured, in the order of the tiles; it moves with the
            box until then.
        span_s: least and most of `later_s`.
        center_m: (N, 3) geometric centres.
        size_lwh_m: (N, 3).
        yaw_rad: (N,) counter-clockwise from +x.
        velocity_mps: (N, 2).
        margin_m: points so far outside still count.
        least_mps: boxes that are slower stand still.

    Returns:
        (M,) places in the order of the tiles, (M,) boxes.
    """
    order, starts, points_m = tiles
    (least, most), count = span_s, 0
    taken, point, box = np.zeros(len(order), np.bool_), np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    for n in range(len(center_m)):
        (x, y, z), (fast_x, fast_y) = center_m[n], velocity_mps[n]
        if fast_x * fast_x + fast_y * fast_y <= least_mps * least_mps:
            continue
        cosine, sine = np.cos(yaw_rad[n]), np.sin(yaw_rad[n])
        length, width = size_lwh_m[n, 0] / 2 + margin_m, size_lwh_m[n, 1] / 2 + margin_m
        height = size_lwh_m[n, 2] / 2 + margin_m
        reach_x = abs(cosine) * length + abs(sine) * width + 1e-6  # more than rounding
        reach_y = abs(sine) * length + abs(cosine) * width + 1e-6
        low_x, high_x = min(fast_x * least, fast_x * most), max(fast_x * least, fast_x * most)
        low_y, high_y = min(fast_y * least, fast_y * most), max(fast_y * least, fast_y * most)
        for column in range(_tile(x - reach_x - high_x), _tile(x + reach_x - low_x) + 1):
            first = starts[column * TILES + _tile(y - reach_y - high_y)]
            last = starts[column * TILES + _tile(y + reach_y - low_y) + 1]
            for k in range(first, last):
                dx = points_m[k, 0] + fast_x * later_s[k] - x
                dy = points_m[k, 1] + fast_y * later_s[k] - y
                if taken[k] or abs(dx) > reach_x or abs(dy) > reach_y or abs(points_m[k, 2] - z) > height:
                    continue
                if abs(cosine * dx + sine * dy) <= length and abs(cosine * dy - sine * dx) <= width:
                    taken[k], point[count], box[count] = True, k, n
                    count += 1
    return point[:count], box[:count]


def labels_in_boxes(
    points_m: NDArray[Any],
    label: NDArray[np.uint8],
    center_m: NDArray[Any],
    size_lwh_m: NDArray[Any],
    yaw_rad: NDArray[Any],
    margin_m: float,
) -> NDArray[np.int32]:
    """Count the labels of the points in each box: (N, 256). Boxes, as in `points_of_boxes`, may overlap."""
    counts = np.zeros((len(center_m), 256), np.int32)
    count_labels(on_tiles(points_m), label, (center_m, size_lwh_m, yaw_rad), margin_m, EACH_LABEL, counts)
    return counts


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def count_labels(tiles: Any, label: Any, boxes: Any, margin_m: float, column_of: Any, counts: Any) -> None:
    """Add the labels of the points in each box to counts (N, C); points that are no numbers are in none.

    Args:
        tiles: of the points.
        label: (P,) in their first order.
        boxes: centres, sizes and yaws, as in `points_of_boxes`.
        margin_m: points so far outside still count.
        column_of: (256,) in which column each label is counted.
        counts: is changed.
    """
    order, starts, points_m = tiles
    center_m, size_lwh_m, yaw_rad = boxes
    for n in range(len(center_m)):
        cosine, sine = np.cos(yaw_rad[n]), np.sin(yaw_rad[n])
        length, width = size_lwh_m[n, 0] / 2 + margin_m, size_lwh_m[n, 1] / 2 + margin_m
        height = size_lwh_m[n, 2] / 2 + margin_m
        reach_x = abs(cosine) * length + abs(sine) * width + 1e-6  # more than rounding
        reach_y = abs(sine) * length + abs(cosine) * width + 1e-6
        x, y, z = center_m[n]
        for column in range(_tile(x - reach_x), _tile(x + reach_x) + 1):
            first = starts[column * TILES + _tile(y - reach_y)]
            last = starts[column * TILES + _tile(y + reach_y) + 1]
            for k in range(first, last):
                dx, dy = points_m[k, 0] - x, points_m[k, 1] - y
                if abs(dx) > reach_x or abs(dy) > reach_y or abs(points_m[k, 2] - z) > height:
                    continue
                if abs(cosine * dx + sine * dy) <= length and abs(cosine * dy - sine * dx) <= width:
                    counts[n, column_of[label[order[k]]]] += 1


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def take_labels(
    seen: Any, row: Any, column: Any, hidden: Any, mask: Any, sure: Any, apart_ns: Any, number: int, nearest_ns: Any,
    label: Any, confidence: Any, camera: Any,
) -> None:  # fmt: skip
    """Give points the labels of their pixels in one mask, where no mask that was nearer in time has given them one.

    Args:
        seen: (M,) which points lie in the picture.
        row: (M,) of the pixel of each.
        column: (M,) of it.
        hidden: (M,) True for those that get nothing.
        mask: (H, W) labels.
        sure: (H, W) their confidence, or empty.
        apart_ns: (N,) how far in time each point is from the mask.
        number: of the mask.
        nearest_ns: (N,) is changed: how far the mask is that gave a point what it has.
        label: (N,) is changed.
        confidence: (N,) is changed.
        camera: (N,) is changed: number of that mask.
    """
    for k in range(len(seen)):
        i = seen[k]
        if hidden[k] or mask[row[k], column[k]] == UNKNOWN or apart_ns[i] >= nearest_ns[i]:
            continue
        nearest_ns[i], label[i], camera[i] = apart_ns[i], mask[row[k], column[k]], number
        confidence[i] = sure[row[k], column[k]] if sure.size else 0


def compile_all() -> None:
    """Compile what this file holds, before points come; masks may be read-only, or not."""
    one, number, places = np.ones((1, 3)), np.zeros(1), np.zeros(1, np.int64)
    hidden = hidden_points(one, 0.01)
    hidden_anew(one, places, 0.01, surface_of(one), places, hidden)
    points_of_boxes(on_tiles(one), number, (0.0, 0.0), one, one, number, np.ones((1, 2)), 0.1, 0.1)
    label = np.zeros(1, np.uint8)
    labels_in_boxes(one, label, one, one, number, 0.1)
    frozen = np.zeros((1, 1), np.uint8)
    frozen.flags.writeable = False
    for mask in (frozen, frozen.copy()):
        for sure in (frozen, frozen.copy()):
            take_labels(places, places, places, hidden, mask, sure, places, 0, places.copy(), label, label, label)


__all__ = [
    "EACH_LABEL", "UNKNOWN", "Surface", "Tiles", "compile_all", "count_labels", "hidden_anew", "hidden_behind",
    "hidden_points", "labels_in_boxes", "on_tiles", "points_of_boxes", "surface_of", "take_labels",
]  # fmt: skip
