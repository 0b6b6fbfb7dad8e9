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
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import GeometryError, ShapeError

Model: TypeAlias = Literal["plumb_bob", "rational_polynomial", "kannala_brandt", "ocam", "double_sphere"]
Float: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

COEFFICIENTS: dict[str, tuple[int, ...]] = {
    "plumb_bob": (0, 4, 5), "rational_polynomial": (8,), "kannala_brandt": (4,), "double_sphere": (2,),
}  # fmt: skip
NEAR_M = 0.1


@dataclass(frozen=True)
class Camera:
    """Intrinsics of one camera.

    Attributes:
        focal_px: fx, fy; for `ocam` not used (1, 1).
        center_px: cx, cy.
        coefficients: as the module's text says.
        min_depth_m: points nearer than this along z (for models of less than 180 degrees) are not valid.
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
            inside: also ask that the pixel lies inside the image.

        Returns:
            (N, 2) column u and row v, and (N,) True where they are valid. Others hold finite nonsense.

        Raises:
            ShapeError: not (N, 3).
        """
        points = np.asarray(points_m, np.float64)
        if points.ndim != 2 or points.shape[1] != 3:
            raise ShapeError(f"points have shape {points.shape}; expected (N, 3)")
        finite: Mask = np.asarray(np.isfinite(points).all(axis=1))
        points = np.where(finite[:, None], points, 0.0)
        pixels, valid = _PROJECT[self.model](self, points)
        valid &= finite & np.isfinite(pixels).all(axis=1)
        if self.max_angle_rad is not None:
            valid &= np.arctan2(np.hypot(points[:, 0], points[:, 1]), points[:, 2]) <= self.max_angle_rad
        pixels = np.where(np.isfinite(pixels), pixels, -1.0)
        if inside:
            valid &= self.contains(pixels)
        return pixels, valid

    def unproject(self, pixels: NDArray[Any]) -> tuple[Float, Mask]:
        """Return unit rays (N, 3) in the optical frame through pixels (N, 2), and where the model has one."""
        values = np.asarray(pixels, np.float64)
        if values.ndim != 2 or values.shape[1] != 2:
            raise ShapeError(f"pixels have shape {values.shape}; expected (N, 2)")
        rays, valid = _UNPROJECT[self.model](self, values)
        length = np.linalg.norm(rays, axis=1, keepdims=True)
        valid = valid & np.isfinite(rays).all(axis=1) & (length[:, 0] > 0)
        return np.where(valid[:, None], rays / np.where(length > 0, length, 1.0), 0.0), valid

    def contains(self, pixels: NDArray[Any]) -> Mask:
        """True where a pixel lies on the image, borders of the outer pixels included."""
        u, v = pixels[:, 0], pixels[:, 1]
        inside: Mask = (u >= -0.5) & (u < self.width_px - 0.5) & (v >= -0.5) & (v < self.height_px - 0.5)
        return inside

    def scaled(self, width_px: int, height_px: int) -> Camera:
        """Return the camera of the same picture resized; pixel centres stay centres.

        Raises:
            GeometryError: an `ocam` camera, whose affine part is kept with its size.
        """
        if self.model == "ocam":
            raise GeometryError("an ocam camera cannot be scaled: resize its picture's mask instead")
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
        _ocam_parts(coefficients)
        return
    allowed = COEFFICIENTS.get(model)
    if allowed is None:
        raise GeometryError(f"there is no camera model '{model}'; there are {', '.join([*COEFFICIENTS, 'ocam'])}")
    if len(coefficients) not in allowed:
        raise GeometryError(f"{model} has {' or '.join(map(str, allowed))} coefficients, not {len(coefficients)}")


def _distortion(camera: Camera, x: Float, y: Float) -> tuple[Float, Float]:
    """Brown's distortion of plumb_bob and rational_polynomial on the normalised plane."""
    k = np.zeros(8)
    k[: len(camera.coefficients)] = camera.coefficients
    k1, k2, p1, p2, k3, k4, k5, k6 = k
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def _radius_limit(camera: Camera) -> float:
    """Radius on the normalised plane up to which Brown's radial part grows; beyond it, points fold back into view."""
    radius = np.linspace(0.0, 4.0, 4001)[1:]
    distorted, _ = _distortion(replace(camera, coefficients=_radial_only(camera)), radius, np.zeros_like(radius))
    steps = np.diff(np.concatenate(([0.0], distorted)))
    falling = np.flatnonzero(~(steps > 0))
    return float(radius[falling[0]]) if len(falling) else np.inf


def _radial_only(camera: Camera) -> tuple[float, ...]:
    return tuple(0.0 if index in (2, 3) else value for index, value in enumerate(camera.coefficients))


def _project_brown(camera: Camera, points: Float) -> tuple[Float, Mask]:
    z = points[:, 2]
    front = z > NEAR_M
    depth = np.where(front, z, 1.0)
    x, y = points[:, 0] / depth, points[:, 1] / depth
    if camera.coefficients:
        front &= np.hypot(x, y) < _radius_limit(camera)
        x, y = np.where(front, x, 0.0), np.where(front, y, 0.0)
        x, y = _distortion(camera, x, y)
    return _pixels(camera, x, y), front


def _unproject_brown(camera: Camera, pixels: Float) -> tuple[Float, Mask]:
    """Invert Brown's distortion by Newton's method with a numeric Jacobian."""
    goal_x, goal_y = _normalised(camera, pixels)
    x, y = goal_x.copy(), goal_y.copy()
    if camera.coefficients:
        limit = min(_radius_limit(camera), 1e3)
        step = 1e-6
        for _ in range(20):
            at = np.hypot(x, y)
            shrink = np.where(at > limit, 0.9 * limit / np.where(at > 0, at, 1.0), 1.0)
            x, y = x * shrink, y * shrink
            fx, fy = _distortion(camera, x, y)
            ax, ay = _distortion(camera, x + step, y)
            bx, by = _distortion(camera, x, y + step)
            j11, j21, j12, j22 = (ax - fx) / step, (ay - fy) / step, (bx - fx) / step, (by - fy) / step
            determinant = j11 * j22 - j12 * j21
            determinant = np.where(np.abs(determinant) > 1e-12, determinant, 1e-12)
            dx, dy = goal_x - fx, goal_y - fy
            x, y = x + (j22 * dx - j12 * dy) / determinant, y + (j11 * dy - j21 * dx) / determinant
    fx, fy = _distortion(camera, x, y)
    valid = np.hypot(fx - goal_x, fy - goal_y) < 1e-6
    return np.stack((x, y, np.ones_like(x)), axis=1), valid


def _project_kannala_brandt(camera: Camera, points: Float) -> tuple[Float, Mask]:
    k1, k2, k3, k4 = camera.coefficients
    radius = np.hypot(points[:, 0], points[:, 1])
    angle = np.arctan2(radius, points[:, 2])
    squared = angle * angle
    bent = angle * (1 + squared * (k1 + squared * (k2 + squared * (k3 + squared * k4))))
    scale = np.where(radius > 1e-12, bent / np.where(radius > 1e-12, radius, 1.0), 1.0)
    valid = (angle < _angle_limit(camera)) & (np.linalg.norm(points, axis=1) > 0)
    return _pixels(camera, points[:, 0] * scale, points[:, 1] * scale), valid


def _angle_limit(camera: Camera) -> float:
    """Angle up to which the image radius grows."""
    k1, k2, k3, k4 = camera.coefficients
    angle = np.linspace(0, np.pi, 3142)
    squared = angle * angle
    slope = 1 + squared * (3 * k1 + squared * (5 * k2 + squared * (7 * k3 + squared * 9 * k4)))
    falling = np.flatnonzero(slope <= 0)
    return float(angle[falling[0]]) if len(falling) else np.pi


def _unproject_kannala_brandt(camera: Camera, pixels: Float) -> tuple[Float, Mask]:
    k1, k2, k3, k4 = camera.coefficients
    x, y = _normalised(camera, pixels)
    bent = np.hypot(x, y)
    limit = _angle_limit(camera)
    low, high = np.zeros_like(bent), np.full_like(bent, limit)
    for _ in range(60):  # bisection: monotonic up to the limit, and never leaves it
        middle = (low + high) / 2
        squared = middle * middle
        value = middle * (1 + squared * (k1 + squared * (k2 + squared * (k3 + squared * k4))))
        low, high = np.where(value < bent, middle, low), np.where(value < bent, high, middle)
    angle = (low + high) / 2
    scale = np.where(bent > 1e-12, np.sin(angle) / np.where(bent > 1e-12, bent, 1.0), 1.0)
    return np.stack((x * scale, y * scale, np.cos(angle)), axis=1), angle < limit - 1e-9


def _project_double_sphere(camera: Camera, points: Float) -> tuple[Float, Mask]:
    xi, alpha = camera.coefficients
    x, y, z = points.T
    d1 = np.sqrt(x * x + y * y + z * z)
    d2 = np.sqrt(x * x + y * y + (xi * d1 + z) ** 2)
    w1 = alpha / (1 - alpha) if alpha <= 0.5 else (1 - alpha) / alpha
    w2 = (w1 + xi) / np.sqrt(2 * w1 * xi + xi * xi + 1)
    denominator = alpha * d2 + (1 - alpha) * (xi * d1 + z)
    valid = (z > -w2 * d1) & (denominator > 1e-9) & (d1 > 0)
    denominator = np.where(valid, denominator, 1.0)
    return _pixels(camera, x / denominator, y / denominator), valid


def _unproject_double_sphere(camera: Camera, pixels: Float) -> tuple[Float, Mask]:
    xi, alpha = camera.coefficients
    x, y = _normalised(camera, pixels)
    r2 = x * x + y * y
    under = 1 - (2 * alpha - 1) * r2
    valid = under >= 0
    under = np.where(valid, under, 0.0)
    mz = (1 - alpha * alpha * r2) / (alpha * np.sqrt(under) + 1 - alpha)
    inner = mz * mz + (1 - xi * xi) * r2
    valid &= inner >= 0
    factor = (mz * xi + np.sqrt(np.where(inner >= 0, inner, 0.0))) / (mz * mz + r2)
    return np.stack((factor * x, factor * y, factor * mz - xi), axis=1), valid


def _ocam_parts(coefficients: tuple[float, ...]) -> tuple[tuple[float, float, float], Float, Float]:
    error = GeometryError(
        "ocam has the coefficients c, d, e, the count of a and a, the count of b and b; "
        f"{len(coefficients)} numbers do not fit"
    )
    if len(coefficients) < 7:
        raise error
    count = int(coefficients[3])
    if count < 2 or count != coefficients[3] or len(coefficients) < 6 + count:
        raise error
    inverse_count = int(coefficients[4 + count])
    if inverse_count < 2 or len(coefficients) != 5 + count + inverse_count:
        raise error
    ray = np.array(coefficients[4 : 4 + count])
    return coefficients[:3], ray, np.array(coefficients[5 + count :])  # type: ignore[return-value]


def _project_ocam(camera: Camera, points: Float) -> tuple[Float, Mask]:
    (c, d, e), _, by_angle = _ocam_parts(camera.coefficients)
    x, y, z = points.T
    across = np.hypot(x, y)
    radius = np.polynomial.polynomial.polyval(np.arctan2(-z, across), by_angle)  # OCamCalib's z points backwards
    scale = np.where(across > 1e-12, radius / np.where(across > 1e-12, across, 1.0), 0.0)
    rows, columns = y * scale, x * scale
    v = c * rows + d * columns + camera.center_px[1]
    u = e * rows + columns + camera.center_px[0]
    near_zero = -0.01 * camera.width_px  # the fit may miss the axis by a fraction of a pixel
    return np.stack((u, v), axis=1), (radius >= near_zero) & (np.linalg.norm(points, axis=1) > 0)


def _unproject_ocam(camera: Camera, pixels: Float) -> tuple[Float, Mask]:
    (c, d, e), by_radius, _ = _ocam_parts(camera.coefficients)
    v, u = pixels[:, 1] - camera.center_px[1], pixels[:, 0] - camera.center_px[0]
    determinant = c - d * e
    rows, columns = (v - d * u) / determinant, (c * u - e * v) / determinant
    z = -np.polynomial.polynomial.polyval(np.hypot(rows, columns), by_radius)
    return np.stack((columns, rows, z), axis=1), np.ones(len(pixels), np.bool_)


def _pixels(camera: Camera, x: Float, y: Float) -> Float:
    return np.stack(
        (x * camera.focal_px[0] + camera.center_px[0], y * camera.focal_px[1] + camera.center_px[1]), axis=1
    )


def _normalised(camera: Camera, pixels: Float) -> tuple[Float, Float]:
    return (
        (pixels[:, 0] - camera.center_px[0]) / camera.focal_px[0],
        (pixels[:, 1] - camera.center_px[1]) / camera.focal_px[1],
    )


_PROJECT = {
    "plumb_bob": _project_brown, "rational_polynomial": _project_brown, "kannala_brandt": _project_kannala_brandt,
    "double_sphere": _project_double_sphere, "ocam": _project_ocam,
}  # fmt: skip
_UNPROJECT = {
    "plumb_bob": _unproject_brown, "rational_polynomial": _unproject_brown,
    "kannala_brandt": _unproject_kannala_brandt, "double_sphere": _unproject_double_sphere, "ocam": _unproject_ocam,
}  # fmt: skip

__all__ = ["COEFFICIENTS", "Camera", "Model", "check_coefficients"]
