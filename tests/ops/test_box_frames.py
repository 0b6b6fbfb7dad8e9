"""Boxes from one frame to another."""

from __future__ import annotations

import numpy as np

from perception.geometry.boxes import Boxes
from perception.geometry.transforms import Transform
from perception.ops.box_frames import boxes_in_frame


def test_boxes_go_where_the_geometry_takes_them() -> None:
    random = np.random.default_rng(0)
    center, size, yaw = random.normal(0, 20, (40, 3)), np.ones((40, 3)), random.uniform(-3, 3, 40)
    velocity = random.normal(0, 5, (40, 2))
    tilted = Transform.from_quaternion((3.0, -1.0, 0.5), (0.02, -0.03, 0.6, 0.8))  # made a unit quaternion
    found, turned, fast = boxes_in_frame(center, yaw, velocity, tilted.matrix, 0.2)
    in_space = np.column_stack((velocity, np.zeros(40)))
    expected = Boxes(center + 0.2 * in_space, size, yaw).transformed(tilted)
    np.testing.assert_allclose(found, expected.center_m, atol=1e-12)
    np.testing.assert_allclose(turned, expected.yaw_rad, atol=1e-12)
    np.testing.assert_allclose(fast, tilted.rotate(in_space)[:, :2], atol=1e-12)


def test_a_box_of_unknown_velocity_stays_where_it_is() -> None:
    nowhere = np.array([[np.nan, 3.0]])
    center, _, fast = boxes_in_frame(np.array([[1.0, 2.0, 3.0]]), np.zeros(1), nowhere, np.eye(4), 10.0)
    assert center.tolist() == [[1.0, 2.0, 3.0]]
    assert np.isnan(fast).all()
