"""Rays against upright boxes and the ground: the kernels of the simulated sensors. Compiled by numba, single thread."""

from __future__ import annotations

from typing import Any, TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float64]

GROUND, NOTHING = -1, -2
"""What a ray hits beside a box."""


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _box_distance(ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, box: Any) -> tuple[float, int]:
    """Return the distance to a box (centre, size, cosine, sine) along a ray and the axis of its face; inf: a miss."""
    c, s = box[6], box[7]
    px, py, pz = ox - box[0], oy - box[1], oz - box[2]
    lx, ly = c * px + s * py, -s * px + c * py
    ex, ey = c * dx + s * dy, -s * dx + c * dy
    near, far, axis = 0.0, np.inf, 0
    for k in range(3):
        if k == 0:
            p, d, h = lx, ex, box[3] / 2
        elif k == 1:
            p, d, h = ly, ey, box[4] / 2
        else:
            p, d, h = pz, dz, box[5] / 2
        if abs(d) < 1e-12:
            if abs(p) > h:
                return np.inf, 0
            continue
        a, b = (-h - p) / d, (h - p) / d
        if a > b:
            a, b = b, a
        if a > near:
            near, axis = a, k
        far = min(far, b)
        if near > far:
            return np.inf, 0
    if near <= 0.0:
        return np.inf, 0
    return near, axis


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def cast_sweep(
    origins: Float, directions: Float, lag_s: Float, boxes: Float, velocities: Float, windows: NDArray[np.int64]
) -> Any:
    """Cast the rays of one turn, whose columns fire at different instants; each box only within its columns.

    Args:
        origins: (C, 3) world, by column.
        directions: (C, R, 3) unit, world, by column and ring.
        lag_s: (C,) instant of each column after that of the boxes; negative is before.
        boxes: (M, 8) centre, size, cosine and sine of yaw, at the boxes' instant.
        velocities: (M, 3).
        windows: (M, 2) first column, and how many; they go around.

    Returns:
        (C, R) distance (inf for the sky), box index, GROUND or NOTHING, and cosine to the face's normal.
    """
    columns, rings = directions.shape[:2]
    distance, cosine = np.full((columns, rings), np.inf), np.zeros((columns, rings))
    hit = np.full((columns, rings), NOTHING)
    for i in range(columns):
        for r in range(rings):
            if directions[i, r, 2] < -1e-9:
                distance[i, r], hit[i, r] = -origins[i, 2] / directions[i, r, 2], GROUND
                cosine[i, r] = -directions[i, r, 2]
    for m in range(len(boxes)):
        c, s = boxes[m, 6], boxes[m, 7]
        for k in range(windows[m, 1]):
            i = (windows[m, 0] + k) % columns
            ox, oy, oz = origins[i] - velocities[m] * lag_s[i]
            for r in range(rings):
                dx, dy, dz = directions[i, r]
                found, axis = _box_distance(ox, oy, oz, dx, dy, dz, boxes[m])
                if found < distance[i, r]:
                    distance[i, r], hit[i, r] = found, m
                    if axis == 0:
                        cosine[i, r] = abs(c * dx + s * dy)
                    elif axis == 1:
                        cosine[i, r] = abs(-s * dx + c * dy)
                    else:
                        cosine[i, r] = abs(dz)
    return distance, hit, cosine


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def cast_picture(origin: Float, directions: Float, boxes: Float, windows: NDArray[np.int64]) -> Any:
    """Cast one ray per pixel, from one place at one instant; each box only within its window of pixels.

    Args:
        origin: (3,) world.
        directions: (H, W, 3) unit, world.
        boxes: (M, 8) as in `cast_rays`.
        windows: (M, 4) first row, row after the last, first column, column after the last.

    Returns:
        (H, W) distance, box index or GROUND or NOTHING, and axis of the face that was hit.
    """
    height, width = directions.shape[:2]
    distance = np.full((height, width), np.inf)
    hit = np.full((height, width), NOTHING)
    face = np.zeros((height, width), np.int64)
    ox, oy, oz = origin
    for v in range(height):
        for u in range(width):
            if directions[v, u, 2] < -1e-9:
                distance[v, u], hit[v, u], face[v, u] = -oz / directions[v, u, 2], GROUND, 2
    for m in range(len(boxes)):
        for v in range(windows[m, 0], windows[m, 1]):
            for u in range(windows[m, 2], windows[m, 3]):
                dx, dy, dz = directions[v, u]
                found, axis = _box_distance(ox, oy, oz, dx, dy, dz, boxes[m])
                if found < distance[v, u]:
                    distance[v, u], hit[v, u], face[v, u] = found, m, axis
    return distance, hit, face


__all__ = ["GROUND", "NOTHING", "cast_picture", "cast_sweep"]
