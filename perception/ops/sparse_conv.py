"""Sparse convolution over the occupied cells of a voxel grid, without custom operators.

A grid is the sorted list of its occupied cells. Which input cell each kernel position of each output cell reads is
worked out once per resolution (`kernel_table`, shared by all convolutions of that resolution); the convolution itself
is then a gather and a matrix product per kernel position, plain enough to be exported.

Source: Graham, Engelcke & van der Maaten, "3D Semantic Segmentation with Submanifold Sparse Convolutional Networks",
CVPR 2018; the order of kernel positions and the weight layouts are those of spconv 1.x and 2.x.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from perception.errors import ShapeError
from perception.ops.host_convolution import convolved_on_host
from perception.ops.host_sampling import may_round_otherwise

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
        return _coordinates(self.cells, self.shape)  # type: ignore[no-any-return]


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
    table = np.empty((int(np.prod(kernel)), len(outputs.cells)), np.int64)
    _match(table, outputs.coordinates(), inputs.cells, inputs.shape, kernel, stride, padding)
    return torch.from_numpy(table)


def submanifold_table(grid: SparseGrid, kernel: Triple = (3, 3, 3)) -> Tensor:
    """Return the table of a convolution whose output cells are its input cells, (kD * kH * kW, N) int64.

    The kernel's sides are odd, so the relation is symmetric: half of the positions are matched, the others follow.
    """
    count, middle = len(grid.cells), int(np.prod(kernel)) // 2
    table = np.empty((2 * middle + 1, count), np.int64)
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
def _coordinates(cells: NDArray[np.int64], shape: Triple) -> NDArray[np.int64]:
    coordinates = np.empty((len(cells), 4), np.int64)
    for row in range(len(cells)):
        line, coordinates[row, 3] = divmod(cells[row], shape[2])
        layer, coordinates[row, 2] = divmod(line, shape[1])
        coordinates[row, 0], coordinates[row, 1] = divmod(layer, shape[0])
    return coordinates


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
    """Walk outputs and inputs side by side: for one line of the kernel both ascend, so no search is needed."""
    depth, height, width = shape
    for line in range(kernel[0] * kernel[1]):
        dz, dy = divmod(line, kernel[1])
        first = line * kernel[2]
        positions = min(kernel[2], len(table) - first)
        if positions <= 0:
            return
        row = 0
        for output in range(len(outputs)):
            sample, oz, oy, ox = outputs[output]
            for position in range(positions):
                table[first + position, output] = len(cells)
            z, y = oz * stride[0] - padding[0] + dz, oy * stride[1] - padding[1] + dy
            if z < 0 or z >= depth or y < 0 or y >= height:
                continue
            left = ox * stride[2] - padding[2]
            begin = ((sample * depth + z) * height + y) * width
            while row < len(cells) and cells[row] < begin + max(left, 0):
                row += 1
            met = row
            while met < len(cells) and cells[met] < begin + min(left + positions, width):
                table[first + cells[met] - begin - left, output] = met
                met += 1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _mirror(table: NDArray[np.int64]) -> None:
    """Complete a submanifold table whose first half is given: if i meets j at one position, j meets i opposite."""
    positions, count = table.shape
    for row in range(count):
        table[positions // 2, row] = row
    for position in range(positions // 2):
        opposite = table[positions - 1 - position]
        opposite[:] = count
        for row in range(count):
            if table[position, row] < count:
                opposite[table[position, row]] = row


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _compact(table: NDArray[np.int64], inputs: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    counts = np.zeros(len(table), np.int64)
    for position in range(table.shape[0]):
        for row in range(table.shape[1]):
            counts[position] += table[position, row] < inputs
    outputs, met = np.empty(counts.sum() + 1, np.int64), np.empty(counts.sum() + 1, np.int64)  # the last is scratch
    filled = 0
    for position in range(table.shape[0]):
        for row in range(table.shape[1]):
            outputs[filled], met[filled] = row, table[position, row]  # without a branch: none could be foretold
            filled += table[position, row] < inputs
    return counts, outputs[:-1], met[:-1]


@dataclass(frozen=True)
class Pairs:
    """Per kernel position, the output rows that meet an input, ascending, and the input rows that they meet."""

    outputs: Tensor
    """(T,) int64, position by position."""
    inputs: Tensor
    """(T,) int64."""
    counts: tuple[int, ...]
    """Pairs of each position, T in all."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what each position connects."""
        return zip(*(torch.split(rows, list(self.counts)) for rows in (self.outputs, self.inputs)), strict=True)


def kernel_pairs(table: Tensor, inputs: int) -> Pairs:
    """Return what a table of `kernel_table` connects; convolutions that share the table share this.

    Args:
        table: (K, M) int64.
        inputs: the number of input cells.
    """
    if table.is_cuda:
        position, rows = (table < inputs).nonzero(as_tuple=True)
        return Pairs(rows, table[position, rows], tuple((table < inputs).sum(1).tolist()))
    counts, outputs, met = _compact(table.numpy(), inputs)
    return Pairs(torch.from_numpy(outputs), torch.from_numpy(met), tuple(counts.tolist()))


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
    kernels = weight.reshape(-1, channels, out_channels)
    pairs = pairs or kernel_pairs(table, features.shape[0])
    if may_round_otherwise(features) and features.dtype == kernels.dtype == torch.float32:
        begins = torch.tensor((0, *accumulate(pairs.counts)))
        return convolved_on_host(features, kernels, pairs.outputs, pairs.inputs, begins, table.shape[1])
    return _Convolution.apply(features, kernels, pairs, table.shape[1])  # type: ignore[no-any-return,no-untyped-call]


class _Convolution(torch.autograd.Function):
    """Rows of features times kernels, added to the output rows that they meet.

    With a gradient of our own, since torch's `index_add_`, which is also the gradient of `index_select`, begins anew
    for every row: with rows of 16 to 64 channels that costs many times the arithmetic (measured).
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, kernels: Tensor, pairs: Pairs, rows: int) -> Tensor:
        ctx.save_for_backward(features, kernels)
        ctx.pairs = pairs
        output = features.new_zeros(rows, kernels.shape[2])
        for (outputs, inputs), kernel in zip(pairs, kernels, strict=True):
            _add_to_rows(output, outputs, _rows(features, inputs) @ kernel)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        features, kernels = ctx.saved_tensors
        gradient, of_kernels = gradient.contiguous(), torch.empty_like(kernels)
        of_features = torch.zeros_like(features) if ctx.needs_input_grad[0] else None
        for (outputs, inputs), kernel, of_kernel in zip(ctx.pairs, kernels, of_kernels, strict=True):
            arriving = _rows(gradient, outputs)
            torch.mm(_rows(features, inputs).T, arriving, out=of_kernel)
            if of_features is not None:
                _add_to_rows(of_features, inputs, arriving @ kernel.T)
        return of_features, of_kernels, None, None


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """Return some rows; for one kernel position they ascend, so as many as there are is all of them as they stand."""
    return values if len(rows) == len(values) else values.index_select(0, rows)


def _add_to_rows(total: Tensor, rows: Tensor, values: Tensor) -> None:
    values = values.to(total.dtype)  # autocast computes products in its own type
    if len(rows) == len(total):
        total += values
    elif total.dtype in (torch.float32, torch.float64):
        _add_rows(total.numpy(), rows.numpy(), values.numpy())
    else:
        total.index_add_(0, rows, values)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add_rows(total: NDArray[np.floating[Any]], rows: NDArray[np.int64], values: NDArray[np.floating[Any]]) -> None:
    for index in range(len(rows)):
        row = rows[index]
        for channel in range(values.shape[1]):
            total[row, channel] += values[index, channel]


def weight_from_spconv2(weight: Tensor) -> Tensor:
    """Turn the spconv 2.x layout (Cout, kD, kH, kW, Cin) into the one used here, (kD, kH, kW, Cin, Cout)."""
    return weight.permute(1, 2, 3, 4, 0).contiguous()
