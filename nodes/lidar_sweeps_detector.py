"""Detect objects in the last LiDAR sweeps together, moved to the instant of the last one.

in:  sweep, a cloud in the sensor's frame.
     ego, which moves past sweeps; without it the last sweep stands alone, and the header says so.
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
from perception.nodes.lidar_detector import LidarDetector, finite_points
from perception.runtime.node import Lookup

NO_EGO_MOTION = "no ego motion: one sweep alone"
NEAREST_M = {"dsvt": 1.0, "flatformer": 5.0}
"""Points of past sweeps that are nearer are left out, as in the published pipelines: the vehicle itself is there."""


@dataclass(frozen=True)
class _Past:
    """A sweep that is kept: in `base_link` at its own instant, with the features of the card."""

    t_ns: int
    xyz_m: NDArray[np.float64]
    features: NDArray[np.float32]


class LidarSweepsDetector(LidarDetector):
    """One network on several sweeps at a time."""

    ego = Lookup[Odometry](deadline_ms=100)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._past: deque[_Past] = deque(maxlen=max(0, self.card.points.sweeps - 1))

    def reset(self, reason: str) -> None:
        self._past.clear()

    def _cloud(self, sweep: PointCloud, card_from_base_link: Transform) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        finite, now_ns = finite_points(sweep), sweep.header.t_sensor_ns
        features, adaptations = self._features(sweep, finite)
        xyz = self.rig.base_link_from(sweep.header.frame_id).apply(host(sweep.xyz_m)[finite].astype(np.float64))
        rows = [np.concatenate((card_from_base_link.apply(xyz), features), axis=1, dtype=np.float32)]
        now = self._odom_from_base_link(now_ns)
        for number, past in enumerate(self._past, start=1):
            then = self._odom_from_base_link(past.t_ns)
            if now is None or then is None:
                continue
            moved = (card_from_base_link @ now.inverse() @ then).apply(past.xyz_m)
            kept = np.hypot(*card_from_base_link.inverse().apply(moved)[:, :2].T) >= NEAREST_M[self.card.network]
            aged = self._aged(past.features, number, (now_ns - past.t_ns) * 1e-9)
            rows.append(np.concatenate((moved, aged), axis=1, dtype=np.float32)[kept])
        if now is None:
            adaptations = (*adaptations, NO_EGO_MOTION)
        elif len(rows) < self.card.points.sweeps:
            adaptations = (*adaptations, f"{len(rows)} of {self.card.points.sweeps} sweeps")
        self._past.appendleft(_Past(now_ns, xyz, features))
        return np.concatenate(rows), adaptations

    def _aged(self, features: NDArray[np.float32], number: int, lag_s: float) -> NDArray[np.float32]:
        """Return the features of a sweep that is `number` sweeps and `lag_s` seconds old."""
        aged = features.copy()
        for column, feature in enumerate(self.card.points.features):
            if feature.name == "time_lag_s":
                aged[:, column] = lag_s
            elif feature.name == "sweep_index":
                aged[:, column] = -number
        return aged

    def _odom_from_base_link(self, t_ns: int) -> Transform | None:
        ego = self.ego.at(t_ns)
        return None if ego is None else Transform.from_quaternion(ego.translation_m, ego.rotation_xyzw)
