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


@dataclass(frozen=True)
class Estimate:
    """How far a sensor's frame seems to have moved from where the rig says, in the axes of `base_link`.

    Attributes:
        moved: (6,) rotation vector, radians, then translation, metres: true = turned(rig, moved).
        deviation: (6,) standard deviations; infinite where the recording does not tell.
        measurements: how many points or edges stand behind it.
        better: how many standard deviations the recording fits better there than where the rig says; infinite where
            the fit itself measures.
        gain: how much better, as a share.
    """

    moved: Float
    deviation: Float
    measurements: int
    better: float = np.inf
    gain: float = np.inf


__all__ = ["Estimate", "Sweep"]
