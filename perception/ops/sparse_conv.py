"""Sparse convolution over the occupied cells of a voxel grid, without custom operators.

A grid is the sorted list of its occupied cells. Which input cell each kernel position of each output cell reads is
worked out once per resolution (`kernel_table`, shared by all convolutions of that resolution); the convolution itself
is then a gather and a matrix product per kernel position, plain enough to be exported.

Source: Graham, Engelcke & van der Maaten, "3D Semantic Segmentation with Submanifold Sparse Convolutional Networks",
CVPR 2018; the order of kernel positions and the weight layouts are those of spconv 1.x and 2.x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.errors import ShapeError

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class SparseGrid:
    """The occupied cells of a batch of voxel grids."""

    cells: NDArray[np.int64]
    """(N,) ascending, ((sample * D + z) * H + y) * W + x."""
    shape: Triple
    """D, H, W cells along z, y, x."""
    batch: int

    def coordinates(self) -> NDArray[np.int64]:
        """Sample, z, y, x of every cell, (N, 4)."""
        return np.stack(np.unravel_index(self.cells, (self.batch, *self.shape)), 1).astype(np.int64)


def sparse_grid(
    coordinates: NDArray[np.integer[Any]], shape: Triple, batch: int
) -> tuple[SparseGrid, NDArray[np.int64]]:
    """Sort cells given by (N, 4) sample, z, y, x; also return the order, so that `features[order]` fits the grid.

    Raises:
        ShapeError: a coordinate lies outside the grid, or a cell is given twice.
    """
    if coordinates.ndim != 2 or coordinates.shape[1] != 4:
        raise ShapeError(f"voxel coordinates of shape {coordinates.shape}; expected (N, 4): sample, z, y, x")
    limits = np.array((batch, *shape))
    if coordinates.size and (coordinates.min() < 0 or (coordinates.max(0) >= limits).any()):
        raise ShapeError(f"voxel coordinates up to {coordinates.max(0)}; expected 0 to below {limits}")
    keys = np.ravel_multi_index(tuple(coordinates.T.astype(np.int64)), (batch, *shape)).astype(np.int64)
    order = np.argsort(keys)
    cells = keys[order]
    if (cells[1:] == cells[:-1]).any():
        raise ShapeError("a voxel is given twice; expected each occupied cell once")
    return SparseGrid(cells, shape, batch), order


def strided_grid(grid: SparseGrid, kernel: Triple, stride: Triple, padding: Triple) -> SparseGrid:
    """Return the grid of a strided convolution: every output cell whose kernel meets an occupied input cell."""
    shape = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(grid.shape, kernel, stride, padding, strict=True))
    occupied = np.zeros(grid.batch * int(np.prod(shape)), np.bool_)
    _mark_reached(occupied, grid.coordinates(), shape, kernel, stride, padding)
    return SparseGrid(np.flatnonzero(occupied).astype(np.int64), (shape[0], shape[1], shape[2]), grid.batch)


def kernel_table(inputs: SparseGrid, outputs: SparseGrid, kernel: Triple, stride: Triple, padding: Triple) -> Tensor:
    """Return the row of `inputs` under each kernel position of each output cell, (kD * kH * kW, outputs) int64.

    A position over an empty cell, or beyond the border, holds the number of input cells.
    """
    table = np.full((int(np.prod(kernel)), len(outputs.cells)), len(inputs.cells), np.int64)
    _match(table, outputs.coordinates(), inputs.cells, inputs.shape, kernel, stride, padding)
    return torch.from_numpy(table)


def submanifold_table(grid: SparseGrid, kernel: Triple = (3, 3, 3)) -> Tensor:
    """Return the table of a convolution whose output cells are its input cells, (kD * kH * kW, N) int64.

    The kernel's sides are odd, so the relation is symmetric: half of the positions are matched, the others follow.
    """
    count, middle = len(grid.cells), int(np.prod(kernel)) // 2
    table = np.full((2 * middle + 1, count), count, np.int64)
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    _match(table[:middle], grid.coordinates(), grid.cells, grid.shape, kernel, (1, 1, 1), padding)
    _mirror(table)
    return torch.from_numpy(table)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _mark_reached(
    occupied: NDArray[np.bool_],
    cells: NDArray[np.int64],
    shape: Triple,
    kernel: Triple,
    stride: Triple,
    padding: Triple,
) -> None:
    for sample, z, y, x in cells:
        for dz in range(kernel[0]):
            oz, rz = divmod(z + padding[0] - dz, stride[0])
            if rz != 0 or oz < 0 or oz >= shape[0]:
                continue
            for dy in range(kernel[1]):
                oy, ry = divmod(y + padding[1] - dy, stride[1])
                if ry != 0 or oy < 0 or oy >= shape[1]:
                    continue
                for dx in range(kernel[2]):
                    ox, rx = divmod(x + padding[2] - dx, stride[2])
                    if rx == 0 and 0 <= ox < shape[2]:
                        occupied[((sample * shape[0] + oz) * shape[1] + oy) * shape[2] + ox] = True


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _match(
    table: NDArray[np.int64],
    outputs: NDArray[np.int64],
    cells: NDArray[np.int64],
    shape: Triple,
    kernel: Triple,
    stride: Triple,
    padding: Triple,
) -> None:
    """Walk outputs and inputs side by side: for one kernel position both ascend, so no search is needed."""
    position = 0
    for dz in range(kernel[0]):
        for dy in range(kernel[1]):
            for dx in range(kernel[2]):
                if position == len(table):
                    return
                row = 0
                for output in range(len(outputs)):
                    sample, oz, oy, ox = outputs[output]
                    z = oz * stride[0] - padding[0] + dz
                    y = oy * stride[1] - padding[1] + dy
                    x = ox * stride[2] - padding[2] + dx
                    if z < 0 or z >= shape[0] or y < 0 or y >= shape[1] or x < 0 or x >= shape[2]:
                        continue
                    cell = ((sample * shape[0] + z) * shape[1] + y) * shape[2] + x
                    while row < len(cells) and cells[row] < cell:
                        row += 1
                    if row < len(cells) and cells[row] == cell:
                        table[position, output] = row
                position += 1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _mirror(table: NDArray[np.int64]) -> None:
    """Complete a submanifold table whose first half is given: if i meets j at one position, j meets i opposite."""
    positions, count = table.shape
    for row in range(count):
        table[positions // 2, row] = row
    for position in range(positions // 2):
        for row in range(count):
            if table[position, row] < count:
                table[positions - 1 - position, table[position, row]] = row


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _compact(table: NDArray[np.int64], inputs: int, outputs: NDArray[np.int64], met: NDArray[np.int64]) -> None:
    filled = 0
    for position in range(table.shape[0]):
        for row in range(table.shape[1]):
            outputs[filled], met[filled] = row, table[position, row]  # without a branch: none could be foretold
            filled += table[position, row] < inputs


Pairs = list[tuple[Tensor, Tensor]]
"""Per kernel position, the output rows that meet an input, and the input rows that they meet."""


def kernel_pairs(table: Tensor, inputs: int) -> Pairs:
    """Return what a table of `kernel_table` connects; convolutions that share the table share this.

    Args:
        table: (K, M) int64.
        inputs: the number of input cells.
    """
    counts: list[int] = (table < inputs).sum(1).tolist()
    if table.is_cuda:
        position, rows = (table < inputs).nonzero(as_tuple=True)
        return list(zip(torch.split(rows, counts), torch.split(table[position, rows], counts), strict=True))
    outputs, met = (torch.empty(sum(counts) + 1, dtype=torch.int64) for _ in range(2))  # the last one is scratch
    _compact(table.numpy(), inputs, outputs.numpy(), met.numpy())
    return list(zip(torch.split(outputs[:-1], counts), torch.split(met[:-1], counts), strict=True))


def sparse_conv(features: Tensor, table: Tensor, weight: Tensor, pairs: Pairs | None = None) -> Tensor:
    """Convolve the features of the input cells.

    Args:
        features: (N, Cin), rows in the order of the input grid.
        table: (K, M) int64 from `kernel_table`, N where there is no input.
        weight: (kD, kH, kW, Cin, Cout), the layout of spconv 1.x, with kD * kH * kW = K.
        pairs: `kernel_pairs` of the table, where they are at hand.

    Returns:
        (M, Cout), rows in the order of the output grid.
    """
    channels, out_channels = weight.shape[-2:]
    if torch.compiler.is_exporting() or features.is_cuda:
        # Which rows meet an input depends on the data, which a graph cannot hold: read a row of zeros instead
        padded = torch.cat([features, features.new_zeros(1, channels)])
        return padded[table.T].reshape(table.shape[1], -1) @ weight.reshape(-1, out_channels)
    output = features.new_zeros(table.shape[1], out_channels)
    products = weight.reshape(-1, channels, out_channels)
    for (outputs, inputs), kernel in zip(pairs or kernel_pairs(table, features.shape[0]), products, strict=True):
        if len(outputs) == len(features) == len(output):  # both ascend: the middle of a submanifold kernel
            output = torch.addmm(output, features, kernel)
        else:
            met = features.index_select(0, inputs) @ kernel
            output.index_add_(0, outputs, met.to(output.dtype))  # autocast computes products in its own type
    return output


def weight_from_spconv2(weight: Tensor) -> Tensor:
    """Turn the spconv 2.x layout (Cout, kD, kH, kW, Cin) into the one used here, (kD, kH, kW, Cin, Cout)."""
    return weight.permute(1, 2, 3, 4, 0).contiguous()
