"""Group points by voxel, a bounded number of points in a bounded number of voxels, first come first served.

Source: Zhou & Tuzel, "VoxelNet", CVPR 2018, section 2.3; the order is that of spconv's `PointToVoxel` on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
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
    return HardVoxels(*_grouped(np.ascontiguousarray(points), low, size, grid, max_points, max_voxels))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _grouped(
    points: NDArray[np.float32],
    low: NDArray[np.float32],
    size: NDArray[np.float32],
    grid: NDArray[np.int64],
    max_points: int,
    max_voxels: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    coordinates, of_point = _numbered(points, low, size, grid, max_voxels)
    grouped = np.zeros((len(coordinates), max_points, points.shape[1]), np.float32)
    counts = np.zeros(len(coordinates), np.int64)
    for index in range(len(points)):
        voxel = of_point[index]
        if voxel >= 0 and counts[voxel] < max_points:
            grouped[voxel, counts[voxel]] = points[index]
            counts[voxel] += 1
    return grouped, counts, coordinates


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _numbered(
    points: NDArray[np.float32],
    low: NDArray[np.float32],
    size: NDArray[np.float32],
    grid: NDArray[np.int64],
    max_voxels: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return z, y, x of each voxel (M, 3) as it is first entered, and the voxel of each point, -1 for none."""
    slots = 16
    while slots < 2 * len(points):
        slots *= 2
    keys, voxels = np.full(slots, -1, np.int64), np.empty(slots, np.int64)  # an open hash table, at most half full
    coordinates, of_point = np.empty((min(len(points), max_voxels), 3), np.int64), np.full(len(points), -1, np.int64)
    count = 0
    for index in range(len(points)):
        x, y, z = (
            np.floor((points[index, 0] - low[0]) / size[0]),
            np.floor((points[index, 1] - low[1]) / size[1]),
            np.floor((points[index, 2] - low[2]) / size[2]),
        )
        if not (0 <= x < grid[0] and 0 <= y < grid[1] and 0 <= z < grid[2]):
            continue  # nor is a point that is not finite in a cell
        key = (np.int64(z) * grid[1] + np.int64(y)) * grid[0] + np.int64(x)
        slot = ((key * 0x9E3779B1) >> 12) & (slots - 1)  # spread: neighbours along x follow each other
        while keys[slot] not in (-1, key):
            slot = (slot + 1) & (slots - 1)
        if keys[slot] == -1:
            if count == max_voxels:
                continue
            keys[slot], voxels[slot] = key, count
            coordinates[count, 0], coordinates[count, 1], coordinates[count, 2] = z, y, x
            count += 1
        of_point[index] = voxels[slot]
    return coordinates[:count], of_point
