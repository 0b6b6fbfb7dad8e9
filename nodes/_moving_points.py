"""The points of one sweep as they move: the vehicle drives on while they are measured, and so do others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.geometry.transforms import Transform
from perception.messages import Odometry, PointCloud, host
from perception.ops.moving_points import along_poses, at_instant

Float: TypeAlias = NDArray[np.float64]
PoseAt: TypeAlias = Callable[[int], Transform | None]

STILL = np.ascontiguousarray(np.eye(4)[:3])
STEP_NS = 10_000_000
"""Poses are taken so often; between them, points move along straight lines (0.1 mm off at 0.5 rad/s and 50 m)."""


@dataclass
class MovingPoints:
    """Points in `odom`, each as of its own instant.

    Attributes:
        odom_m: (N, 3) where each point was measured; in `base_link` where there is no ego motion.
        t_ns: (N,) when it was measured.
        pose_at: odom_from_base_link at an instant, None where it is not known.
        velocity_mps: (N, 3) over ground, axes of `odom`; zero for what stands still.
    """

    odom_m: Float
    t_ns: NDArray[np.int64]
    pose_at: PoseAt
    velocity_mps: Float = field(init=False)
    _base_link_from_odom: dict[int, Float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.velocity_mps = np.zeros_like(self.odom_m)

    @classmethod
    def measured(cls, base_link_m: Float, t_ns: NDArray[np.int64], pose_at: PoseAt) -> MovingPoints:
        """Make them of points (N, 3) in `base_link`, each at its own instant."""
        if not len(t_ns) or pose_at(int(t_ns.max())) is None:
            return cls(base_link_m, t_ns, lambda _: None)
        first, last = int(t_ns.min()), int(t_ns.max())
        knots = np.arange(first, last + STEP_NS, STEP_NS) if last > first else np.array([first])
        knots[-1] = last
        now = pose_at(last)
        poses = [pose_at(int(knot)) or now for knot in knots]
        return cls(_interpolated(base_link_m, t_ns, knots, [pose for pose in poses if pose is not None]), t_ns, pose_at)

    def of(self, chosen: NDArray[np.int64], velocity_mps: Float) -> MovingPoints:
        """Return some of the points, at velocities of their own."""
        points = MovingPoints(self.odom_m.take(chosen, axis=0), self.t_ns.take(chosen), self.pose_at)
        points.velocity_mps, points._base_link_from_odom = np.ascontiguousarray(velocity_mps), self._base_link_from_odom
        return points

    def base_link_m(self, t_ns: int) -> Float:
        """Return where the points are in `base_link` at an instant."""
        if t_ns not in self._base_link_from_odom:
            pose = self.pose_at(t_ns)
            self._base_link_from_odom[t_ns] = STILL if pose is None else np.ascontiguousarray(pose.inverse().matrix[:3])
        matrix = self._base_link_from_odom[t_ns]
        moved: Float = at_instant(self.odom_m, self.velocity_mps, self.t_ns, t_ns, matrix)
        return moved


def _interpolated(
    points: Float, t_ns: NDArray[np.int64], knots: NDArray[np.int64], poses: Sequence[Transform]
) -> Float:
    if len(knots) == 1:
        return np.asarray(poses[0].apply(points))
    moved: Float = along_poses(points, t_ns, knots, np.stack([pose.matrix[:3] for pose in poses]))
    return moved


def measured_by(
    sweep: PointCloud, kept: NDArray[np.bool_] | slice, base_link_from_lidar: Transform, pose_at: PoseAt
) -> MovingPoints:
    """Return the points of a sweep that are `kept`, each as of its own instant, or of the one that it is deskewed to.

    Args:
        sweep: in the sensor's frame.
        kept: (N,) which of its points.
        base_link_from_lidar: of the sensor.
        pose_at: as of `MovingPoints`.
    """
    xyz = base_link_from_lidar.apply(host(sweep.xyz_m)[kept].astype(np.float64))
    stamp = sweep.header.t_sensor_ns if sweep.deskewed_to_ns is None else sweep.deskewed_to_ns
    times = np.full(len(xyz), stamp, np.int64)
    if sweep.t_offset_ns is not None and sweep.deskewed_to_ns is None:
        times += host(sweep.t_offset_ns)[kept]
    return MovingPoints.measured(xyz, times, pose_at)


def poses(ego: Odometry | None, ego_at: Callable[[int], Odometry | None]) -> PoseAt:
    """Return odom_from_base_link by instant; where `ego_at` does not know, the vehicle goes on as it was at `ego`."""

    def pose_at(t_ns: int) -> Transform | None:
        found = ego_at(t_ns)
        if found is not None:
            return Transform.from_quaternion(found.translation_m, found.rotation_xyzw)
        return None if ego is None else extrapolated(ego, t_ns)

    return pose_at


def extrapolated(ego: Odometry, t_ns: int) -> Transform:
    """Return odom_from_base_link some time before or after an odometry, which goes on as it was."""
    seconds = (t_ns - ego.header.t_sensor_ns) * 1e-9
    if not seconds:  # the usual case, three times for every list of objects
        return Transform.from_quaternion(ego.translation_m, ego.rotation_xyzw)
    turn = np.array(ego.angular_velocity_radps) * seconds
    angle = float(np.linalg.norm(turn))
    axis = turn / angle if angle > 0 else turn
    rotation = (*(axis * np.sin(angle / 2)), np.cos(angle / 2))
    half_way = Transform.from_quaternion((0, 0, 0), (*(axis * np.sin(angle / 4)), np.cos(angle / 4)))
    step = half_way.rotate(np.array(ego.velocity_mps) * seconds)  # the chord of an arc points half way
    return Transform.from_quaternion(ego.translation_m, ego.rotation_xyzw) @ Transform.from_quaternion(step, rotation)


__all__ = ["MovingPoints", "PoseAt", "extrapolated", "measured_by", "poses"]
