"""Upright boxes seen from above: exact overlap of rotated rectangles, and non-maximum suppression."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _corners(box: Any) -> Any:
    """Return the corners (4, 2) of x, y, length, width, yaw, counter-clockwise."""
    c, s = np.cos(box[4]), np.sin(box[4])
    out = np.empty((4, 2))
    for k in range(4):
        along = box[2] / 2 if k in (0, 3) else -box[2] / 2
        across = box[3] / 2 if k in (0, 1) else -box[3] / 2
        out[k, 0] = box[0] + c * along - s * across
        out[k, 1] = box[1] + s * along + c * across
    return out


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _overlap(a: Any, b: Any) -> float:
    """Return the area that two rectangles share: one is clipped at each side of the other (Sutherland and Hodgman)."""
    reach = (np.hypot(a[2], a[3]) + np.hypot(b[2], b[3])) / 2
    if np.hypot(a[0] - b[0], a[1] - b[1]) > reach:
        return 0.0
    area: float = _clipped_area(_corners(a), _corners(b), np.empty((2, 16, 2)))
    return area


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _clipped_area(corners: Any, sides: Any, room: Any) -> float:
    """Return what is left of a rectangle inside another, both by their corners (4, 2); room (2, 16, 2) is changed."""
    polygon, clipped = room[0], room[1]
    for k in range(4):
        polygon[k, 0], polygon[k, 1] = corners[k, 0], corners[k, 1]
    count = 4
    for k in range(4):
        px, py = sides[k]
        ex, ey = sides[(k + 1) % 4, 0] - px, sides[(k + 1) % 4, 1] - py
        kept = 0
        for i in range(count):
            x0, y0 = polygon[i]
            x1, y1 = polygon[(i + 1) % count]
            d0, d1 = ex * (y0 - py) - ey * (x0 - px), ex * (y1 - py) - ey * (x1 - px)
            if d0 >= 0:
                clipped[kept, 0], clipped[kept, 1] = x0, y0
                kept += 1
            if (d0 >= 0) != (d1 >= 0):
                t = d0 / (d0 - d1)
                clipped[kept, 0], clipped[kept, 1] = x0 + t * (x1 - x0), y0 + t * (y1 - y0)
                kept += 1
        count = kept
        if count == 0:
            return 0.0
        polygon, clipped = clipped, polygon
    area = 0.0
    for i in range(count):
        x0, y0 = polygon[i]
        x1, y1 = polygon[(i + 1) % count]
        area += x0 * y1 - x1 * y0
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
def _apart(boxes: Float, most: float) -> NDArray[np.bool_]:
    alone = np.ones(len(boxes), np.bool_)
    reach = np.sqrt(boxes[:, 2] ** 2 + boxes[:, 3] ** 2) / 2
    for i in range(1, len(boxes)):
        area = boxes[i, 2] * boxes[i, 3]
        for j in range(i):
            dx, dy, near = boxes[i, 0] - boxes[j, 0], boxes[i, 1] - boxes[j, 1], reach[i] + reach[j]
            if dx * dx + dy * dy > near * near or not alone[j]:
                continue
            if _overlap(boxes[i], boxes[j]) > most * min(area, boxes[j, 2] * boxes[j, 3]):
                alone[i] = False
                break
    return alone


def surest_apart(boxes: NDArray[Any], sure: NDArray[Any], most: float) -> NDArray[np.bool_]:
    """True for each box that shares no ground with a surer one that stays, or little.

    Args:
        boxes: (N, 5) x, y, length, width, yaw.
        sure: (N,); of equally sure ones the first stays.
        most: a box goes that shares more than this part of the smaller one's ground.
    """
    order = np.argsort(-np.asarray(sure), kind="stable")
    alone = np.empty(len(order), np.bool_)
    alone[order] = _apart(np.ascontiguousarray(np.asarray(boxes, np.float64).reshape(-1, 5)[order]), float(most))
    return alone


__all__ = ["bev_iou", "footprints", "rotated_nms", "surest_apart"]
