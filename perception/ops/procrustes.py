"""The similarity that lays one set of points on another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError


def similarity_aligned(source: NDArray[Any], target: NDArray[Any]) -> NDArray[np.float64]:
    """Rotate, scale and move points so that their squared distances to `target` sum to the least; no reflection.

    Args:
        source: (N, 3) points, not all in one place.
        target: (N, 3) where each should lie.

    Returns:
        (N, 3) the moved source.

    Raises:
        ShapeError: other shapes, fewer than one point, or all points of the source in one place.

    Source: Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991.
    """
    moved, fixed = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if moved.ndim != 2 or moved.shape != fixed.shape or moved.shape[1] != 3 or not len(moved):
        raise ShapeError(f"points of shapes {moved.shape} and {fixed.shape}; expected the same (N, 3)")
    centred, goal = moved - moved.mean(axis=0), fixed - fixed.mean(axis=0)
    spread = float((centred**2).sum())
    if not spread > 0:
        raise ShapeError("all points of the source lie in one place: no scale or rotation moves them onto others")
    left, singular, right = np.linalg.svd(goal.T @ centred)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    rotation = (left * signs) @ right
    aligned: NDArray[np.float64] = (singular @ signs) / spread * centred @ rotation.T + fixed.mean(axis=0)
    return aligned
