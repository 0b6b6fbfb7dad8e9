"""`double_sphere`: two unit spheres, shifted by xi, and a pinhole, shifted by alpha (Usenko et al., 3DV 2018)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]


def project(coefficients: tuple[float, ...], points: Float) -> tuple[Float, Mask]:
    """Project; see the package's text."""
    _, alpha = coefficients
    d1, d2, shifted = _distances(coefficients, points)
    denominator = alpha * d2 + (1 - alpha) * shifted
    valid = (points[:, 2] > -_lowest(coefficients) * d1) & (denominator > 1e-9 * d1) & (d1 > 0)
    return points[:, :2] / np.where(valid, denominator, 1.0)[:, None], valid


def unproject(coefficients: tuple[float, ...], places: Float) -> tuple[Float, Mask]:
    """Unproject, in closed form."""
    xi, alpha = coefficients
    x, y = places.T
    r2 = x * x + y * y
    under = 1 - (2 * alpha - 1) * r2
    valid = under >= 0
    mz = (1 - alpha * alpha * r2) / (alpha * np.sqrt(np.where(valid, under, 0.0)) + 1 - alpha)
    inner = mz * mz + (1 - xi * xi) * r2
    valid &= inner >= 0
    factor = (mz * xi + np.sqrt(np.where(inner >= 0, inner, 0.0))) / np.maximum(mz * mz + r2, 1e-300)
    return np.stack((factor * x, factor * y, factor * mz - xi), axis=1), valid


def jacobian(coefficients: tuple[float, ...], points: Float) -> Float:
    """Differentiate `project` by the point."""
    xi, alpha = coefficients
    x, y, z = points.T
    d1, d2, shifted = _distances(coefficients, points)
    d1, d2 = np.where(d1 > 0, d1, 1.0), np.where(d2 > 0, d2, 1.0)
    denominator = alpha * d2 + (1 - alpha) * shifted
    denominator = np.where(np.abs(denominator) > 1e-12, denominator, 1.0)
    shifted_by = np.stack((xi * x / d1, xi * y / d1, xi * z / d1 + 1), axis=1)  # (N, 3)
    d2_by = (np.stack((x, y, np.zeros_like(z)), axis=1) + shifted[:, None] * shifted_by) / d2[:, None]
    denominator_by = alpha * d2_by + (1 - alpha) * shifted_by
    out = -points[:, :2, None] * denominator_by[:, None, :] / (denominator * denominator)[:, None, None]
    out[:, 0, 0] += 1 / denominator
    out[:, 1, 1] += 1 / denominator
    return np.asarray(out)


def angle_limit(coefficients: tuple[float, ...]) -> float:
    """Return the angle at which the cone of the model ends."""
    return float(np.arccos(np.clip(-_lowest(coefficients), -1.0, 1.0)))


def _distances(coefficients: tuple[float, ...], points: Float) -> tuple[Float, Float, Float]:
    xi, _ = coefficients
    x, y, z = points.T
    d1 = np.sqrt(x * x + y * y + z * z)
    shifted = xi * d1 + z
    return d1, np.sqrt(x * x + y * y + shifted * shifted), shifted


def _lowest(coefficients: tuple[float, ...]) -> float:
    """Return w2 of the paper: -z over the distance of the lowest point that is seen."""
    xi, alpha = coefficients
    w1 = alpha / (1 - alpha) if alpha <= 0.5 else (1 - alpha) / alpha
    return float((w1 + xi) / np.sqrt(max(2 * w1 * xi + xi * xi + 1, 1e-12)))


__all__ = ["angle_limit", "jacobian", "project", "unproject"]
