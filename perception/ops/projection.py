"""On which pixels points fall: `Camera.project` for many points at once, in one pass for common models."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

from perception.geometry.camera_models import brown, kannala_brandt
from perception.geometry.cameras import Camera

Index: TypeAlias = NDArray[np.int64]
GRAZING = brown.GRAZING


def pixels_of(camera: Camera, points_m: NDArray[np.float64]) -> tuple[Index, Index, Index]:
    """Return which points fall on the picture, and the row and the column of the pixel of each.

    Args:
        camera: any model; `plumb_bob`, `rational_polynomial` and `kannala_brandt` are compiled.
        points_m: (N, 3) finite, in the optical frame.

    Returns:
        Three times (M,): indices of points, rows, columns.
    """
    model, coefficients = camera.model, camera.coefficients
    widest_rad = math.inf if camera.max_angle_rad is None else camera.max_angle_rad
    if model in ("plumb_bob", "rational_polynomial"):
        plane = _brown(points_m, (*coefficients, *(0.0,) * (8 - len(coefficients))), brown.radius_limit(coefficients))
    elif model == "kannala_brandt":
        plane = _kannala_brandt(points_m, coefficients, kannala_brandt.angle_limit(coefficients))
    else:
        pixels, valid = camera.project(points_m)
        inside = np.flatnonzero(valid)
        column, row = np.rint(pixels[inside]).astype(np.int64).T
        return inside, np.minimum(row, camera.height_px - 1), np.minimum(column, camera.width_px - 1)
    found: tuple[Index, Index, Index] = _on_picture(
        points_m, plane, camera.focal_px, camera.center_px, camera.width_px, camera.height_px, widest_rad
    )
    return found


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _brown(points: Any, coefficients: Any, limit: float) -> Any:
    """Return places (N, 2) on the plane, NaN where there is none; see `geometry/camera_models/brown.py`."""
    k1, k2, p1, p2, k3, k4, k5, k6 = coefficients
    plane = np.full((len(points), 2), np.nan)
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        if not z > GRAZING * math.sqrt(x * x + y * y + z * z):
            continue
        x, y = x / z, y / z
        squared = x * x + y * y
        if not math.sqrt(squared) < limit:
            continue
        above = 1 + squared * (k1 + squared * (k2 + squared * k3))
        radial = above / (1 + squared * (k4 + squared * (k5 + squared * k6)))
        plane[i, 0] = x * radial + 2 * p1 * x * y + p2 * (squared + 2 * x * x)
        plane[i, 1] = y * radial + p1 * (squared + 2 * y * y) + 2 * p2 * x * y
    return plane


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _kannala_brandt(points: Any, coefficients: Any, limit: float) -> Any:
    """Return places (N, 2) on the plane, NaN where there is none; see `geometry/camera_models/kannala_brandt.py`."""
    k1, k2, k3, k4 = coefficients
    plane = np.full((len(points), 2), np.nan)
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        across = math.hypot(x, y)
        angle = math.atan2(across, z)
        if angle >= limit or across == z == 0:
            continue
        squared = angle * angle
        radius = angle * (1 + squared * (k1 + squared * (k2 + squared * (k3 + squared * k4))))
        scale = radius / across if across > 1e-12 else 0.0
        plane[i, 0], plane[i, 1] = x * scale, y * scale
    return plane


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _on_picture(points: Any, plane: Any, focal: Any, center: Any, width: int, height: int, widest: float) -> Any:
    inside, count = np.empty(len(plane), np.int64), 0
    row, column = np.empty(len(plane), np.int64), np.empty(len(plane), np.int64)
    for i in range(len(plane)):
        u, v = plane[i, 0] * focal[0] + center[0], plane[i, 1] * focal[1] + center[1]
        if not (-0.5 <= u < width - 0.5 and -0.5 <= v < height - 0.5):
            continue
        if widest < math.inf and math.atan2(math.hypot(points[i, 0], points[i, 1]), points[i, 2]) > widest:
            continue
        inside[count], row[count], column[count] = i, min(int(np.rint(v)), height - 1), min(int(np.rint(u)), width - 1)
        count += 1
    return inside[:count], row[:count], column[:count]


def compile_all() -> None:
    """Compile what this file holds, before points come."""
    ahead = np.array([[0.0, 0.0, 1.0]])
    pixels_of(Camera("plumb_bob", 4, 4, (1.0, 1.0), (1.0, 1.0)), ahead)
    pixels_of(Camera("kannala_brandt", 4, 4, (1.0, 1.0), (1.0, 1.0), (0.0, 0.0, 0.0, 0.0)), ahead)


__all__ = ["compile_all", "pixels_of"]
