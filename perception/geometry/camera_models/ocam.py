"""`ocam`: OCamCalib's polynomials and affine part (Scaramuzza et al., IROS 2006).

Coefficients: c d e, count of a, a..., count of b, b... . The affine part is [c d; e 1] on rows and columns, which are
turned to u = column, v = row. b gives the radius in pixels by the angle to the image plane (world to camera), a the ray
by the radius (camera to world). OCamCalib fits both, and they invert each other to a fraction of a pixel only; here b
is the truth and is inverted to rounding. A calibration that brings one of them has a count of 0 for the other.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import NDArray

from perception.errors import GeometryError
from perception.geometry.camera_models.monotonic import SAMPLES, inverted

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

ON_AXIS = -np.pi / 2
"""Angle to the image plane of what lies straight ahead: OCamCalib's z points backwards."""


@lru_cache(maxsize=256)
def parts(coefficients: tuple[float, ...]) -> tuple[tuple[float, float, float], Float, Float]:
    """Return the affine part (c, d, e), a and b.

    Raises:
        GeometryError: the counts do not fit.
    """
    error = GeometryError(
        "ocam has the coefficients c, d, e, the count of a and a, the count of b and b; "
        f"{len(coefficients)} numbers do not fit"
    )
    if len(coefficients) < 7:
        raise error
    count = int(coefficients[3])
    if count == 1 or count < 0 or count != coefficients[3] or len(coefficients) < 5 + count:
        raise error
    inverse_count = int(coefficients[4 + count])
    if inverse_count == 1 or inverse_count != coefficients[4 + count] or len(coefficients) != 5 + count + inverse_count:
        raise error
    c, d, e = coefficients[:3]
    if abs(c - d * e) < 1e-6:
        raise GeometryError(f"ocam has the affine part [{c} {d}; {e} 1], which flattens the picture")
    return (c, d, e), np.array(coefficients[4 : 4 + count]), np.array(coefficients[5 + count :])


def project(coefficients: tuple[float, ...], points: Float) -> tuple[Float, Mask]:
    """Project; see the package's text."""
    (c, d, e), _, _ = parts(coefficients)
    across = np.hypot(points[:, 0], points[:, 1])
    angle = np.arctan2(-points[:, 2], across)
    radius, limit = _radius(coefficients, angle), _end(coefficients)
    there = across > 1e-12
    scale = np.where(there, radius / np.where(there, across, 1.0), 0.0)
    rows, columns = points[:, 1] * scale, points[:, 0] * scale
    valid = (angle <= limit) & (np.linalg.norm(points, axis=1) > 0)
    return np.stack((e * rows + columns, c * rows + d * columns), axis=1), valid


def unproject(coefficients: tuple[float, ...], places: Float) -> tuple[Float, Mask]:
    """Unproject; inverts b, or follows a where there is no b."""
    (c, d, e), by_radius, by_angle = parts(coefficients)
    u, v = places.T
    determinant = c - d * e
    rows, columns = (v - d * u) / determinant, (c * u - e * v) / determinant
    radius = np.hypot(rows, columns)
    if not len(by_angle):
        return np.stack((columns, rows, -polynomial.polyval(radius, by_radius)), axis=1), radius <= _outermost(
            coefficients
        )
    begin, limit = _begin(coefficients), _end(coefficients)
    samples, slope = np.linspace(begin, limit, SAMPLES), np.asarray(polynomial.polyder(by_angle), np.float64)
    angle = inverted(lambda at: _value(at, by_angle), lambda at: _value(at, slope), samples, radius)
    scale = np.where(radius > 1e-12, np.cos(angle) / np.where(radius > 1e-12, radius, 1.0), 0.0)
    rays = np.stack((columns * scale, rows * scale, -np.sin(angle)), axis=1)
    return rays, radius <= polynomial.polyval(limit, by_angle)


def jacobian(coefficients: tuple[float, ...], points: Float) -> Float:
    """Differentiate `project` by the point."""
    (c, d, e), _, _ = parts(coefficients)
    x, y, z = points.T
    across = np.hypot(x, y)
    squared = np.maximum(across * across + z * z, 1e-300)
    on_axis = across < 1e-9 * np.sqrt(squared)
    safe = np.where(on_axis, 1.0, across)
    angle = np.arctan2(-z, across)
    bend = _slope(
        coefficients, angle
    )  # by the angle; the angle grows by z / squared with `across`, -across / squared with z
    distance = np.sqrt(squared)
    scale = np.where(on_axis, bend / distance, _radius(coefficients, angle) / safe)
    along = np.where(on_axis, 0.0, bend * z / squared - scale)
    cx, cy = x / safe, y / safe
    toward = np.where(on_axis, 0.0, -bend * across / squared)
    columns_by = np.stack((scale + along * cx * cx, along * cx * cy, cx * toward), axis=1)
    rows_by = np.stack((along * cx * cy, scale + along * cy * cy, cy * toward), axis=1)
    return np.stack((e * rows_by + columns_by, c * rows_by + d * columns_by), axis=1)


def angle_limit(coefficients: tuple[float, ...]) -> float:
    """Return the angle to the optical axis up to which the radius grows."""
    return float(_end(coefficients) - ON_AXIS)


def _radius(coefficients: tuple[float, ...], angle: Float) -> Float:
    _, by_radius, by_angle = parts(coefficients)
    if len(by_angle):
        return np.asarray(polynomial.polyval(angle, by_angle))
    outermost = _outermost(coefficients)
    samples = np.linspace(0.0, outermost, SAMPLES)
    return inverted(lambda at: _angle(by_radius, at), lambda at: _angle_slope(by_radius, at), samples, angle)


def _slope(coefficients: tuple[float, ...], angle: Float) -> Float:
    _, by_radius, by_angle = parts(coefficients)
    if len(by_angle):
        return np.asarray(polynomial.polyval(angle, polynomial.polyder(by_angle)))
    return 1.0 / _angle_slope(by_radius, _radius(coefficients, angle))


def _value(at: Float, coefficients: Float) -> Float:
    return np.asarray(polynomial.polyval(at, coefficients), np.float64)


def _angle(by_radius: Float, radius: Float) -> Float:
    return np.asarray(np.arctan2(polynomial.polyval(radius, by_radius), radius))


def _angle_slope(by_radius: Float, radius: Float) -> Float:
    height, rise = polynomial.polyval(radius, by_radius), polynomial.polyval(radius, polynomial.polyder(by_radius))
    return np.asarray((rise * radius - height) / (height * height + radius * radius))


@lru_cache(maxsize=256)
def _begin(coefficients: tuple[float, ...]) -> float:
    """Angle at which b's radius begins to be positive and to grow: straight ahead, but for the error of the fit."""
    _, _, by_angle = parts(coefficients)
    angle = np.linspace(ON_AXIS, 0.0, 8001)
    wrong = (polynomial.polyval(angle, by_angle) < 0) | (polynomial.polyval(angle, polynomial.polyder(by_angle)) <= 0)
    near = np.flatnonzero(wrong & (angle < ON_AXIS + 0.1))  # a fit goes astray near the axis only
    return float(angle[near[-1] + 1]) if len(near) else ON_AXIS


@lru_cache(maxsize=256)
def _end(coefficients: tuple[float, ...]) -> float:
    """Angle at which the radius stops growing."""
    _, by_radius, by_angle = parts(coefficients)
    if not len(by_angle):
        return float(_angle(by_radius, np.array([_outermost(coefficients)]))[0])
    angle = np.linspace(_begin(coefficients), np.pi / 2, 16001)[1:]
    falling = np.flatnonzero(polynomial.polyval(angle, polynomial.polyder(by_angle)) <= 0)
    return float(angle[max(falling[0] - 1, 0)]) if len(falling) else np.pi / 2


@lru_cache(maxsize=256)
def _outermost(coefficients: tuple[float, ...]) -> float:
    """Radius up to which the angle of a's ray grows."""
    _, by_radius, _ = parts(coefficients)
    radius = np.linspace(0.0, 16384.0, 65537)
    falling = np.flatnonzero(_angle_slope(by_radius, radius[1:]) <= 0)
    return float(radius[falling[0]]) if len(falling) else float(radius[-1])


__all__ = ["angle_limit", "jacobian", "parts", "project", "unproject"]
