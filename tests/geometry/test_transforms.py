"""Transforms, frames and boxes: hand-worked numbers and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.errors import GeometryError
from perception.geometry.boxes import Boxes, from_kitti_camera, from_mmdet3d, from_nuscenes, to_nuscenes
from perception.geometry.frames import CAMERA_FROM_OPTICAL, FrameTree
from perception.geometry.transforms import Transform, quaternion_of, rotation_of

numbers = st.floats(-1, 1)
quaternions = st.tuples(numbers, numbers, numbers, numbers).filter(lambda q: np.linalg.norm(q) > 0.1)
transforms = st.builds(
    lambda t, q: Transform.from_quaternion(t, np.array(q) / np.linalg.norm(q)),
    st.tuples(numbers, numbers, numbers),
    quaternions,
)


def test_a_quarter_turn_left_takes_forward_to_left() -> None:
    turn = Transform.from_yaw((1.0, 2.0, 3.0), np.pi / 2)
    np.testing.assert_allclose(turn.apply(np.array([[1.0, 0.0, 0.0]])), [[1.0, 3.0, 3.0]], atol=1e-12)
    np.testing.assert_allclose(turn.yaw_rad(), np.pi / 2)


def test_the_optical_axis_of_a_camera_is_its_forward() -> None:
    right, down, forward = CAMERA_FROM_OPTICAL.apply(np.eye(3))
    np.testing.assert_allclose([right, down, forward], [[0, -1, 0], [0, 0, -1], [1, 0, 0]], atol=1e-12)


@given(transforms, transforms)
def test_chains_equal_products_of_matrices(a: Transform, b: Transform) -> None:
    np.testing.assert_allclose((a @ b).matrix, a.matrix @ b.matrix, atol=1e-12)
    np.testing.assert_allclose((a @ a.inverse()).matrix, np.eye(4), atol=1e-12)


@given(transforms)
def test_a_matrix_gives_its_quaternion_back(a: Transform) -> None:
    np.testing.assert_allclose(rotation_of(quaternion_of(a.rotation)), a.rotation, atol=1e-9)
    np.testing.assert_allclose(Transform.from_matrix(a.matrix).matrix, a.matrix, atol=1e-9)


@given(transforms, transforms, st.floats(0, 1))
def test_interpolation_turns_at_constant_speed(a: Transform, b: Transform, fraction: float) -> None:
    whole = (a.inverse() @ b).angle_rad()
    part = (a.inverse() @ a.interpolated(b, fraction)).angle_rad()
    assert part == pytest.approx(fraction * whole, abs=2e-4)


def test_matrices_that_are_no_rigid_motion_are_named() -> None:
    mirrored = np.diag([1.0, -1.0, 1.0, 1.0])
    with pytest.raises(GeometryError, match="mirrored"):
        Transform.from_matrix(mirrored)
    with pytest.raises(GeometryError, match="not orthonormal"):
        Transform.from_matrix(np.diag([1.0, 1.1, 1.0, 1.0]))
    with pytest.raises(GeometryError, match="has length 2"):
        Transform.from_quaternion((0, 0, 0), (0, 0, 0, 2))
    with pytest.raises(GeometryError, match="3 finite numbers"):
        Transform.from_quaternion((0, np.nan, 0), (0, 0, 0, 1))


def test_frames_chain_through_the_tree_and_faults_are_named() -> None:
    one = Transform.from_quaternion((1.0, 0.0, 0.0), (0, 0, 0, 1))
    tree = FrameTree.of({("base_link", "mast"): one, ("mast", "lidar"): one, ("base_link", "cam"): one.inverse()})
    np.testing.assert_allclose(tree.base_link_from("lidar").translation_m, [2, 0, 0])
    np.testing.assert_allclose(tree.transform("cam", "lidar").translation_m, [3, 0, 0])
    with pytest.raises(GeometryError, match="Did you mean 'lidar'"):
        tree.base_link_from("lidr")
    with pytest.raises(GeometryError, match="loop: a -> b -> a"):
        FrameTree.of({("b", "a"): one, ("a", "b"): one})
    with pytest.raises(GeometryError, match="does not hang on 'base_link'"):
        FrameTree.of({("nowhere", "a"): one})
    with pytest.raises(GeometryError, match="two parents"):
        FrameTree.of({("base_link", "a"): one, ("mast", "a"): one})


def test_a_nuscenes_box_swaps_width_and_length() -> None:
    boxes = from_nuscenes(
        np.array([[1, 2, 3]]), np.array([[2, 4, 1.5]]), np.array([[np.cos(0.25), 0, 0, np.sin(0.25)]])
    )
    np.testing.assert_allclose(boxes.size_lwh_m, [[4, 2, 1.5]])
    np.testing.assert_allclose(boxes.yaw_rad, [0.5])
    center, size, rotation = to_nuscenes(boxes)
    np.testing.assert_allclose(np.concatenate((center[0], size[0], rotation[0]))[:6], [1, 2, 3, 2, 4, 1.5])


def test_an_mmdet3d_box_stands_on_its_centre() -> None:
    np.testing.assert_allclose(from_mmdet3d(np.array([[1, 2, 3, 4, 2, 1.5, 0.1]])).center_m, [[1, 2, 3.75]])


def test_a_kitti_box_ahead_faces_forward_when_it_drives_away() -> None:
    lidar_from_camera = CAMERA_FROM_OPTICAL  # KITTI's camera axes are optical ones
    label = np.array([[1.5, 1.6, 4.0, 2.0, 1.0, 10.0, -np.pi / 2]])  # h w l, x y z of the bottom, rotation_y
    boxes = from_kitti_camera(label, lidar_from_camera)
    np.testing.assert_allclose(boxes.center_m, [[10.0, -2.0, -0.25]], atol=1e-12)
    np.testing.assert_allclose(boxes.size_lwh_m, [[4.0, 1.6, 1.5]])
    np.testing.assert_allclose(boxes.yaw_rad, [0.0], atol=1e-12)


def test_corners_and_containment_agree() -> None:
    boxes = Boxes(np.array([[1.0, 2.0, 0.5]]), np.array([[4.0, 2.0, 1.0]]), np.array([np.pi / 2]))
    corners = boxes.corners()[0]
    np.testing.assert_allclose(corners[0], [0.0, 4.0, 0.0], atol=1e-12)  # front left of a box that faces +y
    assert boxes.contain(corners * 0.999 + boxes.center_m * 0.001).all()
    assert not boxes.contain(corners * 1.01 - boxes.center_m * 0.01).any()
