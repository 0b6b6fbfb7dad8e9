"""Undistortion and rectification maps against OpenCV, and by what they promise."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from perception.errors import GeometryError, ShapeError
from perception.geometry.cameras import Camera
from perception.geometry.rectification import pinhole_of, stereo_rectification, undistortion_map
from perception.geometry.transforms import Transform
from perception.ops.remap import remapped
from tests.geometry.test_cameras import BROWN, FISHEYE, SPHERE, UNREALEGO

RIGHT_FROM_LEFT = Transform.from_quaternion(
    (-0.11, 0.003, -0.002), np.array([0.004, -0.012, 0.006, 1.0]) / np.linalg.norm([0.004, -0.012, 0.006, 1.0])
)


def matrix(camera: Camera) -> np.ndarray:
    return np.array(
        [[camera.focal_px[0], 0, camera.center_px[0]], [0, camera.focal_px[1], camera.center_px[1]], [0, 0, 1]]
    )


def test_undistortion_maps_are_those_of_opencv() -> None:
    target = pinhole_of(BROWN)
    turn = cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))[0]
    u, v = cv2.initUndistortRectifyMap(
        matrix(BROWN), np.array(BROWN.coefficients), turn, matrix(target), (640, 480), cv2.CV_32FC1
    )
    found = undistortion_map(BROWN, target, turn.T)
    np.testing.assert_allclose(found.place_px[found.seen], np.stack((u, v), -1)[found.seen], atol=1e-3)
    assert found.seen.mean() > 0.95


def test_fisheye_maps_are_those_of_opencv() -> None:
    target = pinhole_of(FISHEYE)
    u, v = cv2.fisheye.initUndistortRectifyMap(
        matrix(FISHEYE), np.array(FISHEYE.coefficients), np.eye(3), matrix(target), (640, 480), cv2.CV_32FC1
    )
    found = undistortion_map(FISHEYE, target)
    np.testing.assert_allclose(found.place_px[found.seen], np.stack((u, v), -1)[found.seen], atol=1e-3)


def test_a_map_is_made_once() -> None:
    assert undistortion_map(SPHERE, pinhole_of(SPHERE)) is undistortion_map(SPHERE, pinhole_of(SPHERE))
    with pytest.raises(ValueError, match="read-only"):
        undistortion_map(SPHERE, pinhole_of(SPHERE)).place_px[0, 0] = 0


def test_the_map_to_the_camera_itself_changes_no_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    same = undistortion_map(SPHERE, SPHERE)
    out = remapped(picture, same)
    assert np.abs(out[same.seen].astype(int) - picture[same.seen]).max() <= 1
    assert (out[~same.seen] == 0).all()


def test_remapping_is_that_of_opencv() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (480, 640), dtype=np.uint8)
    found = undistortion_map(BROWN, pinhole_of(BROWN))
    expected = cv2.remap(picture, found.place_px[..., 0], found.place_px[..., 1], cv2.INTER_LINEAR)
    inner = found.seen.copy()
    inner[:2] = inner[-2:] = inner[:, :2] = inner[:, -2:] = False
    # OpenCV rounds places to 1/32 pixel
    assert np.abs(remapped(picture, found).astype(int) - expected)[inner].max() <= 16
    with pytest.raises(ShapeError, match="uint8"):
        remapped(picture.astype(np.float32), found)


@pytest.mark.parametrize("pair", [(BROWN, BROWN), (FISHEYE, SPHERE), (UNREALEGO, UNREALEGO)], ids=["b", "fs", "o"])
def test_a_point_has_one_row_in_rectified_pictures_and_its_disparity_is_its_depth(pair: tuple[Camera, Camera]) -> None:
    left, right = pair
    found = stereo_rectification(left, right, RIGHT_FROM_LEFT)
    cloud = np.random.default_rng(2).uniform((-1, -1, 2), (1, 1, 8), (200, 3))
    in_left, _ = found.camera.project(cloud @ found.left_rotation, inside=False)
    in_right, _ = found.camera.project(RIGHT_FROM_LEFT.apply(cloud) @ found.right_rotation, inside=False)
    np.testing.assert_allclose(in_left[:, 1], in_right[:, 1], atol=1e-9)
    depth = (cloud @ found.left_rotation)[:, 2]
    np.testing.assert_allclose(in_left[:, 0] - in_right[:, 0], found.camera.focal_px[0] * found.baseline_m / depth)


def test_rectifying_rotations_are_those_of_opencv() -> None:
    found = stereo_rectification(BROWN, BROWN, RIGHT_FROM_LEFT)
    r1, r2, *_ = cv2.stereoRectify(
        matrix(BROWN), np.array(BROWN.coefficients), matrix(BROWN), np.array(BROWN.coefficients), (640, 480),
        RIGHT_FROM_LEFT.rotation, RIGHT_FROM_LEFT.translation_m[:, None],
    )  # fmt: skip
    # OpenCV gives rectified_from_left
    np.testing.assert_allclose(found.left_rotation.T, r1, atol=1e-3)
    np.testing.assert_allclose(found.right_rotation.T, r2, atol=1e-3)


def test_a_pair_in_the_wrong_order_is_refused() -> None:
    with pytest.raises(GeometryError, match="exchange left and right"):
        stereo_rectification(BROWN, BROWN, RIGHT_FROM_LEFT.inverse())


def test_points_of_the_real_euroc_pair_lie_on_one_row_after_rectification(data_folder: Path) -> None:
    cameras, body_from, pictures = [], [], []
    for number in (0, 1):
        folder = data_folder / "euroc_micro" / "mav0" / f"cam{number}"
        sensor = yaml.safe_load((folder / "sensor.yaml").read_text().split("\n", 1)[1])
        fx, fy, cx, cy = sensor["intrinsics"]
        cameras.append(Camera("plumb_bob", 752, 480, (fx, fy), (cx, cy), tuple(sensor["distortion_coefficients"])))
        body_from.append(Transform.from_matrix(np.array(sensor["T_BS"]["data"]).reshape(4, 4)))
        first = sorted((folder / "data").glob("*.png"))[0]
        pictures.append(np.asarray(cv2.imread(str(first), cv2.IMREAD_GRAYSCALE), np.uint8))
    found = stereo_rectification(cameras[0], cameras[1], body_from[1].inverse() @ body_from[0])
    assert found.baseline_m == pytest.approx(0.110, abs=0.001)
    straight = [remapped(pictures[0], found.left), remapped(pictures[1], found.right)]
    orb = cv2.ORB.create(1500)
    (points_a, words_a), (points_b, words_b) = (orb.detectAndCompute(picture, None) for picture in straight)
    matches = sorted(cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(words_a, words_b), key=lambda m: m.distance)
    ends = [(points_a[match.queryIdx].pt, points_b[match.trainIdx].pt) for match in matches[:150]]
    rows = np.array([a[1] - b[1] for a, b in ends])
    disparity = np.array([a[0] - b[0] for a, b in ends])
    assert np.median(np.abs(rows)) < 1.0
    assert (disparity[np.abs(rows) < 2] > -1).mean() > 0.95  # nothing lies beyond infinity
