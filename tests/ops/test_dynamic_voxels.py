"""Dynamic voxels against a loop over points, and at every kind of edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.errors import ShapeError
from perception.ops.dynamic_voxels import (
    MOST_CELLS,
    VoxelGrid,
    decorated,
    dynamic_voxels,
    numbered,
    voxel_max,
    voxel_mean,
)

GRID = VoxelGrid((-4.0, -3.0, -1.0), (1.0, 0.5, 2.0), (8, 12, 3))


def cloud(count: int, seed: int, batch: int = 2) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    xyz = generator.uniform((-5, -4, -2), (5, 4, 6), (count, 3))
    xyz[: count // 3] = np.round(xyz[: count // 3])  # many on the borders of voxels
    sample = generator.integers(0, batch, (count, 1))
    return torch.from_numpy(np.concatenate((sample, xyz, generator.normal(size=(count, 2))), axis=1).astype(np.float32))


def one_point_at_a_time(points: torch.Tensor) -> tuple[list[tuple[int, ...]], list[int], list[tuple[int, ...]]]:
    """Return the voxels (batch, z, y, x), which points are kept, and the voxel of each."""
    low, size = np.array(GRID.minimum_m, np.float32), np.array(GRID.voxel_m, np.float32)
    kept, voxels = [], []
    for number, point in enumerate(points.numpy()):
        place = np.floor((point[1:4] - low) / size)
        if np.isfinite(place).all() and (place >= 0).all() and (place < GRID.size).all():
            kept.append(number)
            voxels.append((int(point[0]), *(int(p) for p in place[::-1])))
    return sorted(set(voxels), key=lambda v: (v[0], v[3], v[2], v[1])), kept, voxels


@given(st.integers(0, 10_000), st.integers(0, 150))
@settings(max_examples=40, deadline=None)
def test_voxels_are_those_of_a_loop_over_points(seed: int, count: int) -> None:
    points = cloud(count, seed)
    found = dynamic_voxels(points, GRID)
    coords, kept, voxels = one_point_at_a_time(points)
    assert [tuple(row) for row in found.coords.tolist()] == coords
    assert torch.equal(found.points, points[kept])
    assert [coords[number] for number in found.voxel.tolist()] == voxels


def test_the_near_border_is_inside_and_the_far_border_outside() -> None:
    points = torch.tensor([[0, -4, -3, -1], [0, 4, 0, 0], [0, 0, 3, 0], [0, 0, 0, 5], [0, 3.999, 2.999, 4.999]])
    found = dynamic_voxels(points, GRID)
    assert found.coords.tolist() == [[0, 0, 0, 0], [0, 2, 11, 7]]


def test_points_that_are_not_finite_are_dropped_and_the_others_keep_their_order() -> None:
    good = cloud(20, 3)
    bad = torch.tensor([[0, torch.nan, 0, 0, 1, 1], [1, 0, torch.inf, 0, 1, 1], [1, 0, 0, -torch.inf, 1, 1]])
    mixed = torch.cat((bad[:1], good[:10], bad[1:], good[10:]))
    expected, found = dynamic_voxels(good, GRID), dynamic_voxels(mixed, GRID)
    for name in ("points", "voxel", "coords"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_a_grid_of_pillars_may_ignore_the_height() -> None:
    grid = VoxelGrid((-4.0, -3.0, -1.0), (1.0, 0.5, 6.0), (8, 12, 1))
    points = torch.tensor([[0, 0, 0, 100.0], [0, 0, 0, -100.0]])
    assert len(dynamic_voxels(points, grid).points) == 0
    assert dynamic_voxels(points, grid, test_z=False).coords.tolist() == [[0, 0, 6, 4]]


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_nothing_one_point_and_all_points_in_one_voxel(count: int) -> None:
    points = torch.tensor([[1.0, 0.1, 0.1, 0.1, 7.0]]).repeat(count, 1)
    found = dynamic_voxels(points, GRID)
    assert found.coords.tolist() == [[1, 0, 6, 4]][:count]
    assert found.voxel.tolist() == [0] * count


def test_means_and_maxima_by_hand() -> None:
    values = torch.tensor([[1.0, -4.0], [3.0, -2.0], [-5.0, 0.5]])
    voxel = torch.tensor([1, 1, 0])
    assert voxel_mean(values, voxel, 2).tolist() == [[-5.0, 0.5], [2.0, -3.0]]
    assert voxel_max(values, voxel, 2).tolist() == [[-5.0, 0.5], [3.0, -2.0]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=60))
def test_cells_are_numbered_in_their_order_whether_counted_off_or_sorted(cells: list[int]) -> None:
    key = torch.tensor(cells, dtype=torch.long)
    expected = torch.unique(key, return_inverse=True)
    for held in (41, MOST_CELLS + 1):
        for found, wanted in zip(numbered(key, held), expected, strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("learning", [False, True], ids=["inference", "training"])
def test_points_are_told_where_they_lie_in_their_voxel(learning: bool) -> None:
    # the first two share a voxel around (1, 0, 0) with its mean at (1.5, 0, 1), the third has one of its own
    points = torch.tensor([[1.0, 0.0, 0.0, 9.0], [2.0, 0.0, 2.0, 8.0], [5.0, 5.0, 5.0, 7.0]], requires_grad=learning)
    center = torch.tensor([[1.0, 0.0, 0.0], [4.0, 4.0, 4.0]])
    assert decorated(points, torch.tensor([0, 0, 1]), center).tolist() == [
        [1.0, 0.0, 0.0, 9.0, -0.5, 0.0, -1.0, 0.0, 0.0, 0.0],
        [2.0, 0.0, 2.0, 8.0, 0.5, 0.0, 1.0, 1.0, 0.0, 2.0],
        [5.0, 5.0, 5.0, 7.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0],
    ]


@pytest.mark.parametrize("shape", [(4,), (5, 3)])
def test_points_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="batch, x, y, z"):
        dynamic_voxels(torch.zeros(shape), GRID)
