"""Camera models over their whole field of view: round trips, Jacobians, limits and what lies outside."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.geometry.cameras import Camera
from tests.geometry.test_cameras import BROWN, FISHEYE, PLAIN, RATIONAL, SPHERE, UNREALEGO

WIDE = Camera("kannala_brandt", 1280, 960, (330.0, 331.0), (641.0, 478.0), (0.02, -0.006, 0.001, -0.0002))
EUROC = Camera("plumb_bob", 752, 480, (458.654, 457.296), (367.215, 248.375),
               (-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05))  # fmt: skip
TELE_SPHERE = Camera("double_sphere", 752, 480, (380.0, 381.0), (370.0, 240.0), (0.15, 0.35))
RAY_ONLY = Camera("ocam", 1024, 1024, (1.0, 1.0), UNREALEGO.center_px,
                  (*UNREALEGO.coefficients[:11], 0))  # fmt: skip
ALL = [PLAIN, BROWN, RATIONAL, FISHEYE, SPHERE, UNREALEGO, WIDE, EUROC, TELE_SPHERE, RAY_ONLY]
IDS = [f"{index}-{camera.model}" for index, camera in enumerate(ALL)]


def every_pixel(camera: Camera, step: int = 7) -> NDArray[np.float64]:
    v, u = np.mgrid[: camera.height_px : step, : camera.width_px : step]
    return np.stack((u.ravel(), v.ravel()), axis=1) + 0.3


@pytest.mark.parametrize("camera", ALL, ids=IDS)
def test_every_pixel_in_the_field_of_view_comes_back_to_a_millionth(camera: Camera) -> None:
    pixels = every_pixel(camera)
    rays, seen = camera.unproject(pixels)
    assert seen.mean() > 0.5
    for metres in (0.3, 40.0):
        back, valid = camera.project(rays[seen] * metres)
        assert valid.all()
        assert np.abs(back - pixels[seen]).max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-0.35, 0.2), st.floats(-0.1, 0.15), st.floats(-0.002, 0.002), st.floats(-0.002, 0.002),
    st.floats(-0.05, 0.05),
)  # fmt: skip
def test_any_brown_camera_gives_every_pixel_back_or_says_that_it_has_no_ray(
    k1: float, k2: float, p1: float, p2: float, k3: float
) -> None:
    camera = Camera("plumb_bob", 640, 480, (420.0, 415.0), (317.0, 243.0), (k1, k2, p1, p2, k3))
    pixels = every_pixel(camera, 40)
    rays, seen = camera.unproject(pixels)
    back, valid = camera.project(rays[seen])
    assert valid.all()
    np.testing.assert_allclose(back, pixels[seen], atol=1e-6)
    assert seen[np.abs(pixels - camera.center_px).max(axis=1) < 100].all()


@pytest.mark.parametrize("camera", ALL, ids=IDS)
def test_the_jacobian_is_the_slope_of_the_projection(camera: Camera) -> None:
    rays, seen = camera.unproject(every_pixel(camera, 31))
    points = rays[seen] * np.linspace(0.5, 20.0, seen.sum())[:, None]
    slope = np.stack(
        [
            (camera.project(points + step, inside=False)[0] - camera.project(points - step, inside=False)[0]) / 2e-6
            for step in 1e-6 * np.eye(3)
        ],
        axis=2,
    )
    np.testing.assert_allclose(camera.jacobian(points), slope, rtol=2e-5, atol=2e-3)


@pytest.mark.parametrize("camera", ALL, ids=IDS)
def test_the_jacobian_on_the_axis_is_finite_and_keeps_its_signs(camera: Camera) -> None:
    jacobian = camera.jacobian(np.array([[0.0, 0.0, 2.0]]))[0]
    assert np.isfinite(jacobian).all()
    assert jacobian[0, 0] > 0
    assert jacobian[1, 1] > 0
    np.testing.assert_allclose(jacobian[:, 2], 0.0, atol=1e-9)


def test_the_jacobian_of_a_pinhole_camera_by_hand() -> None:
    # u = 1000 x / z + 640 at (1, -2, 10): du/dx = 100, du/dz = -1000 * 1 / 100; v likewise with y = -2
    np.testing.assert_allclose(
        PLAIN.jacobian(np.array([[1.0, -2.0, 10.0]])), [[[100.0, 0.0, -10.0], [0.0, 100.0, 20.0]]]
    )


def test_brown_rays_are_those_of_opencv() -> None:
    for camera in (BROWN, RATIONAL, EUROC):
        matrix = np.array(
            [[camera.focal_px[0], 0, camera.center_px[0]], [0, camera.focal_px[1], camera.center_px[1]], [0, 0, 1]]
        )
        pixels = every_pixel(camera, 60)
        criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 500, 1e-14)
        expected = cv2.undistortPoints(
            pixels[:, None], matrix, np.array(camera.coefficients), None, None, None, criteria
        )
        rays, seen = camera.unproject(pixels)
        assert seen.all()
        np.testing.assert_allclose(rays[:, :2] / rays[:, 2:], expected[:, 0], atol=1e-6)


def test_fisheye_rays_are_those_of_opencv() -> None:
    matrix = np.array([[280.0, 0, 318.0], [0, 281.0, 242.0], [0, 0, 1]])
    pixels = every_pixel(FISHEYE, 60)
    expected = cv2.fisheye.undistortPoints(pixels[:, None], matrix, np.array(FISHEYE.coefficients))[:, 0]
    rays, _ = FISHEYE.unproject(pixels)
    inner = np.hypot(*(pixels - FISHEYE.center_px).T) < 250  # OpenCV's plane has no room beyond 90 degrees
    np.testing.assert_allclose((rays[:, :2] / rays[:, 2:])[inner], expected[inner], atol=1e-6)


def test_a_fisheye_sees_behind_its_shoulder_and_says_how_far() -> None:
    limit = WIDE.field_of_view().widest_rad
    assert np.pi / 2 < limit < np.pi
    sideways = np.array([[3.0, 0.0, -0.05], [-3.0, 0.0, -0.05]])
    _, valid = WIDE.project(sideways)
    assert valid.all()
    _, valid = WIDE.project(np.array([[0.01, 0.0, -5.0]]))
    assert not valid.any()


def test_the_field_of_view_of_a_pinhole_camera_by_hand() -> None:
    view = PLAIN.field_of_view()
    # from the left border, half a pixel left of the first centre: atan(640.5 / 1000) + atan(639.5 / 1000)
    assert view.horizontal_rad == pytest.approx(np.arctan(0.6405) + np.arctan(0.6395))
    assert view.vertical_rad == pytest.approx(np.arctan(0.3605) + np.arctan(0.3595))
    assert view.widest_rad == pytest.approx(np.arctan(np.hypot(0.6405, 0.3605)))


@pytest.mark.parametrize("camera", ALL, ids=IDS)
def test_nothing_outside_the_limit_is_valid_whatever_it_is(camera: Camera) -> None:
    directions = np.random.default_rng(0).normal(size=(4000, 3))
    angle = np.arctan2(np.hypot(directions[:, 0], directions[:, 1]), directions[:, 2])
    pixels, valid = camera.project(directions, inside=False)
    assert not valid[angle > camera.angle_limit_rad + 1e-9].any()
    assert np.isfinite(pixels).all()
    _, valid = camera.project(np.zeros((1, 3)), inside=False)
    assert not valid.any()
    rays, seen = camera.unproject(np.array([[np.nan, 3.0], [np.inf, 3.0], [1e9, -1e9]]))
    assert not seen[:2].any()
    assert np.isfinite(rays).all()


def test_what_a_calibration_does_not_cover_is_masked_both_ways() -> None:
    covered = Camera("kannala_brandt", 640, 480, (280.0, 281.0), (318.0, 242.0), (0.0,) * 4, max_angle_rad=0.5)
    rays, seen = covered.unproject(np.array([[318.0, 242.0], [318.0 + 280 * 0.49, 242.0], [318.0 + 280 * 0.51, 242.0]]))
    assert seen.tolist() == [True, True, False]
    _, valid = covered.project(np.array([[np.sin(0.49), 0, np.cos(0.49)], [np.sin(0.51), 0, np.cos(0.51)]]))
    assert valid.tolist() == [True, False]
    assert rays[2].tolist() == [0.0, 0.0, 0.0]
    assert covered.field_of_view().widest_rad == pytest.approx(0.5, abs=0.01)


def test_a_picture_of_any_model_may_be_resized() -> None:
    rays, _ = UNREALEGO.unproject(every_pixel(UNREALEGO, 100))
    full, _ = UNREALEGO.project(rays, inside=False)
    small, _ = UNREALEGO.scaled(256, 256).project(rays, inside=False)
    np.testing.assert_allclose(small, (full + 0.5) / 4 - 0.5)


@pytest.mark.parametrize("side", ["Front", "Left", "Back", "Right"])
def test_a_surround_view_calibration_with_one_polynomial_covers_its_picture(side: str, data_folder: Path) -> None:
    file = data_folder / "surround_fisheye_ocam" / "intrinsic" / f"{side}.json"
    (entry,) = json.loads(file.read_text()).values()
    param = entry["param"]
    (c, d, row), (e, _, column), _ = param["cam_K"]["data"]
    polynomial = param["cam_dist"]["data"][0]
    camera = Camera("ocam", param["img_dist_w"], param["img_dist_h"], (1.0, 1.0), (row, column),
                    (c, d, e, 0, len(polynomial), *polynomial))  # fmt: skip
    pixels = every_pixel(camera, 20)
    rays, seen = camera.unproject(pixels)
    middle = np.hypot(*(pixels - camera.center_px).T) < 470
    assert seen[middle].all()
    back, valid = camera.project(rays[seen])
    assert valid.all()
    away = np.hypot(*(pixels[seen] - camera.center_px).T) > 1.0
    np.testing.assert_allclose(back[away], pixels[seen][away], atol=1e-6)
    assert camera.field_of_view().widest_rad > np.radians(85)
