"""LiDAR against odometry and road: with the right mounting, still surfaces of two sweeps fall on each other.

While the vehicle drives straight on, a mounting that is turned shifts walls to the side and the road up or down; while
it turns, one that is displaced shifts them, too. Height, roll and pitch are seen at the road, which is z = 0 of
`base_link`. Each point counts at its own instant.

Hand-eye calibration by point to plane, as in Lv et al., "Targetless calibration of LiDAR-IMU system based on
continuous-time batch estimation", IROS 2020, with the trajectory given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.bump.ego_track import EgoTrack
from perception.calibrate.bump.estimate import Estimate, displaced, inflation, motion_between
from perception.calibrate.bump.sweep import Sweep
from perception.calibrate.least_squares import by_motion
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]

VOXEL_M = 1.0
FEWEST_POINTS = 8
FLAT_M = 0.05
"""Deviation from its plane up to which a voxel is a surface."""
WIDE_M = 0.12
GAPS_S = (0.7, 1.5, 2.5)
"""Between the sweeps of a pair: far enough apart that a turned mounting shows, near enough to overlap."""
FARTHEST_M = 40.0
ROBUST_M = 0.06
ROAD_M = 0.25
"""Points so far from z = 0 of `base_link`, near the vehicle, are road."""
ROAD_REACH_M = 15.0
ROUNDS = 10
SETTLED = 0.1
"""Share of what is off for other reasons below which a step changes nothing."""
SETTLED_SCALE = 5e-5
"""The same of the odometry's scale."""
UNKNOWNS = 8
"""The motion of the sensor's place, and two faults of the odometry that would pass for one: scale and drift of yaw."""
LEVEL_M = 0.005
"""What remains between two sweeps for other reasons; over the angle that the vehicle turned, it is a displacement."""
SLOPE_RAD = 0.002
"""How level a road is taken to be, on average."""
YAW_RAD, HEIGHT_M = 1e-3, 3e-3
"""The same of what else may be wrong all the time."""
MOST_SWEEPS = 26
THINNED = 3
"""Every so many points of a sweep are laid on the surfaces of others; surfaces are made of all."""


@dataclass(frozen=True, eq=False)
class _Surfaces:
    """Small planes of one sweep, in odom, and what moves them."""

    keys: NDArray[np.int64]
    middle: Float
    normal: Float
    rotation: Float
    in_base: Float


def lidar_moved(
    sweeps: Sequence[Sweep], base_link_from_lidar: Transform, track: EgoTrack
) -> tuple[Estimate, float] | None:
    """Estimate how far a LiDAR is from its place in the rig, and by what share the ways of the odometry are too short.

    None where too little overlaps.

    Args:
        sweeps: in the order of stamps.
        base_link_from_lidar: of the rig.
        track: the vehicle's motion.
    """
    step = max(1, len(sweeps) // MOST_SWEEPS)
    chosen = [sweep for sweep in sweeps[::step] if track.covers(np.array([sweep.t_ns, sweep.point_t_ns.min()])).all()]
    level = LEVEL_M / max(track.turned_rad(), 1e-3)
    floor = np.array([SLOPE_RAD, SLOPE_RAD, YAW_RAD, level, level, HEIGHT_M])
    pose, longer = base_link_from_lidar, 1.0
    blocks: list[tuple[Float, Float]] = []
    count = 0
    for _ in range(ROUNDS):
        # a scale that is off by half a percent shifts surfaces by more than counts: it is found step by step, too
        blocks, count = _normal_equations(chosen, pose, track.scaled(longer - 1.0))
        if len(blocks) < 3 or count < 500:
            return None
        matrix, goal = sum(m for m, _ in blocks), sum(g for _, g in blocks)
        change = np.asarray(np.linalg.solve(matrix + 1e-6 * np.eye(UNKNOWNS), goal), np.float64)
        pose, longer = displaced(pose, change[:6]), longer * (1.0 + float(change[6]))
        if (np.abs(change[:6]) < SETTLED * floor).all() and abs(change[6]) < SETTLED_SCALE:
            break
    together = np.sum([m for m, _ in blocks], axis=0)
    covariance = inflation(blocks) * np.linalg.inv(together + 1e-6 * np.eye(UNKNOWNS))[:6, :6] + np.diag(floor**2)
    information = np.asarray(np.linalg.inv(covariance), np.float64)
    moved = motion_between(base_link_from_lidar, pose)
    return Estimate(information, information @ moved, count), longer - 1.0


def _normal_equations(
    sweeps: Sequence[Sweep], pose: Transform, track: EgoTrack
) -> tuple[list[tuple[Float, Float]], int]:
    """Return one block of normal equations per sweep, about the motion of the sensor's place, and all points."""
    blocks, count = [], 0
    surfaces: dict[int, _Surfaces] = {}
    stamps = np.array([sweep.t_ns for sweep in sweeps])
    for sweep in sweeps:
        base, odom, rotation = _placed(sweep, pose, track, THINNED)
        matrix, goal, used = _road(base, pose)
        for gap_s in GAPS_S:
            other = int(np.abs(stamps - (sweep.t_ns - gap_s * 1e9)).argmin())
            if abs(stamps[other] - (sweep.t_ns - gap_s * 1e9)) > 0.3e9:
                continue
            if other not in surfaces:
                surfaces[other] = _surfaces(sweeps[other], pose, track)
            steps = (track.at(sweep.t_ns).translation_m, track.at(int(stamps[other])).translation_m, gap_s)
            m, g, n = _pair(base, odom, rotation, surfaces[other], pose, steps)
            matrix, goal, used = matrix + m, goal + g, used + n
        blocks.append((matrix, goal))
        count += used
    return blocks, count


def _placed(sweep: Sweep, pose: Transform, track: EgoTrack, every: int = 1) -> tuple[Float, Float, Float]:
    near = np.flatnonzero(np.linalg.norm(sweep.xyz_m, axis=1) < FARTHEST_M)[::every]
    base = pose.apply(sweep.xyz_m[near])
    rotation, translation = track.rotations_and_translations(sweep.point_t_ns[near])
    return base, np.einsum("nij,nj->ni", rotation, base) + translation, rotation


def _keys(points: Float) -> NDArray[np.int64]:
    cells = np.floor(points / VOXEL_M).astype(np.int64) + (1 << 19)
    return np.asarray((cells[:, 0] << 40) | (cells[:, 1] << 20) | cells[:, 2])


def _surfaces(sweep: Sweep, pose: Transform, track: EgoTrack) -> _Surfaces:
    base, odom, rotation = _placed(sweep, pose, track)
    keys, inverse, counts = np.unique(_keys(odom), return_inverse=True, return_counts=True)

    def mean(values: Float) -> Float:
        flat = values.reshape(len(values), -1)
        sums = np.stack([np.bincount(inverse, column, len(keys)) for column in flat.T], axis=1)
        return np.asarray((sums / counts[:, None]).reshape(len(keys), *values.shape[1:]))

    middle = mean(odom)
    apart = odom - middle[inverse]
    spread = mean(apart[:, :, None] * apart[:, None, :])
    sizes, axes = np.linalg.eigh(spread)
    deviations = np.sqrt(np.maximum(sizes, 0))
    kept = (counts >= FEWEST_POINTS) & (deviations[:, 0] < FLAT_M) & (deviations[:, 1] > WIDE_M)
    return _Surfaces(keys[kept], middle[kept], axes[kept, :, 0], mean(rotation)[kept], mean(base)[kept])


def _pair(
    base: Float, odom: Float, rotation: Float, to: _Surfaces, pose: Transform, steps: tuple[Float, Float, float]
) -> tuple[Float, Float, int]:
    """Return the normal equations of one sweep's points against the surfaces of another.

    `steps` are the places of the vehicle at both, and the seconds between them.
    """
    if not len(to.keys):
        return np.zeros((UNKNOWNS, UNKNOWNS)), np.zeros(UNKNOWNS), 0
    keys = _keys(odom)
    at = np.minimum(np.searchsorted(to.keys, keys), len(to.keys) - 1)
    met = to.keys[at] == keys
    at = at[met]
    normal = to.normal[at]
    error = ((odom[met] - to.middle[at]) * normal).sum(axis=1)
    place = pose.translation_m
    here = np.einsum("ni,nij->nj", normal, rotation[met])
    there = np.einsum("ni,nij->nj", normal, to.rotation[at])
    derivative = _by_place(here, base[met] - place) - _by_place(there, to.in_base[at] - place)
    now, then, gap_s = steps
    scale = normal @ (now - then)
    drift = (normal * np.cross((0.0, 0.0, 1.0), odom[met] - then)).sum(axis=1) * gap_s
    derivative = np.column_stack((derivative, scale, drift))
    close = np.abs(error) < 0.4
    return _weighted(derivative[close], error[close])


def _by_place(normal: Float, arm: Float) -> Float:
    """Return the derivative (N, 6) of normal times a point by a motion about the sensor's place."""
    return np.asarray((normal[:, None, :] @ by_motion(arm))[:, 0])


def _road(base: Float, pose: Transform) -> tuple[Float, Float, int]:
    near = (np.abs(base[:, 2]) < ROAD_M) & (np.hypot(base[:, 0], base[:, 1]) < ROAD_REACH_M)
    arm = base[near] - pose.translation_m
    up = np.broadcast_to(np.array([0.0, 0.0, 1.0]), arm.shape)
    return _weighted(np.column_stack((_by_place(up, arm), np.zeros((len(arm), 2)))), base[near, 2])


def _weighted(derivative: Float, error: Float) -> tuple[Float, Float, int]:
    weight = 1.0 / (1.0 + (error / ROBUST_M) ** 2)
    weighted = derivative * weight[:, None]
    return derivative.T @ weighted, -weighted.T @ error, len(error)


__all__ = ["lidar_moved"]
