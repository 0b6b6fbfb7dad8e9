"""Camera models against OpenCV, published calibrations and round trips."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.errors import GeometryError, ShapeError
from perception.geometry.cameras import Camera

PLAIN = Camera("plumb_bob", 1280, 720, (1000.0, 1000.0), (640.0, 360.0))
BROWN = Camera("plumb_bob", 640, 480, (500.0, 510.0), (321.0, 239.0), (-0.28, 0.07, 0.001, -0.0005, 0.01))
RATIONAL = Camera(
    "rational_polynomial", 640, 480, (500.0, 510.0), (321.0, 239.0), (0.3, -0.1, 0.001, -0.0005, 0.01, 0.6, -0.05, 0.02)
)
FISHEYE = Camera("kannala_brandt", 640, 480, (280.0, 281.0), (318.0, 242.0), (-0.01, 0.03, -0.02, 0.003))
SPHERE = Camera("double_sphere", 512, 512, (180.0, 181.0), (255.0, 256.0), (-0.2, 0.59))
UNREALEGO = Camera(
    "ocam", 1024, 1024, (1.0, 1.0), (510.8730105600536, 511.1183388444314),
    (
        0.999997845608931, -3.641214346960503e-05, -4.92182252254407e-05,
        7, -516.7691300636768, 0, 0.001827567433476, -9.458375642153957e-06, 4.460350926140045e-08,
        -9.434841474792276e-11, 8.099831344095236e-14,
        19, 541.084422, 133.996745, -53.833198, 60.96083, -24.78051, 12.451492, -30.240511, 26.90122, 116.38499,
        -133.991117,
        -141.904687, 184.05592, 107.45616, -125.552875, -55.66342, 44.209519, 18.234651, -6.410899, -2.737066,
    ),
)  # fmt: skip
ALL = [PLAIN, BROWN, RATIONAL, FISHEYE, SPHERE, UNREALEGO]


def points(count: int = 200, spread: float = 0.5) -> np.ndarray:
    random = np.random.default_rng(1)
    depth = random.uniform(1, 50, count)
    return np.stack(
        (random.uniform(-spread, spread, count) * depth, random.uniform(-spread, spread, count) * depth, depth), 1
    )


def test_one_metre_right_at_ten_metres_is_a_hundred_pixels() -> None:
    pixels, valid = PLAIN.project(np.array([[1.0, 0.0, 10.0]]))
    np.testing.assert_allclose(pixels, [[740.0, 360.0]])
    assert valid.all()


@pytest.mark.parametrize("camera", [PLAIN, BROWN, RATIONAL], ids=lambda camera: camera.model)
def test_brown_models_project_as_opencv(camera: Camera) -> None:
    matrix = np.array(
        [[camera.focal_px[0], 0, camera.center_px[0]], [0, camera.focal_px[1], camera.center_px[1]], [0, 0, 1]]
    )
    expected, _ = cv2.projectPoints(
        points(), np.zeros(3), np.zeros(3), matrix, np.array(camera.coefficients or (0.0,) * 4)
    )
    found, valid = camera.project(points(), inside=False)
    assert valid.all()
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-9)


def test_the_fisheye_projects_as_opencv() -> None:
    matrix = np.array([[280.0, 0, 318.0], [0, 281.0, 242.0], [0, 0, 1]])
    cloud = points(spread=2.0)
    expected, _ = cv2.fisheye.projectPoints(
        cloud[:, None], np.zeros(3), np.zeros(3), matrix, np.array(FISHEYE.coefficients)
    )
    found, _ = FISHEYE.project(cloud, inside=False)
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-9)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ALL), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_a_pixel_comes_back_from_its_ray(camera: Camera, across: float, down: float) -> None:
    pixel = np.array([[across * camera.width_px, down * camera.height_px]])
    ray, there = camera.unproject(pixel)
    if not there[0]:
        assert camera is not PLAIN
        return
    back, valid = camera.project(ray * 7.0)
    tolerance = 0.2 if camera.model == "ocam" else 1e-4  # OCamCalib's two polynomials were fitted, not inverted
    assert valid[0]
    np.testing.assert_allclose(back, pixel, atol=tolerance)
    np.testing.assert_allclose(np.linalg.norm(ray), 1.0)


def test_points_behind_a_pinhole_camera_are_not_valid() -> None:
    _, valid = BROWN.project(np.array([[0.0, 0.0, -5.0], [0.1, 0.0, 0.0], [0.0, 0.0, 5.0]]))
    assert valid.tolist() == [False, False, True]


def test_points_far_outside_do_not_fold_back_into_a_distorted_picture() -> None:
    barrel = Camera("plumb_bob", 640, 480, (500.0, 500.0), (320.0, 240.0), (-0.3, 0.0, 0.0, 0.0))
    sideways = np.array([[2.5, 0.0, 1.0]])  # the polynomial maps it to a radius of 2.5 * (1 - 0.3 * 6.25) < 0
    _, valid = barrel.project(sideways, inside=False)
    assert not valid[0]


def test_points_that_are_not_finite_are_not_valid_and_do_not_spoil_others() -> None:
    for camera in ALL:
        pixels, valid = camera.project(np.array([[np.nan, 0, 1], [0, np.inf, 1], [0, 0, 5.0]]))
        assert valid.tolist() == [False, False, True]
        assert np.isfinite(pixels).all()


def test_a_resized_picture_has_the_scaled_camera() -> None:
    half = PLAIN.scaled(640, 360)
    cloud = points()
    full, _ = PLAIN.project(cloud, inside=False)
    small, _ = half.project(cloud, inside=False)
    np.testing.assert_allclose(small, (full + 0.5) / 2 - 0.5)


def test_an_ocam_camera_sees_its_axis_at_its_centre_and_right_is_right() -> None:
    pixels, valid = UNREALEGO.project(np.array([[0.0, 0.0, 2.0], [1.0, 0.0, 2.0], [0.0, 1.0, 2.0]]))
    assert valid.all()
    np.testing.assert_allclose(pixels[0], [510.873, 511.118], atol=0.01)
    assert pixels[1][0] > pixels[0][0] + 100
    assert pixels[2][1] > pixels[0][1] + 100


def test_wrong_coefficient_counts_are_named() -> None:
    with pytest.raises(GeometryError, match="plumb_bob has 0 or 4 or 5 coefficients, not 3"):
        Camera("plumb_bob", 64, 48, (50.0, 50.0), (32.0, 24.0), (0.1, 0.2, 0.3))
    with pytest.raises(GeometryError, match="ocam has the coefficients"):
        Camera("ocam", 64, 48, (1.0, 1.0), (32.0, 24.0), (1.0, 0.0, 0.0, 3, 1.0))
    with pytest.raises(GeometryError, match="not a camera"):
        Camera("plumb_bob", 64, 48, (0.0, 50.0), (32.0, 24.0))
    with pytest.raises(ShapeError, match=r"expected \(N, 3\)"):
        PLAIN.project(np.zeros((3, 2)))


def test_the_surround_view_calibrations_of_another_tool_agree_within_a_pixel(data_folder: object) -> None:
    """The two polynomials of UnrealEgo's own calibration file invert each other through our model."""
    from pathlib import Path

    document = json.loads((Path(str(data_folder)) / "unrealego" / "fisheye_calibration_UEP.json").read_text())
    forward, backward = document["polynomialC2W"], document["polynomialW2C"]
    row, column = document["image_center"]
    coefficients = (*document["affine"], len(forward), *forward, len(backward), *backward)
    camera = Camera("ocam", document["size"][0], document["size"][1], (1.0, 1.0), (column, row), coefficients)
    angle = np.linspace(0, 2 * np.pi, 50)
    pixels = np.concatenate(
        [np.stack((column + r * np.cos(angle), row + r * np.sin(angle)), 1) for r in (50, 200, 400, 500)]
    )
    rays, _ = camera.unproject(pixels)
    back, _ = camera.project(rays)
    assert np.abs(back - pixels).max() < 1.0
