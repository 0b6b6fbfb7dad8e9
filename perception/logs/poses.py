"""Poses of log files, as 4x4 matrices, turned into message fields."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pose_fields(
    pose: NDArray[np.float64],
) -> tuple[tuple[float, float, float], tuple[float, float, float, float]]:
    """Return translation and rotation (x, y, z, w) of a 4x4 pose whose rotation is exact to file precision only."""
    transform = rigid(pose)
    x, y, z = (float(value) for value in transform.translation_m)
    qx, qy, qz, qw = (float(value) for value in transform.rotation_xyzw)
    return (x, y, z), (qx, qy, qz, qw)
