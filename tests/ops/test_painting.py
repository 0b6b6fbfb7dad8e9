"""Points in boxes and behind surfaces: by hand, and against the plain definition over all points."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.ops.painting import (
    UNKNOWN,
    hidden_anew,
    hidden_points,
    labels_in_boxes,
    on_tiles,
    points_of_boxes,
    surface_of,
)

Float = NDArray[np.float64]
SIDE_M = 400.0
"""Points and boxes lie on both sides of the last tile's edge."""


def scene(seed: int) -> tuple[Float, Float, Float, Float, Float]:
    """Return points, and boxes that hold many of them: centres, sizes, yaws, velocities."""
    random = np.random.default_rng(seed)
    center = np.column_stack((random.uniform(-SIDE_M, SIDE_M, (60, 2)), random.normal(1, 0.5, 60)))
    center[:20, :2] /= 20  # a crowd, whose boxes overlap
    near = center[random.integers(0, 60, 3000)] + random.normal(0, 2, (3000, 3))
    size = random.uniform(0.5, 8, (60, 3))
    return near, center, size, random.uniform(-np.pi, np.pi, 60), random.normal(0, 10, (60, 2))


def inside(points: Float, center: Float, size: Float, yaw: float, margin: float) -> NDArray[np.bool_]:
    local = points - center
    c, s = np.cos(yaw), np.sin(yaw)
    local = np.column_stack((c * local[:, 0] + s * local[:, 1], c * local[:, 1] - s * local[:, 0], local[:, 2]))
    return np.asarray((np.abs(local) <= size / 2 + margin).all(axis=1))


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_counted_in_every_box_that_holds_the_point(seed: int) -> None:
    points, center, size, yaw, _ = scene(seed)
    label = np.random.default_rng(seed).integers(0, 4, len(points)).astype(np.uint8)
    label[::7] = UNKNOWN
    counts = labels_in_boxes(points, label, center, size, yaw, 0.1)
    expected = [
        np.bincount(label[inside(points, *box, 0.1)], minlength=256) for box in zip(center, size, yaw, strict=True)
    ]
    assert np.sum(expected) > 500
    np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("seed", range(3))
def test_a_point_belongs_to_the_first_box_that_holds_it_once_it_has_moved_with_it(seed: int) -> None:
    points, center, size, yaw, velocity = scene(seed)
    later = np.random.default_rng(seed).uniform(-0.05, 0.1, len(points))
    tiles = on_tiles(points)
    span_s = (float(later.min()), float(later.max()))
    moving = np.hypot(*velocity.T) > 3.0
    assert 0 < moving.sum() < len(moving)
    places, box = points_of_boxes(tiles, later[tiles.order], span_s, center, size, yaw, velocity, 0.1, 3.0)
    owner, expected = np.full(len(points), -1), np.full(len(points), -1)
    owner[tiles.order[places]] = box
    for n in reversed(range(len(center))):
        moved = points + np.column_stack((velocity[n] * later[:, None], np.zeros(len(points))))
        expected[inside(moved, center[n], size[n], yaw[n], 0.1) & moving[n]] = n
    assert (expected >= 0).sum() > 300
    np.testing.assert_array_equal(owner, expected)


def test_boxes_that_are_no_numbers_hold_nothing() -> None:
    points, lost = np.zeros((5, 3)), np.full((1, 3), np.nan)
    one, yaw, speed = np.ones((1, 3)), np.zeros(1), np.ones((1, 2))
    assert labels_in_boxes(points, np.zeros(5, np.uint8), lost, one, yaw, 0.1).sum() == 0
    assert not len(points_of_boxes(on_tiles(points), np.zeros(5), (0.0, 0.0), lost, one, yaw, speed, 0.1, 0.2)[0])
    assert len(points_of_boxes(on_tiles(points), np.zeros(5), (0.0, 0.0), 0 * one, one, yaw, speed, 0.1, 0.2)[0]) == 5
    none = on_tiles(np.empty((0, 3)))
    assert not len(points_of_boxes(none, np.empty(0), (0.0, 0.0), one, one, yaw, speed, 0.1, 0.2)[0])


def test_what_lies_between_two_points_of_a_nearer_surface_is_hidden() -> None:
    """A wall 10 m ahead in three rings, a degree apart; the road before it hides nothing, since it is below only."""
    down = np.radians([-1.0, 0.0, 1.0])
    wall = np.column_stack((np.zeros(3), 10 * np.tan(down), np.full(3, 10.0)))
    behind = np.array([[0.0, 30 * np.tan(np.radians(0.5)), 30.0]])  # between two rings, 20 m behind
    above = np.array([[0.0, 30 * np.tan(np.radians(-1.5)), 30.0]])  # over the wall
    aside = np.array([[30 * np.tan(np.radians(0.7)), 0.0, 30.0]])  # beside it
    beside = np.concatenate((wall, behind, above, aside))
    assert hidden_points(beside, np.radians(1.0)).tolist() == [False, False, False, True, False, False]
    assert not hidden_points(np.concatenate((wall[2:], behind)), np.radians(1.0)).any()
    assert hidden_points(beside[::-1], np.radians(1.0)).tolist() == [False, False, True, False, False, False]
    assert hidden_points(np.empty((0, 3)), 0.01).shape == (0,)


@pytest.mark.parametrize("seed", range(3))
def test_what_a_surface_and_another_hide_is_what_both_hide_as_one_without_what_is_gone(seed: int) -> None:
    random = np.random.default_rng(seed)
    turn, down = random.uniform(-0.3, 0.3, 3000), random.uniform(-0.1, 0.1, 3000)
    away = random.choice([6.0, 12.0, 30.0], 3000)[:, None]
    points = away * np.column_stack((np.tan(turn), np.tan(down), np.ones(3000)))
    moved, gone = points[:400], np.concatenate((np.zeros(400, np.bool_), random.random(2600) < 0.3))
    other, own = surface_of(points[400:]), np.arange(400)
    rest = np.arange(400, 3000)[other.order]
    found = hidden_anew(points, own, 0.01, other, rest, gone)
    expected = hidden_points(np.concatenate((moved, points[400:][~gone[400:]])), 0.01)[:400]
    assert 50 < expected.sum() < 350
    np.testing.assert_array_equal(found, expected)
    assert (found != hidden_anew(points, own, 0.01, other, rest, np.zeros(3000, np.bool_))).any()
