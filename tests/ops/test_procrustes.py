"""Procrustes: a similarity is undone, a reflection is not, and no other similarity comes closer."""

from __future__ import annotations

import numpy as np
import pytest

from perception.errors import ShapeError
from perception.ops.procrustes import similarity_aligned

QUARTER_TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def test_a_turned_scaled_and_moved_body_comes_back() -> None:
    body = np.random.default_rng(0).normal(size=(16, 3))
    moved = 2.5 * body @ QUARTER_TURN.T + (3.0, -1.0, 7.0)
    np.testing.assert_allclose(similarity_aligned(moved, body), body, atol=1e-12)


def test_a_mirrored_body_does_not() -> None:
    body = np.random.default_rng(1).normal(size=(16, 3))
    aligned = similarity_aligned(body * (-1, 1, 1), body)
    assert np.abs(aligned - body).max() > 0.1


def test_two_points_are_stretched_by_hand() -> None:
    # From a distance of 2 to a distance of 6 about the middle (0, 0, 5).
    source, target = np.array([[-1.0, 0, 0], [1, 0, 0]]), np.array([[-3.0, 0, 5], [3, 0, 5]])
    np.testing.assert_allclose(similarity_aligned(source, target), target, atol=1e-12)


def test_no_small_change_of_the_similarity_comes_closer() -> None:
    random = np.random.default_rng(2)
    source, target = random.normal(size=(2, 10, 3))
    best = similarity_aligned(source, target)
    least = ((best - target) ** 2).sum()
    middle = best.mean(axis=0)
    for angle in (-0.01, 0.01):
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        for axes in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            turned = (best - middle) @ turn[np.ix_(axes, axes)].T + middle
            assert ((turned - target) ** 2).sum() >= least
    for scale in (0.99, 1.01):
        assert (((best - middle) * scale + middle - target) ** 2).sum() >= least


@pytest.mark.parametrize(
    ("source", "target"),
    [(np.zeros((4, 3)), np.ones((4, 3))), (np.ones((4, 2)), np.ones((4, 2))), (np.zeros((0, 3)),) * 2],
)
def test_points_in_one_place_or_of_another_shape_are_refused(source: np.ndarray, target: np.ndarray) -> None:
    with pytest.raises(ShapeError):
        similarity_aligned(source, target)
