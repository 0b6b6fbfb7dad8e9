"""Estimate the vehicle's motion from LiDAR sweeps alone, for `ego_motion:`.

in:  sweep, a PointCloud in the sensor's frame, with times of its points where it has them.
out: odometry, `odom_from_base_link` at the sweep's stamp, and velocities in `base_link`.

ICP on a local map (`ops/point_map.py`, after KISS-ICP): the motion since the last sweep goes on, deskews
this one and is the first guess; how far it was off sets the next threshold. A sweep that finds too few neighbours keeps
the prediction and says so in `header.degraded`; after a gap in time the map begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from perception.errors import ShapeError
from perception.geometry.rig import Rig
from perception.geometry.transforms import Transform
from perception.messages import Header, Odometry, PointCloud, host
from perception.ops.point_map import PointMap, Registration, register, thinned
from perception.ops.rigid_motion import exponential, logarithm
from perception.runtime.node import Node, NodeConfig, NodeSetup, On, Out

Float: TypeAlias = NDArray[np.float64]
FIRST_THRESHOLD_M = 2.0
MIN_MOTION_M = 0.1
"""Deviations below this say nothing about the prediction."""
KEPT_DEVIATIONS = 200
MIN_MATCHED = 0.2
FIRST_SPEEDS_MPS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, -3.0)
FORGET_SHARE = 0.1
"""The map is tidied after so much of its radius."""
ROUGHLY, MOST_ITERATIONS = 15, 100
"""Steps with which each usual speed is tried, and at most of any registration."""
PASSES, FIRST_PASSES = 2, 5
"""A sweep is deskewed by the motion that it shows itself, and laid on the map again; the first two oftener."""
CLOSE_M = 0.2
"""Points so near to the map lie on it, where poses are compared."""


class LidarOdometryConfig(NodeConfig):
    """Settings of the odometry."""

    cell_m: Annotated[float, Field(gt=0)] = 1.0
    """Edge of the map's cells; sweeps are thinned to half of it for the map and 1.5 times for matching."""
    range_m: Annotated[float, Field(gt=1)] = 100.0
    """Points and map beyond it are left out."""
    min_range_m: Annotated[float, Field(ge=0)] = 2.0
    """Points nearer than this are the vehicle's own."""
    gap_ms: Annotated[float, Field(gt=0)] = 1000.0
    """After a longer pause the motion is not known and the map begins anew."""


class LidarOdometry(Node):
    """One LiDAR, no other sensor."""

    Config = LidarOdometryConfig
    sweep = On[PointCloud](keep="all", bound=5)
    odometry = Out[Odometry]()

    @classmethod
    def create(cls, config: LidarOdometryConfig, setup: NodeSetup) -> Self:
        return cls(config, setup.rig)

    def __init__(self, config: LidarOdometryConfig | None = None, rig: Rig | None = None) -> None:
        super().__init__(config or LidarOdometryConfig())
        self._rig = rig
        self.reset("start")

    def reset(self, reason: str) -> None:
        self._map = PointMap(self.config.cell_m)
        self._pose = np.eye(4)
        self._twist_per_s = np.zeros(6)
        self._last_ns: int | None = None
        self._first: _Points | None = None
        self._tidied_m = np.zeros(3)
        self._deviations: list[float] = []

    def on_sweep(self, sweep: PointCloud) -> Odometry:
        """Lay the sweep on the map and add it."""
        t_ns = sweep.header.t_sensor_ns
        degraded: tuple[str, ...] = ()
        if self._last_ns is not None and not 0 < t_ns - self._last_ns <= self.config.gap_ms * 1e6:
            degraded = (f"LiDAR odometry begins anew after {(t_ns - self._last_ns) / 1e9:.1f} s",)
            pose = self._pose
            self.reset("gap")
            self._pose = pose
        points = self._points(sweep)
        if self._last_ns is None:
            self._first = points
        else:
            seconds = (t_ns - self._last_ns) / 1e9
            found = self._began(points, seconds) if self._first is not None else self._laid(points, seconds)
            if found.matched < MIN_MATCHED:
                degraded = (*degraded, f"LiDAR odometry: only {found.matched:.0%} of the points were found again")
            self._pose = _orthonormal(found.pose)
            self._add(points, self._pose)
        self._last_ns = t_ns
        return self._message(sweep.header, degraded)

    def _points(self, sweep: PointCloud) -> _Points:
        """Return the points in range, thinned, in `base_link` as measured."""
        xyz = host(sweep.xyz_m).astype(np.float64)
        points = xyz if self._rig is None else self._rig.base_link_from(sweep.header.frame_id).apply(xyz)
        distance = np.linalg.norm(points, axis=1)
        near = np.isfinite(distance) & (distance > self.config.min_range_m) & (distance < self.config.range_m)
        kept = np.flatnonzero(near)
        if len(kept) < 10:
            raise ShapeError(f"a sweep with {len(kept)} points in range has no motion to tell")
        kept = kept[thinned(points[kept], self.config.cell_m / 2)]
        if sweep.t_offset_ns is None or sweep.deskewed_to_ns is not None:
            return _Points(points[kept], np.zeros(len(kept)))
        return _Points(points[kept], host(sweep.t_offset_ns)[kept].astype(np.float64) / 1e9)

    def _add(self, points: _Points, pose: Float) -> None:
        fine = points.at_stamp(self._twist_per_s)
        self._map.add(fine @ pose[:3, :3].T + pose[:3, 3])
        if np.linalg.norm(pose[:3, 3] - self._tidied_m) > FORGET_SHARE * self.config.range_m:
            self._map.forget_beyond(pose[:3, 3], self.config.range_m)
            self._tidied_m = pose[:3, 3].copy()

    def _laid(self, points: _Points, seconds: float) -> Registration:
        """Lay a sweep on the map, deskewed by the last motion and then once more by the motion that this gives."""
        predicted, sigma = self._pose @ exponential(self._twist_per_s * seconds), self._threshold()
        coarse, guess, information = self._coarse(points), predicted, None
        for _ in range(PASSES):
            deskewed = coarse.at_stamp(self._twist_per_s)
            found = register(deskewed, self._map, guess, 3 * sigma, sigma / 3, information=information)
            if found.matched < MIN_MATCHED:
                return replace(found, pose=predicted)
            guess, information = found.pose, found.information
            self._twist_per_s = logarithm(np.linalg.inv(self._pose) @ guess) / seconds
        self._note_deviation(np.linalg.inv(predicted) @ guess)
        return found

    def _coarse(self, points: _Points) -> _Points:
        """Return fewer points, spread evenly once they are deskewed."""
        kept = thinned(points.at_stamp(self._twist_per_s), 1.5 * self.config.cell_m)
        return _Points(points.xyz_m[kept], points.seconds[kept])

    def _began(self, points: _Points, seconds: float) -> Registration:
        """Lay the second sweep on the first.

        Both are skewed by a motion that only they can tell: usual speeds are tried, and the best of them is refined.
        """
        assert self._first is not None
        best, motion = -1.0, np.zeros(6)
        for speed in FIRST_SPEEDS_MPS:
            self._twist_per_s = np.array([speed, 0, 0, 0, 0, 0])
            found = self._on_first(points, seconds, FIRST_THRESHOLD_M, iterations=ROUGHLY)
            moved = self._coarse(points).at_stamp(self._twist_per_s) @ found.pose[:3, :3].T + found.pose[:3, 3]
            fit = float((self._map.deviation(moved) < CLOSE_M).mean())
            if fit > best:
                best, motion = fit, logarithm(np.linalg.inv(self._pose) @ found.pose) / seconds
        self._twist_per_s = motion
        for number in range(FIRST_PASSES):
            found = self._on_first(points, seconds, FIRST_THRESHOLD_M / 2**number)
            if found.matched < MIN_MATCHED:
                break
            self._twist_per_s = logarithm(np.linalg.inv(self._pose) @ found.pose) / seconds
        self._first = None
        return found

    def _on_first(
        self, points: _Points, seconds: float, threshold_m: float, iterations: int = MOST_ITERATIONS
    ) -> Registration:
        """Lay the second sweep on a map of the first, both deskewed by the motion as it is taken to be."""
        assert self._first is not None
        self._map = PointMap(self.config.cell_m)
        self._add(self._first, self._pose)
        guess = self._pose @ exponential(self._twist_per_s * seconds)
        coarse = self._coarse(points).at_stamp(self._twist_per_s)
        return register(coarse, self._map, guess, 3 * threshold_m, threshold_m / 3, iterations)

    def _threshold(self) -> float:
        """Return how far off predictions were so far, the root mean square."""
        if not self._deviations:
            return FIRST_THRESHOLD_M
        squares = [FIRST_THRESHOLD_M**2, *(deviation**2 for deviation in self._deviations)]
        return float(np.sqrt(np.mean(squares)))

    def _note_deviation(self, off: Float) -> None:
        angle = np.arccos(np.clip((np.trace(off[:3, :3]) - 1) / 2, -1, 1))
        deviation = float(2 * self.config.range_m * np.sin(angle / 2) + np.linalg.norm(off[:3, 3]))
        if deviation > MIN_MOTION_M:
            self._deviations = [*self._deviations, deviation][-KEPT_DEVIATIONS:]

    def _message(self, header: Header, degraded: tuple[str, ...]) -> Odometry:
        pose = Transform.from_matrix(self._pose)
        (x, y, z), (qx, qy, qz, qw) = pose.translation_m.tolist(), pose.rotation_xyzw.tolist()
        vx, vy, vz, wx, wy, wz = self._twist_per_s.tolist()
        reasons = (*header.degraded, *degraded)
        return Odometry(
            header=Header(frame_id="odom", t_sensor_ns=header.t_sensor_ns, clock=header.clock, degraded=reasons),
            translation_m=(x, y, z), rotation_xyzw=(qx, qy, qz, qw),
            velocity_mps=(vx, vy, vz), angular_velocity_radps=(wx, wy, wz),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Points:
    """Points of a sweep (N, 3) in `base_link` as measured, and how many seconds before its stamp (N,), <= 0."""

    xyz_m: Float
    seconds: Float

    def at_stamp(self, twist_per_s: Float) -> Float:
        """Return where they are at the stamp, by a motion."""
        # A point that stood still at p in the vehicle's frame then is at exp(twist * t) p now, to first order.
        turn = np.cross(np.broadcast_to(twist_per_s[3:], self.xyz_m.shape), self.xyz_m)
        return self.xyz_m + self.seconds[:, None] * (twist_per_s[None, :3] + turn)


def _orthonormal(pose: Float) -> NDArray[np.float64]:
    left, _, right = np.linalg.svd(pose[:3, :3])
    clean = pose.copy()
    clean[:3, :3] = left @ right
    return clean


__all__ = ["LidarOdometry", "LidarOdometryConfig"]
