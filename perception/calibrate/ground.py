"""Height, roll and pitch of a LiDAR from the ground that it sees while it stands or drives on a flat place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.least_squares import transform_of
from perception.errors import UserError
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]

NEAR_M = 0.08
"""Points so far from the plane belong to it."""
STEEPEST_RAD = np.radians(35)
REACH_M = 20.0
TRIES = 300


@dataclass(frozen=True)
class GroundResult:
    """What the ground tells of a LiDAR.

    Attributes:
        base_link_from_lidar: height, roll and pitch; x, y and yaw are those that were given.
        height_m: of the sensor above the ground.
        roll_rad: about the vehicle's x axis.
        pitch_rad: about its y axis.
        rms_m: of the points that belong to the plane.
        share: of the points near the vehicle that belong to it.
        height_std_m: from sweep to sweep.
        tilt_std_rad: the same of roll and pitch together.
        planes: (S, 4) normal and distance of each sweep.
    """

    base_link_from_lidar: Transform
    height_m: float
    roll_rad: float
    pitch_rad: float
    rms_m: float
    share: float
    height_std_m: float
    tilt_std_rad: float
    planes: Float


def calibrate_ground(sweeps: Sequence[Float], yaw_rad: float = 0.0, x_m: float = 0.0, y_m: float = 0.0) -> GroundResult:
    """Calibrate height, roll and pitch.

    Args:
        sweeps: points (N, 3) in the sensor's frame, one array per sweep.
        yaw_rad: of the sensor in the vehicle, counter-clockwise; the ground does not tell it.
        x_m: of the sensor in `base_link`; the ground does not tell it.
        y_m: the same.

    Raises:
        UserError: no sweep, or no ground in them.
    """
    planes, errors, shares = [], [], []
    for index, points in enumerate(sweeps):
        near = points[np.isfinite(points).all(axis=1) & (np.linalg.norm(points, axis=1) < REACH_M)]
        found = _plane(near, np.random.default_rng(index))
        if found is not None:
            planes.append(found[0])
            errors.append(found[1])
            shares.append(len(found[1]) / max(len(near), 1))
    if not planes:
        raise UserError(f"no ground in {len(sweeps)} sweeps; expected a flat place within {REACH_M:g} m of the sensor")
    stacked = np.stack(planes)
    middle = np.median(stacked, axis=0)
    up = middle[:3] / np.linalg.norm(middle[:3])
    height = float(middle[3])
    forward = np.array([np.cos(-yaw_rad), np.sin(-yaw_rad), 0.0])  # the vehicle's x axis, as the sensor's yaw says
    forward = forward - (forward @ up) * up
    forward /= np.linalg.norm(forward)
    rotation = np.stack((forward, np.cross(up, forward), up))
    transform = transform_of(rotation, np.array([x_m, y_m, height]))
    turn = transform.rotation
    tilt = np.arccos(np.clip(stacked[:, :3] @ up, -1, 1))
    return GroundResult(
        transform, height, float(np.arctan2(turn[2, 1], turn[2, 2])), float(-np.arcsin(turn[2, 0])),
        float(np.sqrt((np.concatenate(errors) ** 2).mean())), float(np.median(shares)),
        float(stacked[:, 3].std()), float(np.sqrt((tilt**2).mean())), stacked,
    )  # fmt: skip


def complaints_of_ground(result: GroundResult) -> list[str]:
    """Return what is poor, and what to do; empty is good."""
    said = []
    if result.share < 0.25:
        said.append(f"only {result.share:.0%} of the near points are ground: choose an open, flat place")
    if result.height_std_m > 0.03 or result.tilt_std_rad > np.radians(0.5):
        said.append(
            f"height varies by {result.height_std_m * 100:.1f} cm and tilt by {np.degrees(result.tilt_std_rad):.2f} "
            "degrees between sweeps: drive slowly on a level place, or stand"
        )
    if result.rms_m > 0.05:
        said.append(f"the ground is rough by {result.rms_m * 100:.1f} cm rms: choose asphalt")
    return said


def _plane(points: Float, random: np.random.Generator) -> tuple[Float, Float] | None:
    """Return normal (up) and distance (4,), and the errors of the points on the lowest wide plane (RANSAC)."""
    if len(points) < 50:
        return None
    best, most = None, 0
    for _ in range(TRIES):
        a, b, c = points[random.choice(len(points), 3, replace=False)]
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal)
        if length < 1e-6 or abs(normal[2]) / length < np.cos(STEEPEST_RAD):
            continue
        normal = normal / length * np.sign(normal[2])
        distance = -float(normal @ a)
        if distance <= 0:  # a plane above the sensor is a roof
            continue
        count = int((np.abs(points @ normal + distance) < NEAR_M).sum())
        if count > most:
            best, most = (normal, distance), count
    if best is None or most < 50:
        return None
    normal, distance = best
    for _ in range(3):
        on = points[np.abs(points @ normal + distance) < NEAR_M]
        middle = on.mean(axis=0)
        axis = np.linalg.svd(on - middle, full_matrices=False)[2][2]
        normal = axis * np.sign(axis[2])
        distance = -float(normal @ middle)
    return np.array([*normal, distance]), on @ normal + distance


__all__ = ["GroundResult", "calibrate_ground", "complaints_of_ground"]
