"""Upright boxes in space: overlap as intersection over union, and its generalised form for boxes that do not touch.

Boxes are rows x, y, z, length, width, height, yaw: geometric centre, metres, yaw counter-clockwise from +x, z up.

Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019; the enclosing body is the convex hull of
both rectangles seen from above, times their common height.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError
from perception.ops.boxes_bev import _clipped_area, _corners, _overlap

Float = NDArray[np.float64]


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _seen_from_above(box: Any) -> Any:
    out = np.empty(5)
    out[0], out[1], out[2], out[3], out[4] = box[0], box[1], box[3], box[4], box[6]
    return out


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _hull_area(a: Any, b: Any, points: Any) -> float:
    """Return the area of the convex hull of two rectangles, by their corners (4, 2): gift wrapping over all eight.

    Points (8, 2) is room to work in.
    """
    for k in range(4):
        points[k, 0], points[k, 1] = a[k, 0], a[k, 1]
        points[4 + k, 0], points[4 + k, 1] = b[k, 0], b[k, 1]
    first = 0
    for k in range(1, 8):
        if points[k, 0] < points[first, 0] or (points[k, 0] == points[first, 0] and points[k, 1] < points[first, 1]):
            first = k
    area, x, y = 0.0, points[first, 0], points[first, 1]
    for _ in range(8):
        following, reach, edge_x, edge_y = -1, 0.0, 0.0, 0.0
        for k in range(8):
            kx, ky = points[k, 0] - x, points[k, 1] - y
            far = kx * kx + ky * ky
            if far < 1e-18:
                continue  # the corner we stand on, or another one at the same place
            turn = edge_x * ky - edge_y * kx
            if following < 0 or turn < 0 or (turn == 0 and far > reach):
                following, reach, edge_x, edge_y = k, far, kx, ky
        if following < 0:
            return 0.0
        area += x * points[following, 1] - points[following, 0] * y
        x, y = points[following, 0], points[following, 1]
        if (x - points[first, 0]) ** 2 + (y - points[first, 1]) ** 2 < 1e-18:
            break
    return abs(area) / 2


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _iou_3d(a: Any, b: Any) -> float:
    shared_height = min(a[2] + a[5] / 2, b[2] + b[5] / 2) - max(a[2] - a[5] / 2, b[2] - b[5] / 2)
    if shared_height <= 0:
        return 0.0
    shared = _overlap(_seen_from_above(a), _seen_from_above(b)) * shared_height
    union = a[3] * a[4] * a[5] + b[3] * b[4] * b[5] - shared
    return float(shared / union) if union > 1e-9 else 0.0


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def corners_from_above(boxes: Any) -> Any:
    """Return the corners (N, 4, 2) of boxes (N, 7)."""
    corners = np.empty((len(boxes), 4, 2))
    for k in range(len(boxes)):
        _corners(boxes[k, 0], boxes[k, 1], boxes[k, 3], boxes[k, 4], boxes[k, 6], corners[k])
    return corners


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def giou_of_pair(a: Any, corners_a: Any, b: Any, corners_b: Any, room: Any) -> float:
    """Return the generalised overlap of two boxes (7,), given their corners (4, 2); room (2, 16, 2) is changed."""
    shared_height = min(a[2] + a[5] / 2, b[2] + b[5] / 2) - max(a[2] - a[5] / 2, b[2] - b[5] / 2)
    shared = 0.0
    reach = (math.sqrt(a[3] * a[3] + a[4] * a[4]) + math.sqrt(b[3] * b[3] + b[4] * b[4])) / 2
    if shared_height > 0 and (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 <= reach * reach:
        shared = _clipped_area(corners_a, corners_b, room) * shared_height
    union = a[3] * a[4] * a[5] + b[3] * b[4] * b[5] - shared
    height = max(a[2] + a[5] / 2, b[2] + b[5] / 2) - min(a[2] - a[5] / 2, b[2] - b[5] / 2)
    enclosing = _hull_area(corners_a, corners_b, room[0]) * height
    if union <= 1e-9 or enclosing <= 1e-9:
        return -1.0
    return float(shared / union - (enclosing - union) / enclosing)


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def giou_at_most(a: Any, corners_a: Any, b: Any, corners_b: Any) -> float:
    """Return what the generalised overlap of two boxes cannot exceed, a tenth of its work; arguments as there.

    Boxes that may touch have 1. Of others the hull holds what lies between two chords, each through the centre of a box
    to its corners farthest from the line of both centres, and the half of each box beyond its chord.
    """
    dx, dy = b[0] - a[0], b[1] - a[1]
    squared = dx * dx + dy * dy
    reach = (math.sqrt(a[3] * a[3] + a[4] * a[4]) + math.sqrt(b[3] * b[3] + b[4] * b[4])) / 2
    if squared <= reach * reach:
        return 1.0
    across_a, across_b = 0.0, 0.0  # times the distance of the centres
    for k in range(4):
        across_a = max(across_a, dx * (corners_a[k, 1] - a[1]) - dy * (corners_a[k, 0] - a[0]))
        across_b = max(across_b, dx * (corners_b[k, 1] - b[1]) - dy * (corners_b[k, 0] - b[0]))
    height = max(a[2] + a[5] / 2, b[2] + b[5] / 2) - min(a[2] - a[5] / 2, b[2] - b[5] / 2)
    enclosing = (across_a + across_b + (a[3] * a[4] + b[3] * b[4]) / 2) * height
    if enclosing <= 1e-9:
        return 1.0
    return float((a[3] * a[4] * a[5] + b[3] * b[4] * b[5]) / enclosing - 1 + 1e-9)  # more than rounding


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _matrix(a: Float, b: Float, generalised: bool) -> Float:
    out = np.empty((len(a), len(b)))
    corners_a, corners_b, room = corners_from_above(a), corners_from_above(b), np.empty((2, 16, 2))
    for i in range(len(a)):
        for j in range(len(b)):
            if generalised:
                out[i, j] = giou_of_pair(a[i], corners_a[i], b[j], corners_b[j], room)
            else:
                out[i, j] = _iou_3d(a[i], b[j])
    return out


def iou_3d(a: NDArray[Any], b: NDArray[Any]) -> Float:
    """Return intersection over union (N, M) of boxes (N, 7) and (M, 7).

    Raises:
        ShapeError: the boxes have another number of columns.
    """
    return np.asarray(_matrix(_boxes(a), _boxes(b), False))


def giou_3d(a: NDArray[Any], b: NDArray[Any]) -> Float:
    """Return generalised intersection over union (N, M), -1 (far apart) to 1 (equal), of boxes (N, 7) and (M, 7).

    Raises:
        ShapeError: the boxes have another number of columns.
    """
    return np.asarray(_matrix(_boxes(a), _boxes(b), True))


def _boxes(values: NDArray[Any]) -> Float:
    boxes = np.ascontiguousarray(values, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 7:
        raise ShapeError(f"boxes have shape {boxes.shape}; expected (N, 7): x, y, z, length, width, height, yaw")
    return boxes


__all__ = ["corners_from_above", "giou_3d", "giou_at_most", "giou_of_pair", "iou_3d"]
