"""Rigid transforms, named `a_from_b`: they take points of frame b and give them in frame a.

Chains read by matching neighbours: `camera_from_lidar = camera_from_base_link @ base_link_from_lidar`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception.errors import GeometryError

Vector: TypeAlias = NDArray[np.float64]

ORTHONORMAL_TOLERANCE = 1e-4
"""How far a rotation of a file may be from orthonormal: files write five to seven digits."""


@dataclass(frozen=True, eq=False)
class Transform:
    """A rotation, then a translation.

    Attributes:
        translation_m: (3,) metres, where b's origin is in a.
        rotation_xyzw: (4,) unit quaternion, w >= 0.
    """

    translation_m: Vector
    rotation_xyzw: Vector

    @classmethod
    def identity(cls) -> Transform:
        return cls(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))

    @classmethod
    def from_quaternion(cls, translation_m: ArrayLike, rotation_xyzw: ArrayLike) -> Transform:
        """Make a transform from numbers of a file.

        Raises:
            GeometryError: wrong counts, numbers that are not finite, or a quaternion that is not of length one.
        """
        translation, rotation = _vector(translation_m, 3, "translation"), _vector(rotation_xyzw, 4, "rotation_xyzw")
        length = _length(rotation)
        if abs(length - 1.0) > 1e-2:
            raise GeometryError(f"rotation_xyzw {rotation.tolist()} has length {length:.4g}; a rotation has length 1")
        rotation = rotation / length
        return cls(translation, -rotation if rotation[3] < 0 else rotation)

    @classmethod
    def from_matrix(cls, matrix: ArrayLike, *, tolerance: float = ORTHONORMAL_TOLERANCE) -> Transform:
        """Make a transform from a 4 x 4 or 3 x 4 matrix; the rotation is made exactly orthonormal.

        Raises:
            GeometryError: wrong shape, not finite, mirrored, or not orthonormal within `tolerance`.
        """
        values = np.asarray(matrix, np.float64)
        if values.shape not in ((4, 4), (3, 4)) or not np.isfinite(values).all():
            raise GeometryError(f"a transform is a finite 4 x 4 or 3 x 4 matrix, not one of shape {values.shape}")
        if values.shape == (4, 4) and not np.allclose(values[3], (0, 0, 0, 1)):
            raise GeometryError(f"the last row of a transform is 0 0 0 1, not {values[3].tolist()}")
        rotation = values[:3, :3]
        if np.linalg.det(rotation) < 0:
            raise GeometryError("the rotation is mirrored (determinant below zero): an axis points the wrong way")
        error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
        if error > tolerance:
            raise GeometryError(f"the rotation is not orthonormal: off by {error:.2g}, allowed {tolerance:.2g}")
        u, _, vt = np.linalg.svd(rotation)
        return cls(values[:3, 3].copy(), quaternion_of(u @ vt))

    @classmethod
    def from_yaw(cls, translation_m: ArrayLike, yaw_rad: float) -> Transform:
        """Make a transform that turns counter-clockwise about z."""
        half = yaw_rad / 2
        return cls.from_quaternion(translation_m, (0.0, 0.0, np.sin(half), np.cos(half)))

    @cached_property
    def rotation(self) -> Vector:
        """(3, 3) rotation matrix."""
        return rotation_of(self.rotation_xyzw)

    @cached_property
    def matrix(self) -> Vector:
        """(4, 4) homogeneous matrix."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.rotation, self.translation_m
        return matrix

    def apply(self, points: NDArray[Any]) -> NDArray[Any]:
        """Move points (..., 3); float32 stays float32."""
        kind = points.dtype if points.dtype in (np.float32, np.float64) else np.dtype(np.float64)
        moved: NDArray[Any] = points @ self.rotation.T.astype(kind) + self.translation_m.astype(kind)
        return moved

    def rotate(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Turn directions or velocities (..., 3) without moving them."""
        kind = vectors.dtype if vectors.dtype in (np.float32, np.float64) else np.dtype(np.float64)
        turned: NDArray[Any] = vectors @ self.rotation.T.astype(kind)
        return turned

    def inverse(self) -> Transform:
        rotation = self.rotation.T
        conjugate = self.rotation_xyzw * np.array([-1.0, -1.0, -1.0, 1.0])
        return Transform(-rotation @ self.translation_m, conjugate)

    def __matmul__(self, other: Transform) -> Transform:
        rotation = quaternion_product(self.rotation_xyzw, other.rotation_xyzw)
        rotation = rotation / _length(rotation)
        translation = self.rotation @ other.translation_m + self.translation_m
        return Transform(translation, -rotation if rotation[3] < 0 else rotation)

    def yaw_rad(self) -> float:
        """Angle of b's x axis about a's z axis, counter-clockwise from a's x axis."""
        return float(np.arctan2(self.rotation[1, 0], self.rotation[0, 0]))

    def angle_rad(self) -> float:
        """How far the rotation turns, 0 to pi."""
        x, y, z, w = self.rotation_xyzw
        return float(2 * np.arctan2(np.sqrt(x * x + y * y + z * z), abs(w)))

    def interpolated(self, other: Transform, fraction: float) -> Transform:
        """Return the transform on the way to `other`: straight line and slerp (Shoemake, SIGGRAPH 1985)."""
        translation = (1 - fraction) * self.translation_m + fraction * other.translation_m
        return Transform(translation, slerp(self.rotation_xyzw, other.rotation_xyzw, fraction))


def quaternion_product(a: Vector, b: Vector) -> Vector:
    """Hamilton product of x, y, z, w quaternions: first b, then a."""
    ax, ay, az, aw = a.tolist()  # Python's numbers take a third of the time of numpy's one by one
    bx, by, bz, bw = b.tolist()
    return np.array(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ]
    )


def rotation_of(quaternion: Vector) -> Vector:
    """(3, 3) rotation matrix of a unit quaternion x, y, z, w."""
    x, y, z, w = quaternion.tolist()
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_of(rotation: Vector) -> Vector:
    """Unit quaternion x, y, z, w with w >= 0 of a rotation matrix.

    Source: Bar-Itzhack, "New method for extracting the quaternion from a rotation matrix", J. Guidance 2000: the
    eigenvector of the largest eigenvalue, which is well conditioned for every rotation.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    k = np.array(
        [
            [xx - yy - zz, yx + xy, zx + xz, zy - yz],
            [yx + xy, yy - xx - zz, zy + yz, xz - zx],
            [zx + xz, zy + yz, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    quaternion: Vector = np.linalg.eigh(k)[1][:, 3]
    return -quaternion if quaternion[3] < 0 else quaternion


def slerp(a: Vector, b: Vector, fraction: float) -> Vector:
    """Spherical interpolation of unit quaternions on the shorter way."""
    cosine = float(np.dot(a, b))
    if cosine < 0:
        b, cosine = -b, -cosine
    if cosine > 0.9995:  # nearly parallel: the straight line is exact to rounding
        mixed: Vector = a + fraction * (b - a)
    else:
        angle = np.arccos(cosine)
        mixed = (np.sin((1 - fraction) * angle) * a + np.sin(fraction * angle) * b) / np.sin(angle)
    return mixed / np.linalg.norm(mixed)


def _length(vector: Vector) -> float:
    return math.sqrt(vector.dot(vector))


def _vector(values: ArrayLike | Sequence[float], count: int, name: str) -> Vector:
    vector = np.array(values, np.float64)
    if vector.shape != (count,) or not np.isfinite(vector).all():
        raise GeometryError(f"{name} is {count} finite numbers, not {np.asarray(values).tolist()}")
    return vector


__all__ = ["Transform", "quaternion_of", "quaternion_product", "rotation_of", "slerp"]
