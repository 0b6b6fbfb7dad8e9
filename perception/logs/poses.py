"""Poses of log files, as 4x4 matrices, turned into message fields."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.errors import GeometryError, LogError
from perception.geometry.transforms import Transform


def rigid(matrix: NDArray[np.float64]) -> Transform:
    """Return a transform of a matrix whose rotation is exact to the precision of its file only.

    Raises:
        LogError: it is no rotation and translation.
    """
    try:
        return Transform.from_matrix(matrix, tolerance=1e-3)
    except GeometryError as error:
        raise LogError(f"a pose of the log is none: {error}") from None


def pose_fields(transform: Transform) -> tuple[tuple[float, float, float], tuple[float, float, float, float]]:
    """Return translation and rotation (x, y, z, w) as plain numbers."""
    x, y, z = (float(value) for value in transform.translation_m)
    qx, qy, qz, qw = (float(value) for value in transform.rotation_xyzw)
    return (x, y, z), (qx, qy, qz, qw)


__all__ = ["pose_fields", "rigid"]
