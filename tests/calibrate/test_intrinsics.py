"""Intrinsics and stereo: against OpenCV, against rendered boards with exact truth, and on a real pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.calibrate.board_pose import board_pose
from perception.calibrate.boards import Board, BoardView
from perception.calibrate.intrinsics import calibrate_intrinsics
from perception.calibrate.quality import complaints_of_intrinsics, coverage_of
from perception.calibrate.stereo import calibrate_stereo
from perception.errors import UserError
from perception.geometry.cameras import Camera, Model
from perception.geometry.transforms import Transform
from tests.calibrate.rendering import poses, rendered

CHESSBOARD = Board.parse("chessboard:9x6:0.024")
PINHOLE = Camera("plumb_bob", 480, 320, (300.0, 301.0), (243.0, 157.0), (-0.2, 0.05, 0.001, -0.0008, 0.0))
FISHEYE = Camera("kannala_brandt", 480, 360, (140.0, 141.0), (243.0, 178.0), (0.02, -0.006, 0.001, -0.0002))
SPHERE = Camera("double_sphere", 480, 360, (170.0, 171.0), (243.0, 178.0), (-0.2, 0.59))


def exact_views(camera: Camera, board: Board, where: Sequence[Transform], noise_px: float = 0.0) -> list[BoardView]:
    """Corners by projection alone, those that the camera sees."""
    random, found = np.random.default_rng(4), []
    for index, pose in enumerate(where):
        pixels, seen = camera.project(pose.apply(board.points_m))
        if seen.sum() >= 30:
            noisy = pixels[seen] + random.normal(0, noise_px, (int(seen.sum()), 2)) if noise_px else pixels[seen]
            found.append(BoardView(str(index), 0, np.flatnonzero(seen), noisy))
    return found


def worst_pixel(found: Camera, truth: Camera, reach: float = 0.9) -> float:
    """Largest distance of both projections of one ray, over the middle part of the picture."""
    v, u = np.mgrid[0 : truth.height_px : 20, 0 : truth.width_px : 20]
    pixels = np.stack((u.ravel(), v.ravel()), axis=1).astype(float)
    middle = np.array((truth.width_px, truth.height_px)) / 2
    pixels = middle + (pixels - middle) * reach
    rays, seen = truth.unproject(pixels)
    again, valid = found.project(rays, inside=False)
    return float(np.linalg.norm(again - pixels, axis=1)[seen & valid].max())


@pytest.mark.parametrize("camera", [PINHOLE, FISHEYE, SPHERE], ids=lambda camera: camera.model)
def test_exact_corners_give_the_camera_back(camera: Camera) -> None:
    where = poses(CHESSBOARD, 14, 0.25 if camera is PINHOLE else 0.13, spread=0.5)
    result = calibrate_intrinsics(
        CHESSBOARD, exact_views(camera, CHESSBOARD, where), camera.width_px, camera.height_px, camera.model
    )
    assert result.rms_px < 1e-4
    np.testing.assert_allclose(result.camera.focal_px, camera.focal_px, rtol=1e-4)
    np.testing.assert_allclose(result.camera.center_px, camera.center_px, atol=0.01)
    np.testing.assert_allclose(result.camera.coefficients, camera.coefficients, atol=1e-3)


@pytest.mark.parametrize("model", ["ocam", "rational_polynomial"])
def test_richer_models_explain_what_simpler_cameras_show(model: Model) -> None:
    truth = FISHEYE if model == "ocam" else PINHOLE
    where = poses(CHESSBOARD, 14, 0.13 if model == "ocam" else 0.25, spread=0.5)
    views = exact_views(truth, CHESSBOARD, where, noise_px=0.05)
    result = calibrate_intrinsics(CHESSBOARD, views, truth.width_px, truth.height_px, model)
    assert result.rms_px < 0.08
    assert worst_pixel(result.camera, truth, 0.7) < 0.5


def test_noisy_corners_are_calibrated_as_opencv_does_and_the_uncertainty_is_honest() -> None:
    where = poses(CHESSBOARD, 20, 0.3)
    views = [view for view in exact_views(PINHOLE, CHESSBOARD, where, noise_px=0.1) if len(view.ids) == 54]
    result = calibrate_intrinsics(CHESSBOARD, views, 480, 320)
    objects = [CHESSBOARD.points_m.astype(np.float32)] * len(views)
    images = [view.pixels.astype(np.float32)[:, None] for view in views]
    rms, matrix, coefficients, _, _ = cv2.calibrateCamera(objects, images, (480, 320), None, None)
    assert result.rms_px == pytest.approx(rms, rel=1e-3)
    np.testing.assert_allclose(result.camera.focal_px, (matrix[0, 0], matrix[1, 1]), rtol=5e-4)
    np.testing.assert_allclose(result.camera.coefficients, coefficients.ravel(), atol=0.02)
    for name, found, truth in zip(("fx", "fy", "cx", "cy"), (*result.camera.focal_px, *result.camera.center_px),
                                  (*PINHOLE.focal_px, *PINHOLE.center_px), strict=True):  # fmt: skip
        assert abs(found - truth) < 4 * result.deviation[name]


@pytest.mark.parametrize("word", ["chessboard:9x6:0.024", "charuco:8x6:0.03:0.022", "aprilgrid:5x4:0.04:0.3"])
def test_rendered_boards_of_every_kind_are_found_and_calibrate_a_camera(word: str) -> None:
    board = Board.parse(word)
    views, worst = [], []
    for index, pose in enumerate(poses(board, 9, 0.34, spread=0.15, seed=2)):
        view = board.find(rendered(board, PINHOLE, pose), str(index))
        if view is not None:
            expected, _ = PINHOLE.project(pose.apply(board.points_m[view.ids]))
            worst.append(np.median(np.linalg.norm(view.pixels - expected, axis=1)))
            views.append(view)
    assert len(views) >= 5
    assert np.median(worst) < 0.15
    result = calibrate_intrinsics(board, views, 480, 320)
    assert result.rms_px < 0.4
    assert result.camera.focal_px[0] == pytest.approx(300, rel=0.03)


def test_an_empty_picture_has_no_board() -> None:
    for word in ("chessboard:9x6:0.024", "charuco:8x6:0.03:0.022", "aprilgrid:5x4:0.04:0.3"):
        assert Board.parse(word).find(np.full((120, 160), 90, np.uint8)) is None


def test_words_that_are_no_board_are_refused() -> None:
    for word in (
        "chess:9x6:0.02",
        "chessboard:9:0.02",
        "charuco:8x6:0.02:0.03",
        "chessboard:9x6:-1",
        "aprilgrid:6x6:0.088",
    ):
        with pytest.raises(UserError, match="--board"):
            Board.parse(word)


def test_poor_coverage_says_what_to_do() -> None:
    flat = [Transform.from_quaternion((-0.1 + 0.01 * i, -0.06, 0.8), (0, 0, 0, 1)) for i in range(4)]
    views = exact_views(PINHOLE, CHESSBOARD, flat, noise_px=0.1)
    result = calibrate_intrinsics(CHESSBOARD, views, 480, 320)
    said = " ".join(complaints_of_intrinsics(result, coverage_of(result.camera, result.views, result.poses)))
    for word in ("take 20 or more", "into every part of the picture", "tilt the board"):
        assert word in said
    with pytest.raises(UserError, match="found in 2 pictures"):
        calibrate_intrinsics(CHESSBOARD, views[:2], 480, 320)


def test_a_pose_comes_back_from_a_fisheye_view() -> None:
    pose = poses(CHESSBOARD, 1, 0.2)[0]
    (view,) = exact_views(FISHEYE, CHESSBOARD, [pose])
    found, rms = board_pose(FISHEYE, CHESSBOARD, view)
    assert rms < 1e-6
    np.testing.assert_allclose(found.matrix, pose.matrix, atol=1e-7)


def test_a_pair_of_two_kinds_of_camera_gives_its_extrinsics_back() -> None:
    right_from_left = Transform.from_quaternion((-0.1, 0.004, 0.01), np.array([0.01, -0.03, 0.02, 1]) / np.sqrt(1.0014))
    where = poses(CHESSBOARD, 12, 0.3, spread=0.1)
    pairs = []
    for index, pose in enumerate(where):
        left = exact_views(PINHOLE, CHESSBOARD, [pose], 0.0)
        right = exact_views(FISHEYE, CHESSBOARD, [right_from_left @ pose], 0.0)
        if left and right:
            pairs.append((left[0], right[0]))
        assert index >= 0
    result = calibrate_stereo(CHESSBOARD, pairs, PINHOLE, FISHEYE)
    np.testing.assert_allclose(result.right_from_left.matrix, right_from_left.matrix, atol=1e-6)
    assert result.rms_px < 1e-5


def test_the_real_stereo_pair_has_a_residual_of_a_quarter_pixel_and_a_baseline_of_94_mm(data_folder: Path) -> None:
    board = Board.parse("chessboard:9x6:0.02423")
    sides = []
    for side in ("left", "right"):
        pictures = [data_folder / "stereo_chessboard" / f"{side}{number}.jpg" for number in range(1, 30)]
        greys = [np.asarray(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), np.uint8) for file in pictures]
        views = [board.find(grey, file.name) for grey, file in zip(greys, pictures, strict=True)]
        assert all(view is not None for view in views)  # all 29 are found
        sides.append([view for view in views if view is not None])
    cameras = [calibrate_intrinsics(board, views, 640, 360) for views in sides]
    for result in cameras:
        assert result.rms_px == pytest.approx(0.17, abs=0.005)
        assert result.camera.focal_px[0] == pytest.approx(463, abs=1.5)
    stereo = calibrate_stereo(board, list(zip(*sides, strict=True)), cameras[0].camera, cameras[1].camera)
    assert len(stereo.pairs) == 29
    assert stereo.rms_px == pytest.approx(0.25, abs=0.005)
    assert stereo.baseline_m == pytest.approx(0.0940, abs=0.0002)
    assert stereo.epipolar_rms_px is not None
    assert stereo.epipolar_rms_px < 0.3
