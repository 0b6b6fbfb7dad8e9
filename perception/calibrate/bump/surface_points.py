"""Points on surfaces that the LiDAR measured while a camera took a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.bump.ego_track import EgoTrack
from perception.calibrate.bump.lidar_edges import rings_of
from perception.calibrate.bump.sweep import Sweep
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]
Index: TypeAlias = NDArray[np.int64]

NEAREST_M, FARTHEST_M = 1.5, 25.0
LATEST_S = 0.04
"""How far the instants of a point and of a picture may be apart: what moves on its own is elsewhere by then."""
STEP_M, STEP_SHARE = 0.05, 0.03
"""Depth by which neighbours on a ring differ where the surface ends: beside it, another thing is in the picture."""
THING_M = 4.0
"""Points within such a cube of the world are wrong together."""


@dataclass(frozen=True, eq=False)
class SurfacePoints:
    """Points around one instant.

    Attributes:
        odom_m: (N, 3).
        vehicle_m: (N, 3) where the vehicle was at each point's instant, in odom.
        base_m: (N, 3) in `base_link` at each point's instant.
        thing: (N,) the part of the world that each is in.
    """

    odom_m: Float
    vehicle_m: Float
    base_m: Float
    thing: Index

    @classmethod
    def around(
        cls, t_ns: int, sweeps: Sequence[Sweep], base_link_from_lidar: Transform, track: EgoTrack
    ) -> SurfacePoints:
        """Return the points of some sweeps that were measured around an instant, away from where surfaces end."""
        measured, stamps = [], []
        for sweep in sweeps:
            depth = np.linalg.norm(sweep.xyz_m, axis=1)
            kept = (np.abs(sweep.point_t_ns - t_ns) < LATEST_S * 1e9) & track.covers(sweep.point_t_ns)
            kept &= (depth > NEAREST_M) & (depth < FARTHEST_M) & _within_surfaces(sweep, depth)
            measured.append(sweep.xyz_m[kept])
            stamps.append(sweep.point_t_ns[kept])
        base = base_link_from_lidar.apply(np.concatenate(measured))
        rotation, vehicle = track.rotations_and_translations(np.concatenate(stamps))
        odom = np.einsum("nij,nj->ni", rotation, base) + vehicle
        cell = np.floor(odom / THING_M).astype(np.int64) % (1 << 20)
        return cls(odom, vehicle, base, (cell[:, 0] << 40) | (cell[:, 1] << 20) | cell[:, 2])

    def chosen(self, which: Index) -> SurfacePoints:
        """Return some of them."""
        return SurfacePoints(self.odom_m[which], self.vehicle_m[which], self.base_m[which], self.thing[which])


def _within_surfaces(sweep: Sweep, depth: Float) -> NDArray[np.bool_]:
    """Return where (N,) two neighbours to either side on the ring are about as far."""
    ring, azimuth = rings_of(sweep), np.arctan2(sweep.xyz_m[:, 1], sweep.xyz_m[:, 0])
    order = np.lexsort((azimuth, ring))
    along, rings = depth[order], ring[order]
    ends = (np.abs(np.diff(along)) > STEP_M + STEP_SHARE * along[1:]) | (np.diff(rings) != 0)
    near = np.zeros(len(order) + 3, np.bool_)
    for shift in range(4):
        near[shift : shift + len(ends)] |= ends
    within = np.empty(len(order), np.bool_)
    within[order] = ~near[1 : 1 + len(order)]
    return within


__all__ = ["SurfacePoints"]
