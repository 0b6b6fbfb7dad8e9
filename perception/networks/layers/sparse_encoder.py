"""Sparse voxel encoder: residual submanifold stages, each but the last ended by a strided convolution.

Paper      Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018 (basic-block variant)
Reference  open-mmlab/mmdetection3d v0.17.1, mmdet3d/models/middle_encoders/sparse_encoder.py (Apache-2.0)
Differs    which cells a convolution reads is worked out beforehand (`sparse_tables`), so that the encoder itself holds
           gathers and matrix products alone; weights in the layout of spconv 1.x
Shapes     N_i occupied cells at resolution i, K kernel positions, B batch, C channels, D x H x W cells along z, y, x
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perception.ops.device_voxels import device_grid, device_strided_grid, device_table
from perception.ops.sparse_backend import SparseBackend
from perception.ops.sparse_conv import (
    Pairs,
    SparseGrid,
    Triple,
    kernel_pairs,
    kernel_table,
    sparse_conv,
    sparse_grid,
    strided_grid,
    submanifold_table,
)

KERNEL: Triple = (3, 3, 3)
STRIDE: Triple = (2, 2, 2)
OUT_KERNEL: Triple = (3, 1, 1)
OUT_STRIDE: Triple = (2, 1, 1)
BATCH_NORM_EPS = 1e-3


@dataclass(frozen=True)
class SparseEncoderConfig:
    """The published sizes by default."""

    grid: Triple = (41, 1440, 1440)  # D, H, W
    in_channels: int = 5
    channels: tuple[int, ...] = (16, 32, 64, 128)
    paddings: tuple[Triple, ...] = ((1, 1, 1), (1, 1, 1), (0, 1, 1))  # of the strided convolutions
    out_channels: int = 128

    @property
    def out_grid(self) -> Triple:
        """D, H, W of the output."""
        depth, height, width = self.grid
        for pad_z, pad_y, pad_x in self.paddings:
            depth, height, width = (
                (depth + 2 * pad_z - 3) // 2 + 1,
                (height + 2 * pad_y - 3) // 2 + 1,
                (width + 2 * pad_x - 3) // 2 + 1,
            )
        return (depth - 3) // 2 + 1, height, width


@dataclass(frozen=True)
class SparseTables:
    """Where each convolution of the encoder reads, for one batch of clouds."""

    order: Tensor
    """(N_0,) int64: the voxel that stands in each row."""
    same: tuple[Tensor, ...]
    """Per resolution (27, N_i): neighbours for the submanifold convolutions."""
    down: tuple[Tensor, ...]
    """Between resolutions (27, N_i+1), and last, for the output convolution along z, (3, N_out)."""
    dense: Tensor
    """(B, D * H * W) int64: the output row of each cell of the dense map, N_out where it is empty."""

    def to(self, device: torch.device) -> SparseTables:
        """Return them in the memory of a device."""
        same, down = (tuple(table.to(device) for table in tables) for tables in (self.same, self.down))
        return SparseTables(self.order.to(device), same, down, self.dense.to(device))


def sparse_tables(coordinates: NDArray[np.integer[Any]], config: SparseEncoderConfig, batch: int) -> SparseTables:
    """Build the tables for voxels (N, 4) sample, z, y, x.

    Raises:
        ShapeError: a voxel lies outside the grid, or is given twice.
    """
    grid, order = sparse_grid(coordinates, config.grid, batch)
    same = [submanifold_table(grid)]
    down: list[Tensor] = []
    for padding in config.paddings:
        grid = _strided(grid, KERNEL, STRIDE, padding, down)
        same.append(submanifold_table(grid))
    grid = _strided(grid, OUT_KERNEL, OUT_STRIDE, (0, 0, 0), down)
    dense = np.full(batch * int(np.prod(grid.shape)), len(grid.cells), np.int64)
    dense[grid.cells] = np.arange(len(grid.cells))
    return SparseTables(torch.from_numpy(order), tuple(same), tuple(down), torch.from_numpy(dense.reshape(batch, -1)))


def device_tables(coordinates: Tensor, config: SparseEncoderConfig, batch: int) -> SparseTables:
    """Build the same tables in tensors, where the voxels (N, 4) sample, z, y, x lie; N is at least 1."""
    grid, order = device_grid(coordinates, config.grid)
    same, down = [device_table(grid, grid, KERNEL, (1, 1, 1), (1, 1, 1))], []
    for padding in config.paddings:
        below = device_strided_grid(grid, KERNEL, STRIDE, padding)
        down.append(device_table(grid, below, KERNEL, STRIDE, padding))
        grid = below
        same.append(device_table(grid, grid, KERNEL, (1, 1, 1), (1, 1, 1)))
    below = device_strided_grid(grid, OUT_KERNEL, OUT_STRIDE, (0, 0, 0))
    down.append(device_table(grid, below, OUT_KERNEL, OUT_STRIDE, (0, 0, 0)))
    dense = torch.full((batch * int(np.prod(below.shape)),), len(below.cells), device=coordinates.device)
    dense[below.cells] = torch.arange(len(below.cells), device=coordinates.device)
    return SparseTables(order, tuple(same), tuple(down), dense.reshape(batch, -1))


def _strided(grid: SparseGrid, kernel: Triple, stride: Triple, padding: Triple, tables: list[Tensor]) -> SparseGrid:
    below = strided_grid(grid, kernel, stride, padding)
    tables.append(kernel_table(grid, below, kernel, stride, padding))
    return below


class SparseConv(nn.Module):
    """A sparse convolution without bias; the weight is (kD, kH, kW, Cin, Cout)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Triple = KERNEL) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*kernel, in_channels, out_channels))
        nn.init.normal_(self.weight, std=(2.0 / (int(np.prod(kernel)) * in_channels)) ** 0.5)

    def forward(self, features: Tensor, table: Tensor, pairs: Pairs | None) -> Tensor:
        return sparse_conv(features, table, self.weight, pairs)


def _norm(channels: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, eps=BATCH_NORM_EPS)


class SparseBasicBlock(nn.Module):
    """Two submanifold convolutions and the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = SparseConv(channels, channels), _norm(channels)
        self.conv2, self.bn2 = SparseConv(channels, channels), _norm(channels)

    def forward(self, x: Tensor, table: Tensor, pairs: Pairs | None) -> Tensor:
        inner = self.bn1(self.conv1(x, table, pairs)).relu_()
        return (self.bn2(self.conv2(inner, table, pairs)) + x).relu_()  # type: ignore[no-any-return]


class SparseEncoder(nn.Module):
    """Voxel features to a dense bird's-eye-view map whose channels are (feature, height)."""

    def __init__(self, config: SparseEncoderConfig) -> None:
        super().__init__()
        self.config = config
        first = config.channels[0]
        self.conv_input = nn.ModuleList([SparseConv(config.in_channels, first), _norm(first)])
        self.encoder_layers = nn.ModuleDict()
        for index, channels in enumerate(config.channels):
            stage: list[nn.Module] = [SparseBasicBlock(channels), SparseBasicBlock(channels)]
            if index < len(config.paddings):
                below = config.channels[index + 1]
                stage.append(nn.ModuleList([SparseConv(channels, below), _norm(below)]))
            self.encoder_layers[f"encoder_layer{index + 1}"] = nn.ModuleList(stage)
        out = SparseConv(config.channels[-1], config.out_channels, OUT_KERNEL)
        self.conv_out = nn.ModuleList([out, _norm(config.out_channels)])

    def forward(self, features: Tensor, dense: Tensor, same: Sequence[Tensor], down: Sequence[Tensor]) -> Tensor:
        """Encode voxels, given the tables of `sparse_tables` (rows already in its `order`).

        Args:
            features: (N_0, Cin) one row per occupied voxel.
            dense: where each cell of the dense map reads, see `SparseTables`.
            same: per resolution, neighbours.
            down: between resolutions, and for the output convolution.

        Returns:
            (B, C * D, H, W), channel c * D + z.
        """
        x = features
        for index, stage in enumerate(self.encoder_layers.values()):
            assert isinstance(stage, nn.ModuleList)
            table = same[index]
            pairs = None if torch.compiler.is_exporting() or x.is_cuda else kernel_pairs(table, x.shape[0])
            if index == 0:
                x = _convolve(self.conv_input, x, table, pairs)
            x = stage[1](stage[0](x, table, pairs), table, pairs)
            if len(stage) == 3:
                x = _convolve(stage[2], x, down[index])
        x = _convolve(self.conv_out, x, down[-1])
        padded = torch.cat([x, x.new_zeros(1, x.shape[1])])  # (N_out + 1, C)
        depth, height, width = self.config.out_grid
        bev = padded[dense].reshape(-1, depth, height, width, x.shape[1])
        return bev.permute(0, 4, 1, 2, 3).reshape(-1, x.shape[1] * depth, height, width)

    def encode(
        self, features: Tensor, coordinates: NDArray[np.integer[Any]], batch: int, backend: SparseBackend
    ) -> Tensor:
        """Encode voxels (N, Cin) at (N, 4) sample, z, y, x on a backend of its own choice of tables.

        The same function as `sparse_tables` and `forward`, for a backend that cannot be cut into the two.
        """
        x = backend.voxels(features, coordinates, self.config.grid, batch)

        def normed(layer: nn.Module, convolved: Any) -> Any:
            return backend.with_features(convolved, lambda rows: layer(rows).relu())

        first, norm = _convolution_and_norm(self.conv_input)
        x = normed(norm, backend.submanifold(x, first.weight))
        for index, stage in enumerate(self.encoder_layers.values()):
            assert isinstance(stage, nn.ModuleList)
            for block in list(stage)[:2]:
                assert isinstance(block, SparseBasicBlock)
                before = x.features
                x = normed(block.bn1, backend.submanifold(x, block.conv1.weight))
                x = backend.submanifold(x, block.conv2.weight)
                x = backend.with_features(x, partial(_added, block.bn2, before))
            if len(stage) == 3:
                down, norm = _convolution_and_norm(stage[2])
                x = normed(norm, backend.strided(x, down.weight, STRIDE, self.config.paddings[index]))
        out, norm = _convolution_and_norm(self.conv_out)
        volume = backend.dense(normed(norm, backend.strided(x, out.weight, OUT_STRIDE, (0, 0, 0))))
        return volume.flatten(1, 2)


def _convolution_and_norm(layer: nn.Module) -> tuple[SparseConv, nn.Module]:
    convolution, norm = layer.children()
    assert isinstance(convolution, SparseConv)
    return convolution, norm


def _added(norm: nn.Module, before: Tensor, rows: Tensor) -> Tensor:
    return (norm(rows) + before).relu()  # type: ignore[no-any-return]


def _convolve(layer: nn.Module, x: Tensor, table: Tensor, pairs: Pairs | None = None) -> Tensor:
    assert isinstance(layer, nn.ModuleList)
    return layer[1](layer[0](x, table, pairs)).relu_()  # type: ignore[no-any-return]
