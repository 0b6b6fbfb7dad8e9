"""Detect objects in the last LiDAR sweeps together, each point moved to where it is at the last sweep's stamp.

in:  sweep, a cloud in the sensor's frame; points with times of their own are deskewed.
     ego, which moves points and past sweeps; without it the last sweep stands alone as measured, and the header says
     so.
out: detections, boxes in `base_link` with the stamp of the last sweep.

As many sweeps as the model card wants; at the beginning, and after a reset, those that are there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.geometry.transforms import Transform
from perception.messages import Odometry, PointCloud, host
from perception.nodes._moving_points import MovingPoints, measured_by, poses
from perception.nodes.lidar_detector import LidarDetector, finite_points
from perception.ops.moving_points import compile_all
from perception.runtime.node import Lookup

NO_EGO_MOTION = "no ego motion: one sweep alone, as measured"
NEAREST_M = {"dsvt": 1.0, "flatformer": 5.0}
"""Points of past sweeps that were nearer when measured are left out, as in the published pipelines: the vehicle itself
is there. DSVT (nuScenes): in x and in y from the sensor. FlatFormer: from the vehicle's origin."""


@dataclass(frozen=True)
class _Past:
    """A sweep that is kept: its points in `odom`, with the features of the card."""

    t_ns: int
    odom_m: NDArray[np.float64]
    features: NDArray[np.float32]


class LidarSweepsDetector(LidarDetector):
    """One network on several sweeps at a time."""

    ego = Lookup[Odometry](deadline_ms=100)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._past: deque[_Past] = deque(maxlen=max(0, self.card.points.sweeps - 1))

    def warm_up(self) -> None:
        super().warm_up()
        compile_all()

    def reset(self, reason: str) -> None:
        self._past.clear()

    def _cloud(self, sweep: PointCloud, card_from_base_link: Transform) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        now_ns = sweep.header.t_sensor_ns
        ego = self.ego.at(now_ns)
        if ego is None:
            self._past.clear()
            points, adaptations = super()._cloud(sweep, card_from_base_link)
            return points, (*adaptations, NO_EGO_MOTION)
        finite = finite_points(sweep)
        features, adaptations = self._features(sweep, finite)
        moving = self._measured(sweep, finite, ego)
        rows = [np.concatenate((card_from_base_link.apply(moving.base_link_m(now_ns)), features), axis=1)]
        base_link_from_odom = Transform.from_quaternion(ego.translation_m, ego.rotation_xyzw).inverse()
        for number, past in enumerate(self._past, start=1):
            aged = self._aged(past.features, number, (now_ns - past.t_ns) * 1e-9)
            xyz = card_from_base_link.apply(base_link_from_odom.apply(past.odom_m))
            rows.append(np.concatenate((xyz, aged), axis=1))
        if len(rows) < self.card.points.sweeps:
            adaptations = (*adaptations, f"{len(rows)} of {self.card.points.sweeps} sweeps")
        kept = self._far_enough(sweep, finite)
        self._past.appendleft(_Past(now_ns, moving.odom_m[kept], features[kept]))
        return np.concatenate(rows, dtype=np.float32), adaptations

    def _measured(self, sweep: PointCloud, finite: NDArray[np.bool_], ego: Odometry) -> MovingPoints:
        """Return the points in `odom`, each as of its own instant."""
        base_link_from_lidar = self.rig.base_link_from(sweep.header.frame_id)
        return measured_by(sweep, finite, base_link_from_lidar, poses(ego, self.ego.at))

    def _far_enough(self, sweep: PointCloud, finite: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which points, as measured, are kept for the sweeps to come, (N,)."""
        xyz, nearest = host(sweep.xyz_m)[finite], NEAREST_M[self.card.network]
        if self.card.network == "dsvt":
            return np.asarray((np.abs(xyz[:, :2]) >= nearest).any(axis=1))
        from_vehicle = self.rig.base_link_from(sweep.header.frame_id).apply(xyz.astype(np.float64))
        return np.asarray(np.hypot(from_vehicle[:, 0], from_vehicle[:, 1]) > nearest)

    def _aged(self, features: NDArray[np.float32], number: int, lag_s: float) -> NDArray[np.float32]:
        """Return the features of a sweep that is `number` sweeps and `lag_s` seconds old."""
        aged = features.copy()
        for column, feature in enumerate(self.card.points.features):
            if feature.name == "time_lag_s":
                aged[:, column] = lag_s
            elif feature.name == "sweep_index":
                aged[:, column] = -number
        return aged
