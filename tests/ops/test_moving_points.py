"""Points of a sweep at other instants and in other frames."""

from __future__ import annotations

import numpy as np

from perception.geometry.transforms import Transform
from perception.ops.moving_points import along_poses, at_instant, in_cone

RANDOM = np.random.default_rng(5)


def test_between_two_poses_a_point_moves_along_a_straight_line() -> None:
    poses = [Transform.from_yaw((0, 0, 0), 0.0), Transform.from_yaw((1, 0, 0), 0.0), Transform.from_yaw((1, 4, 0), 0.0)]
    times = np.array([0, 50, 100, 150, 200, 25])  # the last one comes out of order
    moved = along_poses(
        np.ones((6, 3)), times, np.array([0, 100, 200]), np.stack([pose.matrix[:3] for pose in poses])
    )  # fmt: skip
    expected = np.array([[0, 0, 0], [0.5, 0, 0], [1, 0, 0], [1, 2, 0], [1, 4, 0], [0.25, 0, 0]])
    np.testing.assert_allclose(moved - 1, expected)


def test_a_point_goes_on_with_its_velocity_and_then_into_the_other_frame() -> None:
    turned = Transform.from_yaw((0, 0, 1), np.pi / 2)  # x becomes y
    moved = at_instant(
        np.array([[1.0, 2.0, 3.0]]), np.array([[10.0, 0.0, 0.0]]), np.array([0]), 100_000_000, turned.matrix[:3].copy()
    )
    np.testing.assert_allclose(moved, [[-2.0, 2.0, 4.0]], atol=1e-12)


def test_a_cone_holds_exactly_the_points_within_its_angle() -> None:
    points = RANDOM.normal(0, 10, (2000, 3))
    optical_from_points = Transform.from_quaternion((0.3, -1.0, 2.0), (-0.5, 0.5, -0.5, 0.5))
    optical = optical_from_points.apply(points)
    angle = np.arccos(optical[:, 2] / np.linalg.norm(optical, axis=1))
    for widest in np.radians((40.0, 90.0, 110.0, 180.0)):
        chosen, places = in_cone(points, optical_from_points.matrix[:3].copy(), float(np.cos(widest)))
        np.testing.assert_array_equal(chosen, np.flatnonzero(angle <= widest))
        np.testing.assert_allclose(places, optical[chosen], atol=1e-12)
