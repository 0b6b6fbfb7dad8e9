"""Where joints appear in the pictures of several cameras: what a pose network samples its features at.

Pictures have coordinates from 0 to 1, column before row, whatever their size. A projection takes joints (B, J, 3),
relative to a reference point, and that point in each camera's frame (B, V, 1, 3); all in one unit of length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.errors import ShapeError
from perception.geometry.cameras import Camera
from perception.ops.image import Letterbox

Projection: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(joints, references) to coordinates (B, V, J, 2) within 0 and 1, and (B, V, J) True where they are in view."""

_UNREALEGO_POLYNOMIAL = (
    541.084422, 133.996745, -53.833198, 60.96083, -24.78051, 12.451492, -30.240511, 26.90122, 116.38499, -133.991117,
    -141.904687, 184.05592, 107.45616, -125.552875, -55.66342, 44.209519, 18.234651, -6.410899, -2.737066,
)  # fmt: skip
_UNREALEGO_CENTER_PX = (511.1183388444314, 510.8730105600536)
_UNREALEGO_SIZE_PX = 1024


def unrealego_projection(joints: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Project into the fisheye cameras of UnrealEgo, as EgoPoseFormer's code does.

    Both cameras have the same polynomial of the angle to the image plane (OCamCalib's world to camera), and parallel
    axes (x right, y down, z forward). Its quirks are kept, as the weights were trained with them: on the optical axis
    (x = y = 0) the coordinates are NaN and not in view; no test asks whether a point lies in front; the affine part of
    the calibration is left out; a pixel's number is divided by the size, without half a pixel.

    Args:
        joints: (B, J, 3), any unit.
        references: (B, V, 1, 3); their dtype joins in deciding that of the result.

    Source: ChenhongyiYang/egoposeformer, pose_estimation/models/utils/camera_models.py.
    """
    x, y, z = (joints[:, None] + references).unbind(-1)  # (B, V, J)
    across = torch.sqrt(x * x + y * y)
    angle = torch.atan(-z / across)
    # Powers instead of Horner's rule: a joint on the border of the picture falls on the published side of it.
    radius_px = sum((a * angle**power for power, a in enumerate(_UNREALEGO_POLYNOMIAL)), start=torch.zeros_like(angle))
    center_u, center_v = _UNREALEGO_CENTER_PX
    u = (x / across * radius_px + center_u) / _UNREALEGO_SIZE_PX
    v = (y / across * radius_px + center_v) / _UNREALEGO_SIZE_PX
    in_view = (u > 0) & (v > 0) & (u < 1) & (v < 1)
    return torch.stack((u, v), dim=-1).clamp(0.0, 1.0), in_view


def camera_projection(
    cameras: Sequence[Camera], rotations: Sequence[NDArray[Any]] | None = None, unit_m: float = 0.01
) -> Projection:
    """Return the projection into any cameras.

    Args:
        cameras: one per view; the picture that the network sees must show all that the camera's picture shows.
        rotations: (3, 3) each, from the axes of the joints to the optical axes of that camera; identities if None.
        unit_m: metres in the unit of the joints; EgoPoseFormer speaks in centimetres.

    Returns:
        A projection, which raises ShapeError where the references have another number of views. Where a camera has no
        pixel for a joint it says 0 and not in view.
    """
    turned = [np.eye(3) for _ in cameras] if rotations is None else [np.asarray(matrix) for matrix in rotations]
    if len(turned) != len(cameras):
        raise ShapeError(f"{len(turned)} rotations for {len(cameras)} cameras")

    def project(joints: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        if references.ndim != 4 or references.shape[1] != len(cameras):
            raise ShapeError(f"references of shape {tuple(references.shape)}; expected (B, {len(cameras)}, 1, 3)")
        views = [
            _into_one_view(camera, matrix, joints, references[:, view], unit_m)
            for view, (camera, matrix) in enumerate(zip(cameras, turned, strict=True))
        ]
        return torch.stack([place for place, _ in views], dim=1), torch.stack([seen for _, seen in views], dim=1)

    return project


def _into_one_view(
    camera: Camera, rotation: NDArray[Any], joints: Tensor, reference: Tensor, unit_m: float
) -> tuple[Tensor, Tensor]:
    points = joints.detach().cpu().double().numpy() @ rotation.T + reference.detach().cpu().double().numpy()
    pixels, seen = camera.project(points.reshape(-1, 3) * unit_m)
    size = np.array((camera.width_px, camera.height_px))
    # The centre of the first pixel is 0 for our cameras, and half a pixel from the border of the picture.
    places = np.where(seen[:, None], (pixels + 0.5) / size, 0.0).clip(0.0, 1.0).reshape(*points.shape[:2], 2)
    place = torch.from_numpy(places).to(device=joints.device, dtype=joints.dtype)
    return place, torch.from_numpy(seen.reshape(points.shape[:2])).to(joints.device)


def letterboxed(project: Projection, boxes: Sequence[Letterbox]) -> Projection:
    """Return the projection into pictures that lie in a network's input as the letterboxes say, one per view."""

    def fitted(joints: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        places, seen = project(joints, references)
        views = []
        for view, box in enumerate(boxes):
            (height, width), (rows, columns), (top, left) = box.inner_size, box.input_size, box.offset
            scale, shift = places.new_tensor((width, height)), places.new_tensor((left, top))
            views.append((places[:, view] * scale + shift) / places.new_tensor((columns, rows)))
        return torch.stack(views, dim=1), seen

    return fitted
