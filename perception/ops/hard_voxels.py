"""Group points by voxel, a bounded number of points in a bounded number of voxels, first come first served.

Source: Zhou & Tuzel, "VoxelNet", CVPR 2018, section 2.3; the order is that of spconv's `PointToVoxel` on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError


@dataclass(frozen=True)
class HardVoxels:
    """Occupied voxels in the order in which the cloud first enters them."""

    points: NDArray[np.float32]
    """(M, T, F) the first T points of each voxel, zeros in slots that stay empty."""
    counts: NDArray[np.int64]
    """(M,) filled slots."""
    coordinates: NDArray[np.int64]
    """(M, 3) z, y, x."""

    def means(self) -> NDArray[np.float32]:
        """Mean of each voxel's points, (M, F)."""
        return np.asarray(self.points.sum(1) / self.counts[:, None].astype(np.float32))


def hard_voxels(
    points: NDArray[np.float32],
    point_range: tuple[float, ...],
    voxel_size: tuple[float, ...],
    max_points: int,
    max_voxels: int,
) -> HardVoxels:
    """Group the points that lie in the range; its upper border is outside.

    Args:
        points: (N, F) x, y, z in metres, then whatever else.
        point_range: x, y, z minimum and x, y, z maximum, metres.
        voxel_size: along x, y, z, metres.
        max_points: of a voxel; later ones are dropped.
        max_voxels: points that would begin one more are dropped.

    Raises:
        ShapeError: points of another shape.
    """
    if points.ndim != 2 or points.shape[1] < 3:
        raise ShapeError(f"points of shape {points.shape}; expected (N, 3 or more): x, y, z first")
    low, high = np.array(point_range[:3], np.float32), np.array(point_range[3:], np.float32)
    size = np.array(voxel_size, np.float32)
    grid = np.round((high - low) / size).astype(np.int64)  # cells along x, y, z
    cell = np.floor((points[:, :3] - low) / size)
    with np.errstate(invalid="ignore"):
        kept = np.flatnonzero(((cell >= 0) & (cell < grid)).all(1))  # a point that is not finite is in no cell
    x, y, z = cell[kept].astype(np.int64).T
    key = (z * grid[1] + y) * grid[0] + x
    order = np.argsort(key, kind="stable")  # by voxel, in input order within each
    begins = np.flatnonzero(np.diff(key[order], prepend=-1))
    voxel = np.cumsum(np.diff(key[order], prepend=-1) != 0) - 1  # of each ordered point
    slot = np.arange(len(order)) - begins[voxel]
    by_arrival = np.argsort(order[begins])
    arrival = np.empty_like(by_arrival)
    arrival[by_arrival] = np.arange(len(by_arrival))
    served = (slot < max_points) & (arrival[voxel] < max_voxels)
    count = min(len(begins), max_voxels)
    grouped = np.zeros((count, max_points, points.shape[1]), np.float32)
    grouped[arrival[voxel[served]], slot[served]] = points[kept[order[served]]]
    sizes = np.diff(begins, append=len(order))[by_arrival[:count]]
    keys = key[order[begins]][by_arrival[:count]]
    coordinates = np.stack(np.unravel_index(keys, (grid[2], grid[1], grid[0])), 1).astype(np.int64)
    return HardVoxels(grouped, np.minimum(sizes, max_points), coordinates)
