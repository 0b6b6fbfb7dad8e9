"""The picture that a pinhole camera of another size would have taken, for networks that know no lens distortion.

Where a camera has no distortion this is a plain resize to the network's size. The pinhole's matrix follows the
convention of the published surround-view networks: the camera's own matrix, its rows times the scales of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from perception.errors import GeometryError
from perception.geometry.cameras import Camera

STEP = 1e-3
"""Tangent of the small angle over which the focal length at the axis is measured."""


@dataclass(frozen=True)
class PinholeView:
    """How one camera's pictures are turned into a pinhole's; it can be kept while the calibration stays."""

    image_from_optical: NDArray[np.float64]
    """(4, 4) points of the optical frame to (u * depth, v * depth, depth, 1) pixels of the new picture."""
    grid: Tensor
    """(1, H, W, 2) where each new pixel lies in the camera's picture, -1 to 1, x and y; 2 where it shows nothing."""
    shrink: int
    """Whole factor by which the camera's picture is averaged first, against aliasing."""

    def apply(self, picture: Tensor) -> Tensor:
        """Turn a normalised picture (1, C, H, W) into the pinhole's; what the camera did not see is zero."""
        if self.shrink > 1:
            picture = F.avg_pool2d(picture, self.shrink)
        return F.grid_sample(picture, self.grid, align_corners=False)


def pinhole_view(camera: Camera, height: int, width: int) -> PinholeView:
    """Return the pinhole that agrees with the camera at its optical axis, for pictures of height x width.

    Raises:
        GeometryError: the camera does not see its own optical axis.
    """
    axis, valid = camera.project(np.array([[0.0, 0.0, 1.0], [STEP, 0.0, 1.0], [0.0, STEP, 1.0]]))
    if not valid.all():
        raise GeometryError("the camera does not see along its own optical axis: there is no pinhole view of it")
    focal = np.abs((axis[1] - axis[0])[0]) / STEP, np.abs((axis[2] - axis[0])[1]) / STEP
    scale = width / camera.width_px, height / camera.height_px
    # New pixel i shows what lies at (i + 0.5) / scale - 0.5 of the camera's picture, were it free of distortion
    u = ((np.arange(width) + 0.5) / scale[0] - 0.5 - axis[0, 0]) / focal[0]
    v = ((np.arange(height) + 0.5) / scale[1] - 0.5 - axis[0, 1]) / focal[1]
    columns, rows = np.meshgrid(u, v)
    rays = np.stack([columns, rows, np.ones_like(columns)], -1).reshape(-1, 3)
    pixels, seen = camera.project(rays)
    relative = (pixels + 0.5) / (camera.width_px, camera.height_px) * 2 - 1
    relative[~seen] = 2.0
    matrix = np.eye(4)
    matrix[0, 0], matrix[0, 2] = focal[0] * scale[0], axis[0, 0] * scale[0]
    matrix[1, 1], matrix[1, 2] = focal[1] * scale[1], axis[0, 1] * scale[1]
    grid = torch.from_numpy(relative.reshape(1, height, width, 2).astype(np.float32))
    return PinholeView(matrix, grid, max(1, int(min(1 / scale[0], 1 / scale[1]))))
