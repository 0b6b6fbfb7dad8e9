"""Undistortion and rectification: where each pixel of a straightened picture lies in the picture as it was taken.

Maps are cached: a camera is the same for hours, and a map costs more than a picture. `ops.remap` applies them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import GeometryError
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform

Rows: TypeAlias = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]
_IDENTITY: Rows = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True, eq=False)
class PixelMap:
    """From each pixel of the new picture to a place in the old one.

    Attributes:
        place_px: (H, W, 2) float32, column and row in the old picture; -1 where there is none.
        seen: (H, W) where the old camera sees what the new pixel shows.
    """

    place_px: NDArray[np.float32]
    seen: NDArray[np.bool_]


def pinhole_of(camera: Camera, *, focal_px: float | None = None) -> Camera:
    """Return a pinhole camera of the same size for a camera's straightened picture.

    Without `focal_px` the middle keeps its scale, so that the picture is neither blurred nor coarsened there; a wide
    camera loses its borders.
    """
    if focal_px is None:
        by_ray = camera.jacobian(np.array([[0.0, 0.0, 1.0]]))[0]
        focal_px = float(np.sqrt(abs(np.linalg.det(by_ray[:, :2]))))
    return Camera("plumb_bob", camera.width_px, camera.height_px, (focal_px, focal_px), camera.center_px)


def undistortion_map(camera: Camera, target: Camera, rotation: NDArray[np.float64] | None = None) -> PixelMap:
    """Return the map from the pixels of `target` to those of `camera`.

    Args:
        camera: which took the picture.
        target: of any model; its picture is made.
        rotation: (3, 3) camera_from_target; the identity if None. Both have one centre of projection.
    """
    rows = _IDENTITY if rotation is None else tuple(tuple(map(float, row)) for row in rotation)
    return _map(camera, target, rows)


@lru_cache(maxsize=16)
def _map(camera: Camera, target: Camera, rotation: Rows) -> PixelMap:
    v, u = np.mgrid[: target.height_px, : target.width_px]
    rays, there = target.unproject(np.stack((u.ravel(), v.ravel()), axis=1))
    places, seen = camera.project(rays @ np.array(rotation).T)
    seen &= there
    shape = (target.height_px, target.width_px)
    place = np.where(seen[:, None], places, -1.0).astype(np.float32).reshape(*shape, 2)
    mask = seen.reshape(shape)
    place.flags.writeable = mask.flags.writeable = False
    return PixelMap(place, mask)


@dataclass(frozen=True, eq=False)
class StereoRectification:
    """Two pictures in which a point has one row.

    Attributes:
        camera: pinhole camera of both rectified pictures.
        left_rotation: (3, 3) left_from_rectified.
        right_rotation: (3, 3) right_from_rectified.
        baseline_m: distance of the cameras; depth is focal length times baseline over disparity.
        left: map of the left picture.
        right: map of the right picture.
    """

    camera: Camera
    left_rotation: NDArray[np.float64]
    right_rotation: NDArray[np.float64]
    baseline_m: float
    left: PixelMap
    right: PixelMap


def stereo_rectification(
    left: Camera, right: Camera, right_from_left: Transform, target: Camera | None = None
) -> StereoRectification:
    """Rectify a stereo pair: both turn by half their difference, then the rows follow the baseline.

    Args:
        left: of any model.
        right: of any model.
        right_from_left: between the optical frames.
        target: pinhole camera of the results; by default one of the left camera's size, at its middle scale.

    Raises:
        GeometryError: the right camera is not to the right of the left one (more than 45 degrees off its x axis).

    Source: Bouguet's method, as in Bradski & Kaehler, Learning OpenCV, chapter 12.
    """
    baseline = float(np.linalg.norm(right_from_left.translation_m))
    left_from_right = right_from_left.inverse()
    half = Transform.identity().interpolated(Transform(np.zeros(3), left_from_right.rotation_xyzw), 0.5).rotation
    along = half.T @ left_from_right.translation_m  # to the right camera, between both orientations
    if baseline < 1e-6 or along[0] < baseline * np.sqrt(0.5):
        raise GeometryError(
            f"the right camera lies at {left_from_right.translation_m.round(3).tolist()} m of the left one; "
            "expected to its right: exchange left and right, or turn a vertical pair by 90 degrees"
        )
    x = along / baseline
    y = np.cross((0.0, 0.0, 1.0), x)
    y /= np.linalg.norm(y)
    middle_from_rectified = np.stack((x, y, np.cross(x, y)), axis=1)
    left_rotation = half @ middle_from_rectified
    right_rotation = half.T @ middle_from_rectified
    camera = target or replace(pinhole_of(left), center_px=((left.width_px - 1) / 2, (left.height_px - 1) / 2))
    return StereoRectification(
        camera, left_rotation, right_rotation, baseline,
        undistortion_map(left, camera, left_rotation), undistortion_map(right, camera, right_rotation),
    )  # fmt: skip


__all__ = ["PixelMap", "StereoRectification", "pinhole_of", "stereo_rectification", "undistortion_map"]
