"""`kannala_brandt`: radius by angle, k1 k2 k3 k4 (Kannala & Brandt, PAMI 2006; OpenCV's fisheye).

radius = angle (1 + k1 angle^2 + k2 angle^4 + k3 angle^6 + k4 angle^8), valid up to the angle where it stops growing.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from perception.geometry.camera_models.monotonic import SAMPLES, first_root, inverted

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]


def project(coefficients: tuple[float, ...], points: Float) -> tuple[Float, Mask]:
    """Project; see the package's text."""
    x, y, z = points.T
    across = np.hypot(x, y)
    angle = np.arctan2(across, z)
    there = across > 1e-12
    scale = np.where(there, _radius(coefficients, angle) / np.where(there, across, 1.0), 0.0)
    valid = (angle < angle_limit(coefficients)) & (x * x + y * y + z * z > 0)
    return points[:, :2] * scale[:, None], valid


def unproject(coefficients: tuple[float, ...], places: Float) -> tuple[Float, Mask]:
    """Unproject; exact to rounding up to the limit."""
    limit = angle_limit(coefficients)
    radius = np.hypot(places[:, 0], places[:, 1])
    samples = np.linspace(0.0, limit, SAMPLES)
    angle = inverted(lambda at: _radius(coefficients, at), lambda at: _slope(coefficients, at), samples, radius)
    scale = np.where(radius > 1e-12, np.sin(angle) / np.where(radius > 1e-12, radius, 1.0), 1.0)
    rays = np.stack((places[:, 0] * scale, places[:, 1] * scale, np.cos(angle)), axis=1)
    return rays, radius < _radius(coefficients, np.array([limit]))[0]


def jacobian(coefficients: tuple[float, ...], points: Float) -> Float:
    """Differentiate `project` by the point."""
    x, y, z = points.T
    across = np.hypot(x, y)
    squared = np.maximum(across * across + z * z, 1e-300)
    on_axis = across < 1e-9 * np.sqrt(squared)
    safe = np.where(on_axis, 1.0, across)
    angle = np.arctan2(across, z)
    scale = np.where(on_axis, 1.0 / np.where(on_axis & (z != 0), z, 1.0), _radius(coefficients, angle) / safe)
    bend = _slope(coefficients, angle)
    # the direction (x, y) / across times the derivative of the radius, and the turn of the direction itself
    cx, cy = np.where(on_axis, 0.0, x / safe), np.where(on_axis, 0.0, y / safe)
    along = bend * z / squared - scale
    rows = (
        np.stack((scale + along * cx * cx, along * cx * cy, -bend * x / squared), axis=1),
        np.stack((along * cx * cy, scale + along * cy * cy, -bend * y / squared), axis=1),
    )
    return np.stack(rows, axis=1)


@lru_cache(maxsize=256)
def angle_limit(coefficients: tuple[float, ...]) -> float:
    """Return the angle up to which the radius grows, at most pi."""
    k1, k2, k3, k4 = coefficients
    squared = first_root(np.array([1, 3 * k1, 5 * k2, 7 * k3, 9 * k4]), 0.0, np.pi**2)
    return float(min(np.sqrt(squared), np.pi))


def _radius(coefficients: tuple[float, ...], angle: Float) -> Float:
    k1, k2, k3, k4 = coefficients
    squared = angle * angle
    return angle * (1 + squared * (k1 + squared * (k2 + squared * (k3 + squared * k4))))


def _slope(coefficients: tuple[float, ...], angle: Float) -> Float:
    k1, k2, k3, k4 = coefficients
    squared = angle * angle
    return 1 + squared * (3 * k1 + squared * (5 * k2 + squared * (7 * k3 + squared * 9 * k4)))


__all__ = ["angle_limit", "jacobian", "project", "unproject"]
