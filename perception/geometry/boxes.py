"""Boxes of other conventions, turned into ours: geometric centre, (l, w, h), yaw counter-clockwise from +x.

Arrays of N boxes; inputs are not changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Boxes:
    """N upright boxes in one frame.

    Attributes:
        center_m: (N, 3) geometric centres.
        size_lwh_m: (N, 3) length along the heading, width, height.
        yaw_rad: (N,) counter-clockwise from the frame's +x.
    """

    center_m: Float
    size_lwh_m: Float
    yaw_rad: Float

    def transformed(self, target_from_frame: Transform) -> Boxes:
        """Return the boxes in another frame; headings follow, tilt is dropped (boxes stay upright)."""
        heading = np.stack((np.cos(self.yaw_rad), np.sin(self.yaw_rad), np.zeros_like(self.yaw_rad)), axis=1)
        turned = target_from_frame.rotate(heading)
        return Boxes(target_from_frame.apply(self.center_m), self.size_lwh_m, np.arctan2(turned[:, 1], turned[:, 0]))

    def corners(self) -> Float:
        """Return corners (N, 8, 3): bottom four counter-clockwise from front left, then the top four."""
        signs = np.array([[1, 1, -1], [-1, 1, -1], [-1, -1, -1], [1, -1, -1]], np.float64) / 2
        signs = np.concatenate((signs, signs * (1, 1, -1)))
        local = signs[None] * self.size_lwh_m[:, None]
        cosine, sine = np.cos(self.yaw_rad)[:, None], np.sin(self.yaw_rad)[:, None]
        x = cosine * local[..., 0] - sine * local[..., 1]
        y = sine * local[..., 0] + cosine * local[..., 1]
        return np.stack((x, y, local[..., 2]), axis=-1) + self.center_m[:, None]

    def contain(self, points_m: NDArray[Any], margin_m: float = 0.0) -> NDArray[np.bool_]:
        """Return (N, P): True where point p of (P, 3) lies in box n, enlarged by a margin on every side."""
        offset = np.asarray(points_m, np.float64)[None] - self.center_m[:, None]
        cosine, sine = np.cos(self.yaw_rad)[:, None], np.sin(self.yaw_rad)[:, None]
        along = cosine * offset[..., 0] + sine * offset[..., 1]
        across = -sine * offset[..., 0] + cosine * offset[..., 1]
        half = self.size_lwh_m[:, None] / 2 + margin_m
        inside: NDArray[np.bool_] = (
            (np.abs(along) <= half[..., 0])
            & (np.abs(across) <= half[..., 1])
            & (np.abs(offset[..., 2]) <= half[..., 2])
        )
        return inside


def from_nuscenes(center_m: NDArray[Any], size_wlh_m: NDArray[Any], rotation_wxyz: NDArray[Any]) -> Boxes:
    """nuScenes: geometric centre, (w, l, h), quaternion (w, x, y, z); the x axis of the box is its heading."""
    w, x, y, z = _rows(rotation_wxyz, 4).T
    yaw = np.arctan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z)  # right for lengths other than 1, too
    return Boxes(_rows(center_m, 3), _rows(size_wlh_m, 3)[:, [1, 0, 2]], yaw)


def to_nuscenes(boxes: Boxes) -> tuple[Float, Float, Float]:
    """Return centre, (w, l, h) and quaternion (w, x, y, z)."""
    half = boxes.yaw_rad / 2
    zero = np.zeros_like(half)
    return boxes.center_m, boxes.size_lwh_m[:, [1, 0, 2]], np.stack((np.cos(half), zero, zero, np.sin(half)), axis=1)


def from_mmdet3d(boxes: NDArray[Any]) -> Boxes:
    """mmdet3d's LiDAR boxes (since 1.0): x, y, z of the bottom's centre, l, w, h, yaw counter-clockwise from +x."""
    values = _rows(boxes, 7)
    center = values[:, :3].copy()
    center[:, 2] += values[:, 5] / 2
    return Boxes(center, values[:, 3:6], values[:, 6])


def from_kitti_camera(boxes: NDArray[Any], frame_from_camera: Transform) -> Boxes:
    """KITTI labels: h, w, l, then x, y, z of the bottom's centre and rotation_y in the rectified camera frame.

    Args:
        boxes: (N, 7) in the order of the label file.
        frame_from_camera: from the rectified camera frame (x right, y down, z forward) to the wanted upright frame.
    """
    values = _rows(boxes, 7)
    height, width, length = values[:, 0], values[:, 1], values[:, 2]
    center = values[:, 3:6].copy()
    center[:, 1] -= height / 2  # y points down
    heading = np.stack((np.cos(values[:, 6]), np.zeros(len(values)), -np.sin(values[:, 6])), axis=1)
    turned = frame_from_camera.rotate(heading)
    size = np.stack((length, width, height), axis=1)
    return Boxes(frame_from_camera.apply(center), size, np.arctan2(turned[:, 1], turned[:, 0]))


def _rows(values: NDArray[Any], columns: int) -> Float:
    rows = np.asarray(values, np.float64)
    if rows.ndim != 2 or rows.shape[1] != columns:
        raise ShapeError(f"boxes have shape {rows.shape}; expected (N, {columns})")
    return rows


__all__ = ["Boxes", "from_kitti_camera", "from_mmdet3d", "from_nuscenes", "to_nuscenes"]
