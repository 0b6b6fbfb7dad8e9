"""Pinhole views: a plain resize without distortion, and straight lines with it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from perception.errors import GeometryError
from perception.geometry.cameras import Camera
from perception.ops.pinhole import pinhole_view

PLAIN = Camera("plumb_bob", 200, 120, (150.0, 140.0), (99.0, 61.0))


def test_without_distortion_the_matrix_is_the_camera_s_scaled() -> None:
    view = pinhole_view(PLAIN, 60, 50)
    np.testing.assert_allclose(view.image_from_optical[:2, :3], [[37.5, 0, 24.75], [0, 70, 30.5]], atol=1e-6)


def test_without_distortion_the_picture_is_resized() -> None:
    picture = np.random.default_rng(0).random((120, 200), np.float32)
    expected = cv2.resize(picture, (100, 60), interpolation=cv2.INTER_LINEAR)  # by half: the mean of four pixels
    ours = pinhole_view(PLAIN, 60, 100).apply(torch.from_numpy(picture)[None, None])[0, 0]
    np.testing.assert_allclose(ours.numpy()[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-4)


@pytest.mark.parametrize(
    "camera",
    [
        Camera("plumb_bob", 200, 120, (150.0, 140.0), (99.0, 61.0), (-0.2, 0.03, 0.001, -0.001, 0.0)),
        Camera("kannala_brandt", 200, 120, (90.0, 90.0), (99.0, 61.0), (0.02, -0.01, 0.0, 0.0)),
    ],
)
def test_a_point_lands_where_the_pinhole_projects_it(camera: Camera) -> None:
    """A bright spot painted at a point's pixel in the distorted picture is found at the pinhole's projection."""
    view = pinhole_view(camera, 120, 200)
    for point in ([0.3, 0.2, 1.5], [-0.5, 0.1, 1.0], [0.0, -0.2, 1.0]):
        (pixel,), (seen,) = camera.project(np.array([point]))
        assert seen
        v, u = np.mgrid[:120, :200]
        picture = np.exp(-((u - pixel[0]) ** 2 + (v - pixel[1]) ** 2) / 18).astype(np.float32)
        found = view.apply(torch.from_numpy(picture)[None, None])[0, 0].numpy()
        centroid = (found * u).sum() / found.sum(), (found * v).sum() / found.sum()
        projected = view.image_from_optical @ (*point, 1.0)
        np.testing.assert_allclose(centroid, projected[:2] / projected[2], atol=0.6)


def test_what_the_camera_does_not_see_is_zero() -> None:
    fisheye = Camera("kannala_brandt", 200, 200, (60.0, 60.0), (100.0, 100.0), (0.0, 0.0, 0.0, 0.0), max_angle_rad=0.5)
    found = pinhole_view(fisheye, 200, 200).apply(torch.ones(1, 1, 200, 200))[0, 0]
    assert found[100, 100] == 1
    assert found[100, 180] == 0


def test_a_camera_that_is_blind_ahead_has_no_pinhole_view() -> None:
    with pytest.raises(GeometryError):
        pinhole_view(Camera("plumb_bob", 200, 120, (150.0, 140.0), (900.0, 61.0)), 60, 100)
