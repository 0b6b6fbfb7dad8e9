"""Sparse convolution against dense convolution, and where it writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perception.errors import ShapeError
from perception.ops.host_convolution import OUTPUTS
from perception.ops.sparse_conv import (
    SparseGrid,
    kernel_table,
    sparse_conv,
    sparse_grid,
    strided_grid,
    submanifold_table,
    weight_from_spconv2,
)
from tests.threads import threads_of_torch

SHAPE = (7, 10, 12)


def random_voxels(seed: int, share: float, batch: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    voxels = np.argwhere(rng.random((batch, *SHAPE)) < share)
    return voxels[rng.permutation(len(voxels))]


def dense(features: Tensor, grid: SparseGrid) -> Tensor:
    """The map that the rows of a grid stand for, (B, C, D, H, W), zeros elsewhere."""
    sample, z, y, x = torch.from_numpy(grid.coordinates()).T
    volume = features.new_zeros(grid.batch, *grid.shape, features.shape[1])
    volume[sample, z, y, x] = features
    return volume.permute(0, 4, 1, 2, 3)


def occupied(grid: SparseGrid) -> Tensor:
    return dense(torch.ones(len(grid.cells), 1, dtype=torch.float64), grid)


@given(st.integers(0, 1000), st.floats(0.01, 0.6))
@settings(max_examples=20, deadline=None)
def test_a_submanifold_convolution_is_the_dense_one_at_the_occupied_cells(seed: int, share: float) -> None:
    grid, order = sparse_grid(random_voxels(seed, share), SHAPE, batch=2)
    features = torch.randn(len(order), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    weight = torch.randn(3, 3, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    ours = dense(sparse_conv(features, submanifold_table(grid), weight), grid)
    reference = F.conv3d(dense(features, grid), weight.permute(4, 3, 0, 1, 2), padding=1) * occupied(grid)
    torch.testing.assert_close(ours, reference)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_gradients_are_those_of_the_dense_convolution(stride: int) -> None:
    grid, order = sparse_grid(random_voxels(5, 0.2), SHAPE, batch=2)
    one, three, strides = (1, 1, 1), (3, 3, 3), (stride, stride, stride)
    below = grid if stride == 1 else strided_grid(grid, three, strides, one)
    table = submanifold_table(grid) if stride == 1 else kernel_table(grid, below, three, strides, one)
    features = torch.randn(len(order), 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 3, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    towards = torch.randn(len(below.cells), 5, dtype=torch.float64)
    ours = torch.autograd.grad((sparse_conv(features, table, weight) * towards).sum(), (features, weight))
    volume = F.conv3d(dense(features, grid), weight.permute(4, 3, 0, 1, 2), stride=stride, padding=1)
    theirs = torch.autograd.grad((volume * dense(towards, below)).sum(), (features, weight))
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
        ((3, 3, 3), (2, 2, 2), (0, 1, 1)),
        ((3, 1, 1), (2, 1, 1), (0, 0, 0)),
        ((2, 3, 1), (1, 2, 3), (1, 0, 0)),
    ],
)
@pytest.mark.parametrize("share", [0.005, 0.1, 0.9])
def test_a_strided_convolution_is_the_dense_one(
    kernel: tuple[int, int, int], stride: tuple[int, int, int], padding: tuple[int, int, int], share: float
) -> None:
    grid, order = sparse_grid(random_voxels(3, share), SHAPE, batch=2)
    below = strided_grid(grid, kernel, stride, padding)
    features = torch.randn(len(order), 4, dtype=torch.float64)
    weight = torch.randn(*kernel, 4, 3, dtype=torch.float64)
    ours = dense(sparse_conv(features, kernel_table(grid, below, kernel, stride, padding), weight), below)
    reference = F.conv3d(dense(features, grid), weight.permute(4, 3, 0, 1, 2), stride=stride, padding=padding)
    torch.testing.assert_close(ours, reference)  # zero, too, wherever we have no output cell
    reached = F.conv3d(occupied(grid), torch.ones(1, 1, *kernel, dtype=torch.float64), stride=stride, padding=padding)
    assert torch.equal(occupied(below) > 0, reached > 0)


def test_one_voxel_reaches_the_cells_whose_kernel_meets_it() -> None:
    # Stride 2, padding 1: output o reads inputs 2o - 1 to 2o + 1. Input 3 is the last of o = 1 and the first of o = 2.
    grid, _ = sparse_grid(np.array([[0, 3, 3, 4]]), (7, 10, 12), batch=1)
    below = strided_grid(grid, (3, 3, 3), (2, 2, 2), (1, 1, 1))
    assert below.shape == (4, 5, 6)
    expected = [[0, z, y, 2] for z in (1, 2) for y in (1, 2)]  # input 4 along x is the middle of o = 2 alone
    assert below.coordinates().tolist() == expected
    weight = torch.arange(27.0).reshape(3, 3, 3, 1, 1)
    out = sparse_conv(torch.ones(1, 1), kernel_table(grid, below, (3, 3, 3), (2, 2, 2), (1, 1, 1)), weight)
    # Kernel position (dz, dy, dx) weighs 9 dz + 3 dy + dx: the last (2) from o = 1, the first (0) from o = 2
    assert out[:, 0].tolist() == [18 + 6 + 1, 18 + 0 + 1, 0 + 6 + 1, 0 + 0 + 1]


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_order_of_voxels_does_not_matter(seed: int) -> None:
    voxels = random_voxels(seed, 0.1)
    features = torch.randn(len(voxels), 3, dtype=torch.float64)
    shuffled = np.random.default_rng(seed).permutation(len(voxels))
    weight = torch.randn(3, 3, 3, 3, 2, dtype=torch.float64)

    def convolved(rows: np.ndarray) -> Tensor:
        grid, order = sparse_grid(voxels[rows], SHAPE, batch=2)
        return sparse_conv(features[rows][order], submanifold_table(grid), weight)

    torch.testing.assert_close(convolved(shuffled), convolved(np.arange(len(voxels))))


def test_the_exported_form_equals_the_eager_one() -> None:
    grid, order = sparse_grid(random_voxels(5, 0.1), SHAPE, batch=2)
    features, weight = torch.randn(len(order), 4), torch.randn(3, 3, 3, 4, 3)

    class Convolution(torch.nn.Module):
        def forward(self, features: Tensor, table: Tensor) -> Tensor:
            return sparse_conv(features, table, weight)

    table = submanifold_table(grid)
    exported = torch.export.export(Convolution(), (features, table)).module()
    torch.testing.assert_close(exported(features, table), sparse_conv(features, table, weight), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("share", "batch", "threads"), [(0.2, 2, 1), (0.2, 2, 2), (0.95, 4, 1)])
@pytest.mark.parametrize(("channels", "out_channels"), [(5, 16), (3, 6), (7, 96), (16, 128)])
def test_compiled_for_the_host_it_is_the_one_that_learns(
    channels: int, out_channels: int, share: float, batch: int, threads: int
) -> None:
    grid, order = sparse_grid(random_voxels(5, share, batch), SHAPE, batch)
    assert share < 0.5 or len(order) > 3 * OUTPUTS  # which is more than it works on at a time
    below = strided_grid(grid, (3, 3, 3), (2, 2, 2), (1, 1, 1))
    features, weight = torch.randn(len(order), channels), torch.randn(3, 3, 3, channels, out_channels)
    for table in (submanifold_table(grid), kernel_table(grid, below, (3, 3, 3), (2, 2, 2), (1, 1, 1))):
        with torch.inference_mode(), threads_of_torch(threads):
            found = sparse_conv(features, table, weight)
        expected = sparse_conv(features, table, weight.requires_grad_()).detach()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_weights_of_spconv_2_compute_the_same() -> None:
    dense_weight = torch.randn(6, 4, 3, 3, 3)  # Cout, Cin, kD, kH, kW, as torch has it
    stored = dense_weight.permute(0, 2, 3, 4, 1)  # Cout, kD, kH, kW, Cin, as spconv 2.x has it
    assert torch.equal(weight_from_spconv2(stored), dense_weight.permute(2, 3, 4, 1, 0))


def test_no_voxels_give_no_output() -> None:
    grid, _ = sparse_grid(np.zeros((0, 4), np.int64), SHAPE, batch=1)
    below = strided_grid(grid, (3, 3, 3), (2, 2, 2), (1, 1, 1))
    table = kernel_table(grid, below, (3, 3, 3), (2, 2, 2), (1, 1, 1))
    assert sparse_conv(torch.zeros(0, 4), table, torch.randn(3, 3, 3, 4, 5)).shape == (0, 5)


@pytest.mark.parametrize(
    "voxels", [[[0, 0, 0, 12]], [[0, -1, 0, 0]], [[1, 0, 0, 0]], [[0, 1, 2, 3], [0, 1, 2, 3]], [[0, 1, 2]]]
)
def test_voxels_that_cannot_be_are_refused(voxels: list[list[int]]) -> None:
    with pytest.raises(ShapeError):
        sparse_grid(np.array(voxels), SHAPE, batch=1)
