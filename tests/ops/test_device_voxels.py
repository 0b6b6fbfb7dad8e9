"""Voxels and tables in tensors are those in numpy, row by row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.networks.deepinteraction import DEEPINTERACTION_COMPACT, lidar_on_device, prepare_lidar
from perception.ops.device_voxels import device_grid, device_strided_grid, device_table, device_voxels
from perception.ops.hard_voxels import hard_voxels
from perception.ops.sparse_conv import kernel_table, sparse_grid, strided_grid

RANGE, SIZE = (-4.0, -3.0, -1.0, 4.0, 3.0, 1.0), (0.5, 0.75, 0.5)
SHAPE = (7, 10, 12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(0, 400), slots=st.integers(1, 4), most=st.integers(1, 90))
def test_voxels_are_those_of_numpy(seed: int, count: int, slots: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    cloud = rng.uniform(-5, 5, (count, 5)).astype(np.float32)
    cloud[: count // 10, 0] = [-4.0, 4.0, np.nan, np.inf][seed % 4]
    expected = hard_voxels(cloud, RANGE, SIZE, slots, most)
    found = device_voxels(torch.from_numpy(cloud), RANGE, SIZE, slots, most)
    np.testing.assert_array_equal(found.points.numpy(), expected.points)
    np.testing.assert_array_equal(found.counts.numpy(), expected.counts)
    np.testing.assert_array_equal(found.coordinates.numpy(), expected.coordinates)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
        ((3, 3, 3), (2, 2, 2), (0, 1, 1)),
        ((3, 1, 1), (2, 1, 1), (0, 0, 0)),
        ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("share", [0.003, 0.1, 0.9])
def test_tables_are_those_of_numpy(
    kernel: tuple[int, int, int], stride: tuple[int, int, int], padding: tuple[int, int, int], share: float
) -> None:
    rng = np.random.default_rng(4)
    cells = np.argwhere(rng.random((2, *SHAPE)) < share)
    cells = cells[rng.permutation(len(cells))]
    grid, order = sparse_grid(cells, SHAPE, 2)
    below = strided_grid(grid, kernel, stride, padding)
    ours, ours_order = device_grid(torch.from_numpy(cells), SHAPE)
    ours_below = device_strided_grid(ours, kernel, stride, padding)
    assert (ours_below.cells.numpy() == below.cells).all()
    assert ours_below.shape == below.shape
    assert (ours_order.numpy() == order).all()
    expected = kernel_table(grid, below, kernel, stride, padding)
    assert torch.equal(device_table(ours, ours_below, kernel, stride, padding), expected)


@pytest.mark.parametrize("count", [0, 1, 3000])
def test_a_batch_is_prepared_alike_on_a_device(count: int) -> None:
    config = replace(DEEPINTERACTION_COMPACT, max_voxels=900, max_pillars=500)
    rng = np.random.default_rng(count)
    clouds = [rng.uniform(-55, 55, (number, 5)).astype(np.float32) * (1, 1, 0.08, 1, 1) for number in (count, 200)]
    arrays = [cloud.astype(np.float32) for cloud in clouds]
    expected = prepare_lidar(arrays, config)
    found = lidar_on_device([torch.from_numpy(cloud) for cloud in arrays], config)
    torch.testing.assert_close(found.voxels, expected.voxels)
    assert torch.equal(found.tables.order, expected.tables.order)
    for ours, theirs in zip(
        (*found.tables.same, *found.tables.down), (*expected.tables.same, *expected.tables.down), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert torch.equal(found.tables.dense, expected.tables.dense)
    assert torch.equal(found.pillars.points, expected.pillars.points)
    assert torch.equal(found.pillars.counts, expected.pillars.counts)
    assert torch.equal(found.pillars.cells, expected.pillars.cells)
