"""Dynamic voxelisation: every point falls into its voxel, without a cap on points or voxels.

Zhou et al., "End-to-End Multi-View Fusion for 3D Object Detection in LiDAR Point Clouds", CoRL 2019, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from perception.errors import ShapeError

MOST_CELLS = 1 << 22
"""16 MiB of numbers."""


@dataclass(frozen=True)
class VoxelGrid:
    """A grid: `minimum_m` and `voxel_m` are (x, y, z), `size` is the number of voxels along x, y and z."""

    minimum_m: tuple[float, float, float]
    voxel_m: tuple[float, float, float]
    size: tuple[int, int, int]


@dataclass(frozen=True)
class DynamicVoxels:
    """Points that lie in the grid, and the voxels that hold them.

    Attributes:
        points: (N, F) the points that are kept, in their order: batch, x, y, z, features.
        voxel: (N,) index of each point's voxel.
        coords: (V, 4) int32 batch, z, y, x; ordered by batch, x, y, z with x slowest.
    """

    points: Tensor
    voxel: Tensor
    coords: Tensor


def dynamic_voxels(points: Tensor, grid: VoxelGrid, *, test_z: bool = True) -> DynamicVoxels:
    """Sort points into voxels.

    Args:
        points: (N, 4 + C) float32: batch index, x, y, z, features; points with a number that is not finite are dropped.
        grid: the grid; a point exactly on its far border is outside.
        test_z: also drop what lies outside in z; without it all points count for the one layer of a pillar grid.

    Raises:
        ShapeError: not (N, 4 or more).
    """
    if points.ndim != 2 or points.shape[1] < 4:
        raise ShapeError(f"points have shape {tuple(points.shape)}; expected (N, 4 or more): batch, x, y, z, features")
    points = points[torch.isfinite(points).all(dim=1)]
    minimum, voxel = points.new_tensor(grid.minimum_m), points.new_tensor(grid.voxel_m)
    size = points.new_tensor(grid.size)
    place = torch.floor((points[:, 1:4] - minimum) / voxel)
    if not test_z:
        place[:, 2] = 0
    inside = ((place >= 0) & (place < size)).all(dim=1)
    points, cell = points[inside], place[inside].long()
    nx, ny, nz = grid.size
    key = ((points[:, 0].long() * nx + cell[:, 0]) * ny + cell[:, 1]) * nz + cell[:, 2]
    unique, index = numbered(key, (int(points[:, 0].max()) + 1 if len(points) else 0) * nx * ny * nz)
    z, rest = unique % nz, unique // nz
    y, rest = rest % ny, rest // ny
    coords = torch.stack((rest // nx, z, y, rest % nx), dim=1).int()
    return DynamicVoxels(points, index, coords)


def numbered(key: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Return the sorted cells that hold a point, (V,), and the number among them of each point's cell, (N,).

    Args:
        key: (N,) int64 cell of each point, 0 to `cells` - 1.
        cells: how many there are; on a CPU up to `MOST_CELLS` of them are counted off, which is faster than to sort.
    """
    if key.device.type != "cpu" or not 0 < cells <= MOST_CELLS:
        held_cells, inverse = torch.unique(key, return_inverse=True)
        return held_cells, inverse
    number = np.zeros(cells, np.int32)
    unique, index = np.empty(min(cells, len(key)), np.int64), np.empty(len(key), np.int64)
    held = _number(key.numpy(), number, unique, index)
    return torch.from_numpy(unique[:held]), torch.from_numpy(index)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _number(key: Any, number: Any, unique: Any, index: Any) -> int:
    for point in range(len(key)):
        number[key[point]] = 1
    held = 0
    for cell in range(len(number)):
        if number[cell]:
            unique[held], number[cell] = cell, held
            held += 1
    for point in range(len(key)):
        index[point] = number[key[point]]
    return held


def decorated(points: Tensor, voxel: Tensor, center: Tensor) -> Tensor:
    """Append to points where they lie from the mean of their voxel's points and from its centre.

    Args:
        points: (N, F) x, y, z first.
        voxel: (N,) each point's voxel.
        center: (V, 3) the voxels' centres; every voxel holds a point.

    Returns:
        (N, F + 6).
    """
    if points.device.type == "cpu" and points.dtype == torch.float32 and not points.requires_grad:
        made = np.empty((len(points), points.shape[1] + 6), np.float32)
        _decorate(points.contiguous().numpy(), voxel.numpy(), center.contiguous().numpy(), made)
        return torch.from_numpy(made)
    xyz = points[:, :3]
    return torch.cat((points, xyz - voxel_mean(xyz, voxel, len(center))[voxel], xyz - center[voxel]), dim=1)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _decorate(points: Any, voxel: Any, center: Any, made: Any) -> None:
    total, held = np.zeros((len(center), 3), np.float32), np.zeros(len(center), np.float32)
    for point in range(len(points)):
        held[voxel[point]] += np.float32(1)
        for axis in range(3):
            total[voxel[point], axis] += points[point, axis]
    features = points.shape[1]
    for point in range(len(points)):
        row = voxel[point]
        for feature in range(features):
            made[point, feature] = points[point, feature]
        for axis in range(3):
            made[point, features + axis] = points[point, axis] - total[row, axis] / held[row]
            made[point, features + 3 + axis] = points[point, axis] - center[row, axis]


def voxel_mean(values: Tensor, voxel: Tensor, count: int) -> Tensor:
    """Return the mean of (N, C) by voxel, (V, C)."""
    total = values.new_zeros(count, values.shape[1]).index_add_(0, voxel, values)
    points = values.new_zeros(count).index_add_(0, voxel, values.new_ones(len(voxel)))
    return total / points.clamp(min=1).unsqueeze(1)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _raise_to(highest: Any, voxel: Any, values: Any) -> None:
    """Raise each voxel's row to its points: one pass over memory, several times faster than torch's scatter."""
    for point in range(len(voxel)):
        row = voxel[point]
        for channel in range(values.shape[1]):
            highest[row, channel] = max(highest[row, channel], values[point, channel])


def voxel_max(values: Tensor, voxel: Tensor, count: int) -> Tensor:
    """Return the maximum of (N, C) by voxel, (V, C); every voxel holds a point."""
    if values.device.type == "cpu" and values.dtype == torch.float32 and not values.requires_grad:
        highest = np.full((count, values.shape[1]), -np.inf, np.float32)
        _raise_to(highest, voxel.numpy(), values.contiguous().numpy())
        return torch.from_numpy(highest)
    index = voxel.unsqueeze(1).expand_as(values)
    lowest = values.new_full((count, values.shape[1]), -torch.inf)
    return lowest.scatter_reduce_(0, index, values, reduce="amax")


__all__ = ["DynamicVoxels", "VoxelGrid", "decorated", "dynamic_voxels", "numbered", "voxel_max", "voxel_mean"]
