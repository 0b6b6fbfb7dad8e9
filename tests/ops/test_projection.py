"""The pixels of many points: as the camera models themselves say."""

from __future__ import annotations

import numpy as np
import pytest

from perception.geometry.cameras import Camera
from perception.ops.projection import pixels_of

SIZE, FOCAL, CENTER = (640, 480), (300.0, 310.0), (322.0, 235.0)
CAMERAS = {
    "pinhole": Camera("plumb_bob", *SIZE, FOCAL, CENTER),
    "plumb_bob": Camera("plumb_bob", *SIZE, FOCAL, CENTER, (-0.3, 0.1, 1e-3, -2e-3, 0.01)),
    "rational": Camera("rational_polynomial", *SIZE, FOCAL, CENTER, (0.4, 0.1, 1e-3, -2e-3, 0.01, 0.7, 0.2, 0.02)),
    "fisheye": Camera("kannala_brandt", *SIZE, (180.0, 180.0), CENTER, (0.02, -0.01, 0.002, -0.001)),
    "calibrated to 40 degrees": Camera("plumb_bob", *SIZE, FOCAL, CENTER, max_angle_rad=0.7),
    "fisheye to 80 degrees": Camera("kannala_brandt", *SIZE, (180.0, 180.0), CENTER, (0.0,) * 4, max_angle_rad=1.4),
    "double_sphere": Camera("double_sphere", *SIZE, (200.0, 200.0), CENTER, (-0.2, 0.6)),
}


@pytest.mark.parametrize("name", CAMERAS)
def test_points_fall_on_the_pixels_that_the_camera_model_says(name: str) -> None:
    camera, random = CAMERAS[name], np.random.default_rng(0)
    points = np.concatenate((random.normal(0, 5, (4000, 3)), [[0, 0, 3], [0, 0, -3], [0, 0, 0], [1, 0, 0]]))
    pixels, valid = camera.project(points)
    inside, row, column = pixels_of(camera, points)
    assert 200 < len(inside) < len(points)
    np.testing.assert_array_equal(inside, np.flatnonzero(valid))
    np.testing.assert_array_equal(np.column_stack((column, row)), np.rint(pixels[valid]))
