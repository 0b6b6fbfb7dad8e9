"""A sweep as the check looks at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sweep:
    """One turn of a LiDAR.

    Attributes:
        t_ns: stamp of the sweep.
        xyz_m: (N, 3) in the sensor's frame, as measured.
        point_t_ns: (N,) instant of each point.
        ring: (N,) or None where the sensor does not tell.
    """

    t_ns: int
    xyz_m: Float
    point_t_ns: NDArray[np.int64]
    ring: NDArray[np.int64] | None


__all__ = ["Sweep"]
