"""Brown's distortion on the normalised plane, as OpenCV: `plumb_bob` and `rational_polynomial`.

k1 k2 p1 p2 k3 (Brown, Photogrammetric Engineering 1971), and k4 k5 k6 below the fraction line (Claus & Fitzgibbon, CVPR
2005). Valid in front of the camera up to the radius where the radial part stops growing: beyond it points would fold
back into the picture.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import NDArray

from perception.geometry.camera_models.monotonic import SAMPLES, first_root, inverted

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

GRAZING = 1e-3
"""Cosine to the optical axis below which nothing is projected: 89.94 degrees."""
FARTHEST = 1.0 / GRAZING


def project(coefficients: tuple[float, ...], points: Float) -> tuple[Float, Mask]:
    """Project; see the package's text."""
    x, y, _, front = _normalised(coefficients, points)
    return np.stack(_distorted(coefficients, x, y), axis=1), front


def unproject(coefficients: tuple[float, ...], places: Float) -> tuple[Float, Mask]:
    """Unproject: the radial part exactly, then Newton's method for the tangential one."""
    goal_x, goal_y = places.T
    if not any(coefficients):
        return np.stack((goal_x, goal_y, np.ones_like(goal_x)), axis=1), np.ones(len(places), np.bool_)
    limit = min(radius_limit(coefficients), FARTHEST)
    x, y = _radial_only(coefficients, goal_x, goal_y, limit)
    if any(coefficients[2:4]):
        for _ in range(20):
            fx, fy = _distorted(coefficients, x, y)
            (j11, j12), (j21, j22) = _slopes(coefficients, x, y)
            determinant = j11 * j22 - j12 * j21
            determinant = np.where(np.abs(determinant) > 1e-12, determinant, 1e-12)
            dx, dy = goal_x - fx, goal_y - fy
            x, y = x + (j22 * dx - j12 * dy) / determinant, y + (j11 * dy - j21 * dx) / determinant
            at = np.hypot(x, y)
            shrink = np.where(at > limit, 0.99 * limit / np.where(at > 0, at, 1.0), 1.0)
            x, y = x * shrink, y * shrink
    fx, fy = _distorted(coefficients, x, y)
    close = np.hypot(fx - goal_x, fy - goal_y) < 1e-10 * (1 + np.hypot(goal_x, goal_y))
    valid: Mask = np.asarray(close & (np.hypot(x, y) < limit))
    return np.stack((x, y, np.ones_like(x)), axis=1), valid


def jacobian(coefficients: tuple[float, ...], points: Float) -> Float:
    """Differentiate `project` by the point."""
    x, y, inverse, _ = _normalised(coefficients, points)
    (j11, j12), (j21, j22) = _slopes(coefficients, x, y)
    along = np.stack((-x * inverse, -y * inverse), axis=1)
    columns = (
        np.stack((j11 * inverse, j21 * inverse), axis=1),
        np.stack((j12 * inverse, j22 * inverse), axis=1),
        np.stack((j11 * along[:, 0] + j12 * along[:, 1], j21 * along[:, 0] + j22 * along[:, 1]), axis=1),
    )
    return np.stack(columns, axis=2)


def angle_limit(coefficients: tuple[float, ...]) -> float:
    """Return the angle up to which the radius grows, below 90 degrees."""
    return float(np.arctan(min(radius_limit(coefficients), FARTHEST)))


@lru_cache(maxsize=256)
def radius_limit(coefficients: tuple[float, ...]) -> float:
    """Radius on the normalised plane up to which Brown's radial part grows; infinite where it always does."""
    k1, k2, _, _, k3, k4, k5, k6 = _eight(coefficients)
    above, below = np.array([1, k1, k2, k3]), np.array([1, k4, k5, k6])
    # d/dr (r N(r2) / D(r2)) = (N D + 2 r2 (N' D - N D')) / D2
    turned = polynomial.polysub(
        polynomial.polymul(polynomial.polyder(above), below), polynomial.polymul(above, polynomial.polyder(below))
    )
    rises = polynomial.polyadd(polynomial.polymul(above, below), 2 * polynomial.polymulx(turned))
    squared = min(first_root(rises, 0.0, np.inf), first_root(below, 0.0, np.inf))
    return float(np.sqrt(squared))


def _eight(coefficients: tuple[float, ...]) -> tuple[float, ...]:
    return (*coefficients, *(0.0,) * (8 - len(coefficients)))


def _normalised(coefficients: tuple[float, ...], points: Float) -> tuple[Float, Float, Float, Mask]:
    x, y, z = points.T
    front: Mask = np.asarray(z > GRAZING * np.sqrt(x * x + y * y + z * z))
    inverse = 1.0 / np.where(front, z, 1.0)
    x, y = x * inverse, y * inverse
    front = front & (np.hypot(x, y) < radius_limit(coefficients))
    return np.where(front, x, 0.0), np.where(front, y, 0.0), inverse, front


def _radial(coefficients: tuple[float, ...], squared: Float) -> tuple[Float, Float]:
    """Return the radial factor and its derivative by the squared radius."""
    k1, k2, _, _, k3, k4, k5, k6 = _eight(coefficients)
    above = 1 + squared * (k1 + squared * (k2 + squared * k3))
    below = 1 + squared * (k4 + squared * (k5 + squared * k6))
    above_slope = k1 + squared * (2 * k2 + squared * 3 * k3)
    below_slope = k4 + squared * (2 * k5 + squared * 3 * k6)
    return above / below, (above_slope * below - above * below_slope) / (below * below)


def _distorted(coefficients: tuple[float, ...], x: Float, y: Float) -> tuple[Float, Float]:
    if not coefficients:
        return x, y
    p1, p2 = coefficients[2:4]
    squared = x * x + y * y
    radial, _ = _radial(coefficients, squared)
    return (
        x * radial + 2 * p1 * x * y + p2 * (squared + 2 * x * x),
        y * radial + p1 * (squared + 2 * y * y) + 2 * p2 * x * y,
    )


def _slopes(coefficients: tuple[float, ...], x: Float, y: Float) -> tuple[tuple[Float, Float], tuple[Float, Float]]:
    p1, p2 = coefficients[2:4] if coefficients else (0.0, 0.0)
    radial, slope = _radial(coefficients, x * x + y * y)
    mixed = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
    return (
        (radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x, mixed),
        (mixed, radial + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x),
    )


def _radial_only(coefficients: tuple[float, ...], x: Float, y: Float, limit: float) -> tuple[Float, Float]:
    """Invert the radial part alone."""

    def value(radius: Float) -> Float:
        return radius * _radial(coefficients, radius * radius)[0]

    def slope(radius: Float) -> Float:
        factor, rise = _radial(coefficients, radius * radius)
        return factor + 2 * radius * radius * rise

    samples = np.tan(np.linspace(0.0, np.arctan(limit), SAMPLES))
    distorted = np.hypot(x, y)
    radius = inverted(value, slope, samples, distorted)
    scale = np.where(distorted > 1e-12, radius / np.where(distorted > 1e-12, distorted, 1.0), 1.0)
    return x * scale, y * scale


__all__ = ["angle_limit", "jacobian", "project", "radius_limit", "unproject"]
