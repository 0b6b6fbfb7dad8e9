"""Hard voxels against a first-come loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.errors import ShapeError
from perception.ops.hard_voxels import hard_voxels

RANGE, SIZE = (-4.0, -4.0, -1.0, 4.0, 4.0, 1.0), (1.0, 2.0, 0.5)


def one_after_the_other(
    points: np.ndarray, max_points: int, max_voxels: int
) -> tuple[list[tuple[int, ...]], list[list[np.ndarray]]]:
    low, size = np.array(RANGE[:3], np.float32), np.array(SIZE, np.float32)
    grid = np.round((np.array(RANGE[3:], np.float32) - low) / size)
    cells: list[tuple[int, ...]] = []
    contents: list[list[np.ndarray]] = []
    for point in points:
        cell = np.floor((point[:3] - low) / size)
        if (cell < 0).any() or (cell >= grid).any():
            continue
        key = tuple(int(c) for c in cell[::-1])
        if key not in cells:
            if len(cells) == max_voxels:
                continue
            cells.append(key)
            contents.append([])
        content = contents[cells.index(key)]
        if len(content) < max_points:
            content.append(point)
    return cells, contents


@given(st.integers(0, 10_000), st.integers(0, 200), st.integers(1, 4), st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_voxels_are_filled_first_come_first_served(seed: int, count: int, max_points: int, max_voxels: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-5, 5, (count, 5)).astype(np.float32)
    points[: count // 4, :3] = np.round(points[: count // 4, :3])  # some on the borders of voxels and of the range
    voxels = hard_voxels(points, RANGE, SIZE, max_points, max_voxels)
    cells, contents = one_after_the_other(points, max_points, max_voxels)
    assert [tuple(cell) for cell in voxels.coordinates.tolist()] == cells
    assert voxels.counts.tolist() == [len(content) for content in contents]
    for row, content in enumerate(contents):
        np.testing.assert_array_equal(voxels.points[row, : len(content)], content)
        assert not voxels.points[row, len(content) :].any()


def test_the_upper_border_is_outside() -> None:
    points = np.array([[4, 0, 0], [0, 4, 0], [0, 0, 1], [-4, -4, -1], [np.nan, 0, 0], [np.inf, 0, 0]], np.float32)
    assert hard_voxels(points, RANGE, SIZE, 5, 5).coordinates.tolist() == [[0, 0, 0]]


def test_the_mean_counts_filled_slots_alone() -> None:
    points = np.array([[0.1, 0.1, 0.1, 4.0], [0.3, 0.1, 0.1, 8.0]], np.float32)
    np.testing.assert_allclose(hard_voxels(points, RANGE, SIZE, 10, 5).means(), [[0.2, 0.1, 0.1, 6.0]], rtol=1e-6)


def test_points_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError):
        hard_voxels(np.zeros((3, 2), np.float32), RANGE, SIZE, 5, 5)
