"""Estimate the vehicle's motion from LiDAR sweeps alone, for `ego_motion:`.

in:  sweep, a PointCloud in the sensor's frame, with times of its points where it has them.
out: odometry, `odom_from_base_link` at the sweep's stamp, and velocities in `base_link`.

ICP on a local map (`ops/point_map.py`, after KISS-ICP): the motion since the last sweep goes on, deskews
this one and is the first guess; how far it was off sets the next threshold. A sweep that finds too few neighbours keeps
the prediction and says so in `header.degraded`; after a gap in time the map begins anew.
"""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from perception.errors import ShapeError
from perception.geometry.rig import Rig
from perception.geometry.transforms import Transform
from perception.messages import Header, Odometry, PointCloud, host
from perception.ops.point_map import PointMap, Registration, exponential, logarithm, register, thinned
from perception.runtime.node import Node, NodeConfig, NodeSetup, On, Out

FIRST_THRESHOLD_M = 2.0
MIN_MOTION_M = 0.1
"""Deviations below this say nothing about the prediction."""
KEPT_DEVIATIONS = 200
MIN_MATCHED = 0.2
FIRST_SPEEDS_MPS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, -3.0)
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
        seconds = 0.0 if self._last_ns is None else (t_ns - self._last_ns) / 1e9
        points = self._in_base_link(sweep)
        coarse, fine = self._deskewed_and_thinned(sweep, points)
        predicted = self._pose @ exponential(self._twist_per_s * seconds)
        if len(self._map):
            found = self._registered(coarse, predicted, seconds)
            if found.matched < MIN_MATCHED:
                degraded = (*degraded, f"LiDAR odometry: only {found.matched:.0%} of the points were found again")
                pose = predicted
            else:
                pose = found.pose
                self._note_deviation(np.linalg.inv(predicted) @ pose)
            if seconds > 0:
                self._twist_per_s = logarithm(np.linalg.inv(self._pose) @ pose) / seconds
            self._pose = _orthonormal(pose)
        self._map.add(fine @ self._pose[:3, :3].T + self._pose[:3, 3])
        self._map.forget_beyond(self._pose[:3, 3], self.config.range_m)
        self._last_ns = t_ns
        return self._message(sweep.header, degraded)

    def _in_base_link(self, sweep: PointCloud) -> NDArray[np.float64]:
        xyz = host(sweep.xyz_m).astype(np.float64)
        return xyz if self._rig is None else self._rig.base_link_from(sweep.header.frame_id).apply(xyz)

    def _deskewed_and_thinned(
        self, sweep: PointCloud, points: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return points (N, 3) for matching and for the map, moved to the sweep's stamp by the last motion."""
        distance = np.linalg.norm(points, axis=1)
        near = np.isfinite(distance) & (distance > self.config.min_range_m) & (distance < self.config.range_m)
        kept = np.flatnonzero(near)
        if len(kept) < 10:
            raise ShapeError(f"a sweep with {len(kept)} points in range has no motion to tell")
        kept = kept[thinned(points[kept], self.config.cell_m / 2)]
        chosen = points[kept]
        if sweep.t_offset_ns is not None and sweep.deskewed_to_ns is None:
            chosen = _moved_on(chosen, host(sweep.t_offset_ns)[kept].astype(np.float64) / 1e9, self._twist_per_s)
        return chosen[thinned(chosen, 1.5 * self.config.cell_m)], chosen

    def _registered(self, points: NDArray[np.float64], predicted: NDArray[np.float64], seconds: float) -> Registration:
        """Lay a sweep on the map; while no motion is known, from guesses at usual speeds, of which the best counts."""
        sigma = self._threshold()
        if self._deviations or self._twist_per_s.any():
            return register(points, self._map, predicted, 3 * sigma, sigma / 3)
        best: tuple[float, Registration] | None = None
        for speed in FIRST_SPEEDS_MPS:
            guess = predicted @ exponential(np.array([speed * seconds, 0, 0, 0, 0, 0]))
            found = register(points, self._map, guess, 3 * sigma, sigma / 3)
            fit = float((self._map.deviation(points @ found.pose[:3, :3].T + found.pose[:3, 3]) < CLOSE_M).mean())
            if best is None or fit > best[0]:
                best = (fit, found)
        assert best is not None
        return best[1]

    def _threshold(self) -> float:
        """Return how far off predictions were so far, the root mean square."""
        if not self._deviations:
            return FIRST_THRESHOLD_M
        squares = [FIRST_THRESHOLD_M**2, *(deviation**2 for deviation in self._deviations)]
        return float(np.sqrt(np.mean(squares)))

    def _note_deviation(self, off: NDArray[np.float64]) -> None:
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


def _moved_on(
    points: NDArray[np.float64], seconds: NDArray[np.float64], twist_per_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return points (N, 3) measured so many seconds before the stamp (<= 0) as they are seen at the stamp."""
    # A point that stood still at p in the vehicle's frame then is at exp(twist * t) p now, to first order in the turn.
    turn = np.cross(np.broadcast_to(twist_per_s[3:], points.shape), points)
    return points + seconds[:, None] * (twist_per_s[None, :3] + turn)


def _orthonormal(pose: NDArray[np.float64]) -> NDArray[np.float64]:
    left, _, right = np.linalg.svd(pose[:3, :3])
    clean = pose.copy()
    clean[:3, :3] = left @ right
    return clean


__all__ = ["LidarOdometry", "LidarOdometryConfig"]
