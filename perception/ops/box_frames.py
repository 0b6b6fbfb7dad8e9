"""Boxes from one frame to another, in one pass over all of them."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def boxes_in_frame(center_m: Any, yaw_rad: Any, velocity_mps: Any, frame_from_boxes: Any, seconds: float) -> Any:
    """Return boxes in another frame, where they are some time later; headings follow, tilt is dropped.

    Args:
        center_m: (N, 3).
        yaw_rad: (N,).
        velocity_mps: (N, 2) in the boxes' frame, NaN where it is not known: those boxes stay.
        frame_from_boxes: (3, 4) or (4, 4).
        seconds: how long they move on before.

    Returns:
        (N, 3) centres, (N,) yaws and (N, 2) velocities, NaN where they are not known.
    """
    count, m = len(yaw_rad), frame_from_boxes
    center, yaw, velocity = np.empty((count, 3)), np.empty(count), np.empty((count, 2))
    for k in range(count):
        x, y, z = float(center_m[k, 0]), float(center_m[k, 1]), float(center_m[k, 2])
        vx, vy = float(velocity_mps[k, 0]), float(velocity_mps[k, 1])
        if math.isfinite(vx) and math.isfinite(vy):
            x, y = x + vx * seconds, y + vy * seconds
        else:
            vx = vy = math.nan
        cosine, sine = math.cos(yaw_rad[k]), math.sin(yaw_rad[k])
        for row in range(3):
            center[k, row] = m[row, 0] * x + m[row, 1] * y + m[row, 2] * z + m[row, 3]
        yaw[k] = math.atan2(m[1, 0] * cosine + m[1, 1] * sine, m[0, 0] * cosine + m[0, 1] * sine)
        for row in range(2):
            velocity[k, row] = m[row, 0] * vx + m[row, 1] * vy
    return center, yaw, velocity


__all__ = ["boxes_in_frame"]
