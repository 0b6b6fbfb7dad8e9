"""Voxels and the tables of sparse convolutions worked out in tensors, on whatever device these lie.

The same results as `hard_voxels` and `sparse_conv` give with numpy, in the same order. On a CPU those are faster; on a
GPU these keep a frame there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perception.ops.sparse_conv import Triple


@dataclass(frozen=True)
class DeviceVoxels:
    """Occupied voxels in the order in which the cloud first enters them; see `HardVoxels`."""

    points: Tensor
    """(M, T, F), zeros in slots that stay empty."""
    counts: Tensor
    """(M,) filled slots."""
    coordinates: Tensor
    """(M, 3) z, y, x."""

    def means(self) -> Tensor:
        """Mean of each voxel's points, (M, F)."""
        return self.points.sum(1) / self.counts[:, None].to(self.points.dtype)


def device_voxels(
    points: Tensor, point_range: tuple[float, ...], voxel_size: tuple[float, ...], max_points: int, max_voxels: int
) -> DeviceVoxels:
    """Group the points (N, F), x, y, z first, that lie in the range; see `hard_voxels`."""
    sides = [np.array(side, np.float32) for side in (point_range[:3], point_range[3:], voxel_size)]
    grid = np.round((sides[1] - sides[0]) / sides[2]).astype(np.int64).tolist()  # cells along x, y, z
    low, _, size = (torch.from_numpy(side).to(points.device) for side in sides)
    cell = torch.floor((points[:, :3] - low) / size)
    inside = (cell >= 0).all(1) & (cell[:, 0] < grid[0]) & (cell[:, 1] < grid[1]) & (cell[:, 2] < grid[2])
    kept = inside.nonzero()[:, 0]
    x, y, z = cell[kept].long().unbind(1)
    ordered, order = torch.sort((z * grid[1] + y) * grid[0] + x, stable=True)
    keys, voxel, sizes = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    begins = sizes.cumsum(0) - sizes
    slot = torch.arange(len(order), device=points.device) - begins[voxel]
    by_arrival = torch.argsort(order[begins])
    arrival = torch.empty_like(by_arrival)
    arrival[by_arrival] = torch.arange(len(keys), device=points.device)
    served = (slot < max_points) & (arrival[voxel] < max_voxels)
    count = min(len(keys), max_voxels)
    grouped = points.new_zeros(count, max_points, points.shape[1])
    grouped[arrival[voxel[served]], slot[served]] = points[kept[order[served]]]
    first = by_arrival[:count]
    rows = keys[first] // grid[0]
    coordinates = torch.stack((rows // grid[1], rows % grid[1], keys[first] % grid[0]), 1)
    return DeviceVoxels(grouped, sizes[first].clamp(max=max_points), coordinates)


@dataclass(frozen=True)
class DeviceGrid:
    """The occupied cells of a batch of grids; see `SparseGrid`."""

    cells: Tensor
    """(N,) ascending, ((sample * D + z) * H + y) * W + x."""
    shape: Triple

    def coordinates(self) -> Tensor:
        """Sample, z, y, x of every cell, (N, 4)."""
        depth, height, width = self.shape
        rows, planes = self.cells // width, self.cells // (width * height)
        return torch.stack((planes // depth, planes % depth, rows % height, self.cells % width), 1)


def device_grid(coordinates: Tensor, shape: Triple) -> tuple[DeviceGrid, Tensor]:
    """Sort cells (N, 4) sample, z, y, x; also return the order, so that `features[order]` fits the grid."""
    cells, order = torch.sort(_keys(coordinates[:, 0], coordinates[:, 1:], shape))
    return DeviceGrid(cells, shape), order


def device_strided_grid(grid: DeviceGrid, kernel: Triple, stride: Triple, padding: Triple) -> DeviceGrid:
    """Return the grid of a strided convolution; see `strided_grid`."""
    n, k, s, p = (np.array(side) for side in (grid.shape, kernel, stride, padding))
    depth, height, width = ((n + 2 * p - k) // s + 1).tolist()
    coordinates = grid.coordinates()
    reached = coordinates[:, 1:] + _triple(padding, coordinates) - _offsets(kernel, coordinates)[:, None]  # (K, N, 3)
    step, limit = _triple(stride, coordinates), _triple((depth, height, width), coordinates)
    at = torch.div(reached, step, rounding_mode="floor")
    meets = ((reached % step == 0) & (at >= 0) & (at < limit)).all(2)
    keys = _keys(coordinates[:, 0].expand(len(reached), -1), at, (depth, height, width))
    return DeviceGrid(torch.unique(keys[meets]), (depth, height, width))


def device_table(inputs: DeviceGrid, outputs: DeviceGrid, kernel: Triple, stride: Triple, padding: Triple) -> Tensor:
    """Return the row of `inputs` under each kernel position of each output cell, (K, M); see `kernel_table`."""
    coordinates = outputs.coordinates()
    corner = coordinates[:, 1:] * _triple(stride, coordinates) - _triple(padding, coordinates)
    place = corner + _offsets(kernel, coordinates)[:, None]  # (K, M, 3)
    inside = ((place >= 0) & (place < _triple(inputs.shape, coordinates))).all(2)
    keys = _keys(coordinates[:, 0].expand(len(place), -1), place, inputs.shape)
    row = torch.searchsorted(inputs.cells, keys).clamp(max=len(inputs.cells) - 1)
    return torch.where(inside & (inputs.cells[row] == keys), row, len(inputs.cells))


def _keys(sample: Tensor, place: Tensor, shape: Triple) -> Tensor:
    z, y, x = place.unbind(-1)
    return ((sample * shape[0] + z) * shape[1] + y) * shape[2] + x


def _offsets(kernel: Triple, like: Tensor) -> Tensor:
    """Kernel positions z, y, x in the order of their weights, (K, 3)."""
    axes = (torch.arange(side, device=like.device) for side in kernel)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def _triple(sides: Triple, like: Tensor) -> Tensor:
    return torch.tensor(sides, device=like.device)


__all__ = ["DeviceGrid", "DeviceVoxels", "device_grid", "device_strided_grid", "device_table", "device_voxels"]
