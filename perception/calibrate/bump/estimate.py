"""What a recording tells of a sensor's place, with how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.least_squares import turned
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]

BUMP = np.array([np.radians(1.0)] * 3 + [0.05] * 3)
"""What must not be missed: a turn of a degree, or five centimetres."""
PRIOR_RAD, PRIOR_M = np.radians(5.0), 0.3
"""How far a sensor that was bumped is from where the rig says, before anything is known: it keeps directions in place
of which a recording tells nothing."""
PRIOR = np.diag([PRIOR_RAD**-2] * 3 + [PRIOR_M**-2] * 3)
"""(6, 6) the same as an inverse covariance."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """How far a sensor's frame seems to have moved from where the rig says, in the axes of `base_link`.

    A motion (6,) is a rotation vector, radians, and a translation, metres, of the sensor about its own place; the
    recording's cost of one is `motion @ information @ motion - 2 * goal @ motion`, in squared standard deviations.

    Attributes:
        information: (6, 6) inverse covariance; (almost) zero in directions of which the recording does not tell.
        goal: (6,).
        measurements: how many points or edges stand behind it.
        prior: (6, 6) inverse covariance of the motion before.
    """

    information: Float
    goal: Float
    measurements: int
    prior: Float = field(default_factory=lambda: PRIOR)

    @classmethod
    def at(cls, moved: Float, information: Float, measurements: int, prior: Float = PRIOR) -> Estimate:
        """Return the estimate whose best motion, the prior included, is `moved`."""
        return cls(information, (information + prior) @ moved, measurements, prior)

    @cached_property
    def covariance(self) -> Float:
        """(6, 6) of `moved`, the prior included."""
        return np.asarray(np.linalg.inv(self.information + self.prior))

    @cached_property
    def moved(self) -> Float:
        """(6,) the best motion: true place = rig's place, moved."""
        return np.asarray(self.covariance @ self.goal)

    @cached_property
    def deviation(self) -> Float:
        """(6,) standard deviations; near the prior's where the recording does not tell."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))


def inflation(blocks: Sequence[tuple[Float, Float]], groups: int = 8) -> float:
    """Return by how much the variance is larger than that of measurements that err on their own.

    A thing that is seen a hundred times is wrong a hundred times by the same. So neighbours in time are taken together,
    and how far the parts of the recording disagree tells how many of them count as one.

    Args:
        blocks: normal equations (matrix, goal) near the solution, in the order of time; two and more.
        groups: parts of the recording.
    """
    matrix, goal = np.sum([m for m, _ in blocks], axis=0), np.sum([g for _, g in blocks], axis=0)
    firm = matrix + 1e-9 * np.trace(matrix) * np.eye(len(matrix))
    best = np.linalg.solve(firm, goal)
    parts = np.array_split(np.arange(len(blocks)), min(groups, len(blocks)))
    left = np.stack([np.sum([blocks[i][1] - blocks[i][0] @ best for i in part], axis=0) for part in parts])
    share = float(np.trace(np.linalg.solve(firm, left.T @ left))) / len(matrix)
    return share * len(parts) / (len(parts) - 1)


def displaced(pose: Transform, step: Float) -> Transform:
    """Return a pose turned about its own place, and displaced, in the axes of its parent; `step` (6,)."""
    after = turned(pose, np.array([*step[:3], 0.0, 0.0, 0.0]))
    return Transform(pose.translation_m + step[3:], after.rotation_xyzw)


def motion_between(before: Transform, after: Transform) -> Float:
    """Return the motion (6,) that `displaced` takes from one pose to another."""
    x, y, z, w = (after @ before.inverse()).rotation_xyzw
    size = float(np.sqrt(x * x + y * y + z * z))
    turn = np.zeros(3) if size < 1e-12 else np.array([x, y, z]) / size * 2 * np.arctan2(size, w)
    return np.array([*turn, *(after.translation_m - before.translation_m)])


def carried(arm: Float) -> Float:
    """Return the matrix (6, 6) from the motion of one place to that of another on the same body, `arm` (3,) away."""
    out = np.eye(6)
    x, y, z = arm
    out[3:, :3] = [[0, z, -y], [-z, 0, x], [y, -x, 0]]  # turn x arm
    return out


__all__ = ["BUMP", "PRIOR", "Estimate", "carried", "displaced", "inflation", "motion_between"]
