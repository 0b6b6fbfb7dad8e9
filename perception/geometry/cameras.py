"""Camera models: points in `<name>_optical` (x right, y down, z forward) to pixels and back.

The centre of the top left pixel is (0, 0). `project` gives pixels and whether they mean anything (in front of the
model's limit and inside the image); `unproject` gives unit rays. Models:

    plumb_bob             k1 k2 p1 p2 k3 (Brown, Photogrammetric Engineering 1971; as OpenCV), or no coefficients
    rational_polynomial   k1 k2 p1 p2 k3 k4 k5 k6 (Claus & Fitzgibbon, CVPR 2005; as OpenCV)
    kannala_brandt        k1 k2 k3 k4 (Kannala & Brandt, PAMI 2006; OpenCV's fisheye)
    double_sphere         xi alpha (Usenko et al., 3DV 2018)
    ocam                  c d e, count of a, a..., count of b, b... (Scaramuzza et al., IROS 2006; OCamCalib): affine
                          [c d; e 1], polynomial a of the ray by radius, polynomial b of the radius by angle; its
                          rows and columns are turned to u = column, v = row

What each model does lies in camera_models/, one file each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import GeometryError, ShapeError
from perception.geometry.camera_models import brown, double_sphere, kannala_brandt, ocam

Model: TypeAlias = Literal["plumb_bob", "rational_polynomial", "kannala_brandt", "ocam", "double_sphere"]
Float: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

COEFFICIENTS: dict[str, tuple[int, ...]] = {
    "plumb_bob": (0, 4, 5), "rational_polynomial": (8,), "kannala_brandt": (4,), "double_sphere": (2,),
}  # fmt: skip
_MODELS: dict[str, Any] = {
    "plumb_bob": brown, "rational_polynomial": brown, "kannala_brandt": kannala_brandt,
    "double_sphere": double_sphere, "ocam": ocam,
}  # fmt: skip


@dataclass(frozen=True)
class FieldOfView:
    """Angles that a camera sees, radians, through its principal point.

    Attributes:
        horizontal_rad: from the left to the right border, along the row of the principal point.
        vertical_rad: from the upper to the lower border.
        widest_rad: largest angle to the optical axis of any pixel.
    """

    horizontal_rad: float
    vertical_rad: float
    widest_rad: float


@dataclass(frozen=True)
class Camera:
    """Intrinsics of one camera.

    Attributes:
        focal_px: fx, fy; for `ocam` the scale of its plane, which is in pixels: (1, 1) at the size it was calibrated.
        center_px: cx, cy.
        coefficients: as the module's text says.
        max_angle_rad: largest angle to the optical axis that the calibration covers; None is the model's own limit.

    Raises:
        GeometryError: wrong number of coefficients, or numbers that no camera has.
    """

    model: Model
    width_px: int
    height_px: int
    focal_px: tuple[float, float]
    center_px: tuple[float, float]
    coefficients: tuple[float, ...] = ()
    max_angle_rad: float | None = None

    def __post_init__(self) -> None:
        check_coefficients(self.model, self.coefficients)
        numbers = (*self.focal_px, *self.center_px, *self.coefficients)
        if not np.isfinite(numbers).all() or min(self.focal_px) <= 0 or min(self.width_px, self.height_px) <= 0:
            raise GeometryError(
                f"camera with focal_px {self.focal_px}, size {self.width_px} x {self.height_px}: not a camera"
            )
        if self.model == "double_sphere" and not 0 <= self.coefficients[1] <= 1:
            raise GeometryError(f"double_sphere has alpha {self.coefficients[1]}; it lies between 0 and 1")

    def project(self, points_m: NDArray[Any], *, inside: bool = True) -> tuple[Float, Mask]:
        """Project points (N, 3) in the optical frame.

        Args:
            points_m: (N, 3) metres; NaN and infinite points are not valid.
            inside: also ask that the pixel lies inside the image; without it, valid means in the model's field of view.

        Returns:
            (N, 2) column u and row v, and (N,) True where they are valid. Others hold finite nonsense.

        Raises:
            ShapeError: not (N, 3).
        """
        points, finite = _checked_points(points_m)
        plane, valid = _MODELS[self.model].project(self.coefficients, points)
        pixels = plane * np.array(self.focal_px) + np.array(self.center_px)
        there = np.isfinite(pixels)
        valid = valid & finite & there[:, 0] & there[:, 1]
        if self.max_angle_rad is not None:
            valid &= _angle_to_axis(points) <= self.max_angle_rad
        pixels = np.where(there, pixels, -1.0)
        if inside:
            valid &= self.contains(pixels)
        return pixels, valid

    def jacobian(self, points_m: NDArray[Any]) -> Float:
        """Differentiate the pixel by the point.

        Args:
            points_m: (N, 3) metres in the optical frame.

        Returns:
            (N, 2, 3) pixels per metre: rows u and v, columns x, y and z. Where `project` is not valid, finite nonsense.

        Raises:
            ShapeError: not (N, 3).
        """
        points, _ = _checked_points(points_m)
        by_plane: Float = _MODELS[self.model].jacobian(self.coefficients, points)
        by_pixel: Float = np.nan_to_num(by_plane * np.array(self.focal_px)[:, None], nan=0.0, posinf=0.0, neginf=0.0)
        return by_pixel

    def unproject(self, pixels: NDArray[Any]) -> tuple[Float, Mask]:
        """Return unit rays (N, 3) in the optical frame through pixels (N, 2), and where the model has one.

        Pixels outside the image have rays, too, as far as the model reaches; `contains` tells them apart.

        Raises:
            ShapeError: not (N, 2).
        """
        values = np.asarray(pixels, np.float64)
        if values.ndim != 2 or values.shape[1] != 2:
            raise ShapeError(f"pixels have shape {values.shape}; expected (N, 2)")
        finite: Mask = np.asarray(np.isfinite(values).all(axis=1))
        plane = (np.where(finite[:, None], values, 0.0) - np.array(self.center_px)) / np.array(self.focal_px)
        rays, valid = _MODELS[self.model].unproject(self.coefficients, plane)
        length = np.linalg.norm(rays, axis=1, keepdims=True)
        valid = valid & finite & np.isfinite(rays).all(axis=1) & (length[:, 0] > 0)
        if self.max_angle_rad is not None:
            valid &= _angle_to_axis(rays) <= self.max_angle_rad
        return np.where(valid[:, None], rays / np.where(length > 0, length, 1.0), 0.0), valid

    def contains(self, pixels: NDArray[Any]) -> Mask:
        """True where a pixel lies on the image, borders of the outer pixels included."""
        u, v = pixels[:, 0], pixels[:, 1]
        inside: Mask = (u >= -0.5) & (u < self.width_px - 0.5) & (v >= -0.5) & (v < self.height_px - 0.5)
        return inside

    def in_view(self, points_m: NDArray[Any]) -> Mask:
        """True where the camera sees a point (N, 3): in the model's field of view, and inside the image."""
        return self.project(points_m)[1]

    @property
    def angle_limit_rad(self) -> float:
        """Largest angle to the optical axis that is valid: the model's own limit, or what the calibration covers."""
        own = float(_MODELS[self.model].angle_limit(self.coefficients))
        return own if self.max_angle_rad is None else min(own, self.max_angle_rad)

    def field_of_view(self) -> FieldOfView:
        """Return what the image shows, as far as the model and the calibration reach."""
        width, height = self.width_px, self.height_px
        u, v = np.linspace(-0.5, width - 0.5, 513), np.linspace(-0.5, height - 0.5, 513)
        cx, cy = self.center_px
        across = self._angles(np.stack((u, np.full_like(u, cy)), axis=1))
        down = self._angles(np.stack((np.full_like(v, cx), v), axis=1))
        border = [np.stack((u, np.full_like(u, side)), axis=1) for side in (-0.5, height - 0.5)]
        border += [np.stack((np.full_like(v, side), v), axis=1) for side in (-0.5, width - 0.5)]
        between = [center + share * (edge - center) for edge in border for share in np.linspace(0.5, 1.0, 33)
                   for center in [np.array(self.center_px)]]  # fmt: skip
        everywhere = self._angles(np.concatenate(between))
        right, below = u >= cx, v >= cy
        return FieldOfView(
            _widest(across[right]) + _widest(across[~right]), _widest(down[below]) + _widest(down[~below]),
            _widest(everywhere),
        )  # fmt: skip

    def _angles(self, pixels: Float) -> Float:
        rays, valid = self.unproject(pixels)
        return np.where(valid, _angle_to_axis(rays), 0.0)

    def scaled(self, width_px: int, height_px: int) -> Camera:
        """Return the camera of the same picture resized; pixel centres stay centres."""
        sx, sy = width_px / self.width_px, height_px / self.height_px
        return replace(
            self, width_px=width_px, height_px=height_px, focal_px=(self.focal_px[0] * sx, self.focal_px[1] * sy),
            center_px=((self.center_px[0] + 0.5) * sx - 0.5, (self.center_px[1] + 0.5) * sy - 0.5),
        )  # fmt: skip

    def cropped(self, left_px: int, top_px: int, width_px: int, height_px: int) -> Camera:
        """Return the camera of a part of the picture."""
        center = (self.center_px[0] - left_px, self.center_px[1] - top_px)
        return replace(self, width_px=width_px, height_px=height_px, center_px=center)


def check_coefficients(model: str, coefficients: tuple[float, ...]) -> None:
    """Check how many coefficients there are.

    Raises:
        GeometryError: not what the model has.
    """
    if model == "ocam":
        ocam.parts(tuple(coefficients))
        return
    allowed = COEFFICIENTS.get(model)
    if allowed is None:
        raise GeometryError(f"there is no camera model '{model}'; there are {', '.join([*COEFFICIENTS, 'ocam'])}")
    if len(coefficients) not in allowed:
        raise GeometryError(f"{model} has {' or '.join(map(str, allowed))} coefficients, not {len(coefficients)}")


def _checked_points(points_m: NDArray[Any]) -> tuple[Float, Mask]:
    points = np.asarray(points_m, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ShapeError(f"points have shape {points.shape}; expected (N, 3)")
    there = np.isfinite(points)
    finite: Mask = there[:, 0] & there[:, 1] & there[:, 2]  # numpy is slow along an axis of three
    return points if finite.all() else np.where(finite[:, None], points, 0.0), finite


def _angle_to_axis(points: Float) -> Float:
    return np.asarray(np.arctan2(np.hypot(points[:, 0], points[:, 1]), points[:, 2]))


def _widest(angles: Float) -> float:
    return float(angles.max()) if len(angles) else 0.0


__all__ = ["COEFFICIENTS", "Camera", "FieldOfView", "Model", "check_coefficients"]
