"""Which sensor moved, and what the recording cannot tell.

Every measurement compares: the LiDAR with odometry and road, each camera with the LiDAR, the way each camera looks with
odometry, and two cameras with each other. A LiDAR that moved is off against the road and against all cameras, by one
motion; a camera that moved by what it alone shows. So all estimates together are one least squares problem of all
sensors' motions, most of which are zero: sensors are let move one after the other, the one that explains most first, as
long as it explains more than chance does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.bump.camera_overlap import Overlap
from perception.calibrate.bump.estimate import BUMP, PRIOR, Estimate, carried
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]
State: TypeAlias = Literal["ok", "partly", "moved", "unknown"]

AXES = ("roll", "pitch", "yaw", "x", "y", "z")
SHARE = 0.5
"""A motion matters from this share of a bump on, all axes together."""
SIGNIFICANT = 16.0
"""Squared standard deviations that a motion must explain, and by which one sensor must explain more than another."""
SEEN = 36.0
"""The same of a bump along an axis, from which on the axis is observable."""


@dataclass(frozen=True)
class Finding:
    """What the recording says of one sensor.

    Attributes:
        sensor: its name.
        state: `ok`: no bump along any axis; `partly`: none along those that are observable; `moved`; `unknown`: nothing
            is observable.
        moved: (6,) rotation vector, radians, and translation, metres, in the axes of `base_link`.
        deviation: (6,) their standard deviations.
        blind: axes along which a bump is not observable from this recording.
        rivals: sensors of which one may have moved instead.
        reason: why it is unknown.
    """

    sensor: str
    state: State
    moved: Float
    deviation: Float
    blind: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    reason: str = ""

    def text(self) -> str:
        """Return one line."""
        if self.state == "unknown":
            return f"{self.sensor}: unknown: {self.reason}"
        turn, shift = np.degrees(self.moved[:3]), 100 * self.moved[3:]
        said = {"ok": "ok", "moved": "moved", "partly": "no bump seen"}[self.state]
        words = (
            f"{self.sensor}: {said}, turned by {turn[0]:+.2f} {turn[1]:+.2f} {turn[2]:+.2f} degrees (roll pitch "
            f"yaw), displaced by {shift[0]:+.1f} {shift[1]:+.1f} {shift[2]:+.1f} cm (x y z)"
        )
        words += f"; not observable from this recording: {', '.join(self.blind)}" if self.blind else ""
        instead = f"; or it is {' or '.join(self.rivals)}: this recording cannot tell which" if self.rivals else ""
        return words + instead


def judged(
    lidar: tuple[str, Estimate | None], cameras: Mapping[str, Estimate | None], places: Mapping[str, Transform],
    turned: Mapping[str, Estimate] | None = None, overlaps: Mapping[tuple[str, str], Overlap] | None = None,
) -> list[Finding]:  # fmt: skip
    """Return one finding per sensor.

    Args:
        lidar: its name, and what odometry and road say of it.
        cameras: what the LiDAR says of each camera.
        places: base_link_from_<sensor> of the rig, by name.
        turned: what textures and odometry say of a camera, whatever the LiDAR does.
        overlaps: what two cameras that see the same say of each other.
    """
    system = _System.of(lidar, cameras, places, turned or {}).with_overlaps(overlaps or {}, places)
    moving = system.explained()
    found = {name: _finding(system, moving, index) for index, name in enumerate(system.names)}
    nothing = "too little of what the LiDAR measures is in its picture"
    return [found.get(name) or _unknown(name, nothing) for name in (lidar[0], *cameras)]


@dataclass(frozen=True, eq=False)
class _System:
    """Normal equations of the motions of all sensors, six numbers each; the LiDAR is the first."""

    names: tuple[str, ...]
    matrix: Float
    goal: Float
    sharpest: Float
    """(6 S,) of each motion, what the one measurement that tells most of it tells: halves do not make a whole. A sensor
    against all cameras is one: each is a witness of its own."""

    @classmethod
    def of(
        cls, lidar: tuple[str, Estimate | None], cameras: Mapping[str, Estimate | None],
        places: Mapping[str, Transform], turned: Mapping[str, Estimate],
    ) -> _System:  # fmt: skip
        seen = {name: estimate for name, estimate in cameras.items() if estimate is not None}
        names = (lidar[0], *(name for name in cameras if name in seen or name in turned))
        matrix, goal = np.zeros((6 * len(names),) * 2), np.zeros(6 * len(names))
        if lidar[1] is not None:
            matrix[:6, :6], goal[:6] = lidar[1].information, lidar[1].goal
        alone, by_cameras = np.diag(matrix).copy(), np.zeros(len(goal))
        for name, estimate in seen.items():
            relative = _as_the_lidar_sees(names, name, places)
            told = relative.T @ estimate.information @ relative
            matrix += told
            by_cameras += np.diag(told)
            goal += relative.T @ estimate.goal
        sharpest = np.maximum(alone, by_cameras)
        for name, estimate in turned.items():
            at = slice(6 * names.index(name), 6 * names.index(name) + 6)
            matrix[at, at] += estimate.information
            goal[at] += estimate.goal
            sharpest[at] = np.maximum(sharpest[at], np.diag(estimate.information))
        return cls(names, matrix, goal, sharpest)

    def with_overlaps(self, overlaps: Mapping[tuple[str, str], Overlap], places: Mapping[str, Transform]) -> _System:
        """Return the system with what pairs of cameras tell of both, as the LiDAR sees them."""
        matrix, goal, by_pairs = self.matrix.copy(), self.goal.copy(), np.zeros(len(self.goal))
        for pair, told in overlaps.items():
            if set(pair) <= set(self.names):
                relative = np.concatenate([_as_the_lidar_sees(self.names, name, places) for name in pair])
                information = relative.T @ told.information @ relative
                matrix += information
                by_pairs += np.diag(information)
                goal += relative.T @ told.goal
        return _System(self.names, matrix, goal, np.maximum(self.sharpest, by_pairs))

    def motions(self, moving: Sequence[int]) -> tuple[Float, Float, float]:
        """Return the motions (S, 6) of some sensors, their deviations, and how much they explain, the others still."""
        at = np.concatenate([np.arange(6 * index, 6 * index + 6) for index in moving])
        covariance = np.linalg.inv(self.matrix[np.ix_(at, at)] + np.kron(np.eye(len(moving)), PRIOR))
        moved = covariance @ self.goal[at]
        explained = float(self.goal[at] @ moved)
        return moved.reshape(-1, 6), np.sqrt(np.diag(covariance)).reshape(-1, 6), explained

    def explained(self) -> list[int]:
        """Return the sensors that must have moved, the surest first."""
        moving: list[int] = []
        known = 0.0
        while len(moving) < len(self.names):
            gains = {index: self.motions([*moving, index])[2] - known
                     for index in range(len(self.names)) if index not in moving}  # fmt: skip
            best = max(gains, key=lambda index: gains[index])
            if gains[best] < SIGNIFICANT:
                break
            moving.append(best)
            known += gains[best]
        return [index for index in moving if self._needed(moving, index)]

    def _needed(self, moving: Sequence[int], index: int) -> bool:
        others = [other for other in moving if other != index]
        rest = self.motions(others)[2] if others else 0.0
        return self.motions(moving)[2] - rest > SIGNIFICANT

    def rivals(self, moving: Sequence[int], index: int) -> tuple[str, ...]:
        """Return the sensors that may have moved instead of one."""
        known = self.motions(moving)[2]
        swapped = {
            other: [other if one == index else one for one in moving]
            for other in range(len(self.names)) if other not in moving
        }  # fmt: skip
        return tuple(
            self.names[other] for other, instead in swapped.items() if known - self.motions(instead)[2] < SIGNIFICANT
        )

    def seen(self, index: int) -> NDArray[np.bool_]:
        """Return for each axis (6,) whether a bump of this sensor alone would be found."""
        return np.asarray(self.sharpest[6 * index : 6 * index + 6] * BUMP**2 > SEEN)


def _finding(system: _System, moving: Sequence[int], index: int) -> Finding:
    name = system.names[index]
    blind = tuple(axis for axis, seen in zip(AXES, system.seen(index), strict=True) if not seen)
    together = moving if index in moving else [*moving, index]
    motions, deviations, _ = system.motions(together)
    moved, deviation = motions[together.index(index)], deviations[together.index(index)]
    # of all axes together: where a roll looks like a lift, a bump may be told as a little of both
    matters = bool(np.linalg.norm(moved / (SHARE * BUMP)) > 1.0)
    if index in moving and matters:
        return Finding(name, "moved", moved, deviation, blind, system.rivals(moving, index))
    if len(blind) == len(AXES):
        return _unknown(name, "no direction is observable from this recording")
    return Finding(name, "partly" if blind else "ok", moved, deviation, blind)


def _unknown(name: str, reason: str) -> Finding:
    return Finding(name, "unknown", np.zeros(6), np.full(6, np.inf), AXES, reason=reason)


def _as_the_lidar_sees(names: Sequence[str], camera: str, places: Mapping[str, Transform]) -> Float:
    """Return the matrix (6, 6 S): a camera's motion less what that of the LiDAR, the first, does at its place."""
    out, begin = np.zeros((6, 6 * len(names))), 6 * names.index(camera)
    out[:, begin : begin + 6] = np.eye(6)
    out[:, :6] = -carried(places[camera].translation_m - places[names[0]].translation_m)
    return out


__all__ = ["AXES", "Finding", "judged"]
