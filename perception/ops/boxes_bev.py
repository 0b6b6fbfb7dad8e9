"""Upright boxes seen from above: exact overlap of rotated rectangles, and non-maximum suppression."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _corners(x: float, y: float, length: float, width: float, yaw: float, out: Any) -> None:
    """Write the corners (4, 2) of a rectangle, counter-clockwise, into `out`."""
    c, s = math.cos(yaw), math.sin(yaw)
    for k in range(4):
        along = length / 2 if k in (0, 3) else -length / 2
        across = width / 2 if k in (0, 1) else -width / 2
        out[k, 0] = x + c * along - s * across
        out[k, 1] = y + s * along + c * across


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _overlap(a: Any, b: Any) -> float:
    """Return the area that two rectangles share: one is clipped at each side of the other (Sutherland and Hodgman)."""
    reach = (np.hypot(a[2], a[3]) + np.hypot(b[2], b[3])) / 2
    if np.hypot(a[0] - b[0], a[1] - b[1]) > reach:
        return 0.0
    corners = np.empty((2, 4, 2))
    _corners(a[0], a[1], a[2], a[3], a[4], corners[0])
    _corners(b[0], b[1], b[2], b[3], b[4], corners[1])
    area: float = _clipped_area(corners[0], corners[1], np.empty((2, 16, 2)))
    return area


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _clipped_area(corners: Any, sides: Any, room: Any) -> float:
    """Return what is left of a rectangle inside another, both by their corners (4, 2); room (2, 16, 2) is changed."""
    now, then, count = 0, 1, 4  # which half of the room holds the polygon, and which what is left of it
    for k in range(4):
        room[0, k, 0], room[0, k, 1] = corners[k, 0], corners[k, 1]
    for k in range(4):
        following = (k + 1) % 4
        px, py = sides[k, 0], sides[k, 1]
        ex, ey = sides[following, 0] - px, sides[following, 1] - py
        kept = 0
        for i in range(count):
            after = i + 1 if i + 1 < count else 0
            x0, y0, x1, y1 = room[now, i, 0], room[now, i, 1], room[now, after, 0], room[now, after, 1]
            d0, d1 = ex * (y0 - py) - ey * (x0 - px), ex * (y1 - py) - ey * (x1 - px)
            if d0 >= 0:
                room[then, kept, 0], room[then, kept, 1] = x0, y0
                kept += 1
            if (d0 >= 0) != (d1 >= 0):
                t = d0 / (d0 - d1)
                room[then, kept, 0], room[then, kept, 1] = x0 + t * (x1 - x0), y0 + t * (y1 - y0)
                kept += 1
        count = kept
        if count == 0:
            return 0.0
        now, then = then, now
    area = 0.0
    for i in range(count):
        after = i + 1 if i + 1 < count else 0
        area += room[now, i, 0] * room[now, after, 1] - room[now, after, 0] * room[now, i, 1]
    return abs(area) / 2


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _iou(a: Any, b: Any) -> float:
    shared = _overlap(a, b)
    union = a[2] * a[3] + b[2] * b[3] - shared
    return shared / union if union > 1e-9 else 0.0


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _iou_matrix(a: Float, b: Float) -> Float:
    out = np.empty((len(a), len(b)))
    for i in range(len(a)):
        for j in range(len(b)):
            out[i, j] = _iou(a[i], b[j])
    return out


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _suppress(boxes: Float, threshold: float, most: int) -> NDArray[np.int64]:
    alive = np.ones(len(boxes), np.bool_)
    kept = np.empty(min(most, len(boxes)), np.int64)
    count = 0
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        if count == most:
            break
        kept[count] = i
        count += 1
        for j in range(i + 1, len(boxes)):
            if alive[j] and _iou(boxes[i], boxes[j]) > threshold:
                alive[j] = False
    return kept[:count]


def footprints(boxes: NDArray[Any]) -> NDArray[Any]:
    """Return the rectangles (N, 5) of boxes (N, 7) x, y, z, length, width, height, yaw."""
    return boxes[:, [0, 1, 3, 4, 6]]


def bev_iou(a: NDArray[Any], b: NDArray[Any]) -> Float:
    """Return intersection over union (N, M) of rectangles (N, 5) and (M, 5): x, y, length, width, yaw."""
    return np.asarray(_iou_matrix(np.ascontiguousarray(a, np.float64), np.ascontiguousarray(b, np.float64)))


def rotated_nms(
    boxes: NDArray[Any], scores: NDArray[Any], threshold: float, before: int | None = None, after: int | None = None
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression.

    Args:
        boxes: (N, 5) x, y, length, width, yaw.
        scores: (N,); equal ones keep their order.
        threshold: a box goes whose IoU with a better one that stays is above it.
        before: take only so many of the best into account.
        after: keep at most so many.

    Returns:
        Indices of those that stay, best first.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")[:before]
    chosen = np.ascontiguousarray(np.asarray(boxes, np.float64)[order])
    kept = _suppress(chosen, float(threshold), len(chosen) if after is None else after)
    return np.asarray(order[kept], np.int64)


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def apart(boxes: Float, sure: Float, most: float) -> NDArray[np.bool_]:
    """Return what `surest_apart` does, for compiled code."""
    count = len(boxes)
    alone = np.ones(count, np.bool_)
    if count < 2:
        return alone
    corners, room, reach = np.empty((count, 4, 2)), np.empty((2, 16, 2)), np.empty(count)
    for i in range(count):
        _corners(boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3], boxes[i, 4], corners[i])
        reach[i] = math.sqrt(boxes[i, 2] ** 2 + boxes[i, 3] ** 2) / 2 + 1e-6  # more than rounding
    order = np.argsort(-sure, kind="mergesort")  # surest first, of equal ones the first
    along = np.empty(count)
    rank = np.empty(count, np.int64)
    for i in range(count):
        rank[order[i]], along[i] = i, boxes[i, 0]
    beside, farthest = np.argsort(along, kind="mergesort"), 0.0
    for i in range(count):
        along[i], farthest = boxes[beside[i], 0], max(farthest, reach[i])
    for i in order:
        x, y, area, far = boxes[i, 0], boxes[i, 1], boxes[i, 2] * boxes[i, 3], reach[i] + farthest
        for k in range(first_not_below(along, x - far), count):
            if along[k] > x + far:
                break
            j = beside[k]
            dx, dy, near = x - along[k], y - boxes[j, 1], reach[i] + reach[j]
            if rank[j] >= rank[i] or not alone[j] or dx * dx + dy * dy > near * near:
                continue
            if _clipped_area(corners[i], corners[j], room) > most * min(area, boxes[j, 2] * boxes[j, 3]):
                alone[i] = False
                break
    return alone


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def first_not_below(rising: Any, value: float) -> int:
    """Return the index of the first of some rising numbers that is not below a value."""
    low, high = 0, len(rising)
    while low < high:
        middle = (low + high) // 2
        if rising[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


def surest_apart(boxes: NDArray[Any], sure: NDArray[Any], most: float) -> NDArray[np.bool_]:
    """True for each box that shares no ground with a surer one that stays, or little.

    Args:
        boxes: (N, 5) x, y, length, width, yaw.
        sure: (N,); of equally sure ones the first stays.
        most: a box goes that shares more than this part of the smaller one's ground.
    """
    ground = np.ascontiguousarray(boxes, np.float64).reshape(-1, 5)
    return np.asarray(apart(ground, np.ascontiguousarray(sure, np.float64), float(most)))


__all__ = ["apart", "bev_iou", "first_not_below", "footprints", "rotated_nms", "surest_apart"]
