"""Where the vehicle was at each instant: odometry, interpolated for many points at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import UserError
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]
STANDING_NS = 1 << 62


@dataclass(frozen=True, eq=False)
class EgoTrack:
    """Poses odom_from_base_link over time.

    Attributes:
        t_ns: (P,) rising stamps.
        translation_m: (P, 3).
        rotation_xyzw: (P, 4), neighbours on the same half of the sphere.
    """

    t_ns: NDArray[np.int64]
    translation_m: Float
    rotation_xyzw: Float

    @classmethod
    def of(
        cls, t_ns: Sequence[int], translations: Sequence[Sequence[float]], rotations: Sequence[Sequence[float]]
    ) -> EgoTrack:
        """Make a track. Raises UserError for fewer than two poses."""
        if len(t_ns) < 2:
            raise UserError(f"{len(t_ns)} odometry messages; the check needs the vehicle's motion")
        order = np.argsort(np.array(t_ns))
        turns = np.array(rotations, np.float64)[order]
        turns[1:] *= np.cumprod(np.where((turns[1:] * turns[:-1]).sum(axis=1) < 0, -1.0, 1.0))[:, None]
        return cls(np.array(t_ns, np.int64)[order], np.array(translations, np.float64)[order], turns)

    @classmethod
    def standing(cls) -> EgoTrack:
        """Return the track of a vehicle that never moves."""
        return cls(np.array([0, STANDING_NS]), np.zeros((2, 3)), np.tile((0.0, 0.0, 0.0, 1.0), (2, 1)))

    def scaled(self, share: float) -> EgoTrack:
        """Return the track with every way longer by a share."""
        return EgoTrack(self.t_ns, self.translation_m * (1.0 + share), self.rotation_xyzw)

    def covers(self, t_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """True where the track has poses around an instant."""
        return np.asarray((t_ns >= self.t_ns[0]) & (t_ns <= self.t_ns[-1]))

    def rotations_and_translations(self, t_ns: NDArray[np.int64]) -> tuple[Float, Float]:
        """Return (N, 3, 3) and (N, 3) odom_from_base_link at instants (N,)."""
        after = np.clip(np.searchsorted(self.t_ns, t_ns, side="right"), 1, len(self.t_ns) - 1)
        before = after - 1
        share = ((t_ns - self.t_ns[before]) / (self.t_ns[after] - self.t_ns[before]))[:, None]
        translation = self.translation_m[before] * (1 - share) + self.translation_m[after] * share
        turn = self.rotation_xyzw[before] * (1 - share) + self.rotation_xyzw[after] * share
        turn /= np.linalg.norm(turn, axis=1, keepdims=True)
        x, y, z, w = turn.T
        rows = (
            np.stack((1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)), axis=1),
            np.stack((2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)), axis=1),
            np.stack((2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)), axis=1),
        )
        return np.stack(rows, axis=1), translation

    def at(self, t_ns: int) -> Transform:
        """Return odom_from_base_link at an instant."""
        from perception.calibrate.least_squares import transform_of

        rotation, translation = self.rotations_and_translations(np.array([t_ns]))
        return transform_of(rotation[0], translation[0])

    def apply(self, points_m: Float, t_ns: NDArray[np.int64]) -> Float:
        """Move points (N, 3) of `base_link`, each of its own instant (N,), to odom."""
        rotation, translation = self.rotations_and_translations(t_ns)
        return np.asarray(np.einsum("nij,nj->ni", rotation, points_m) + translation)

    def distance_m(self) -> float:
        """Way that was driven."""
        return float(np.linalg.norm(np.diff(self.translation_m, axis=0), axis=1).sum())

    def turned_rad(self) -> float:
        """Largest difference of headings."""
        rotation, _ = self.rotations_and_translations(self.t_ns)
        heading = np.unwrap(np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]))
        return float(heading.max() - heading.min())


__all__ = ["EgoTrack"]
