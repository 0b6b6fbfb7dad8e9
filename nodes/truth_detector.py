"""Give the simulator's true objects as detections: a perfect detector, or one that is wrong by a known amount.

in:  objects, the simulator's `truth/objects`.
out: detections, what the sensor sees of them, in `base_link` with the stamp of the sweep.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from perception.messages import Detections3D, FusedObject, TrackedObjects, derived
from perception.runtime.node import Node, NodeConfig, On, Out


class TruthDetectorConfig(NodeConfig):
    """Settings of the detector."""

    classes: tuple[str, ...] = ("car", "truck", "bus", "person", "bicycle")
    """Classes that it knows; objects of others are left out."""
    min_points: Annotated[int, Field(ge=0)] = 5
    """Returns of the sweep that an object must have."""
    min_visibility: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the object that nothing hides."""
    position_noise_m: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of a made-up error of the centre."""
    missed_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the objects that are left out by chance."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of noise and chance; with the stamp it decides them."""


class TruthDetector(Node):
    """Stands in for `lidar_detector` or `fusion_detector`."""

    Config = TruthDetectorConfig
    objects = On[TrackedObjects]()
    detections = Out[Detections3D]()

    def __init__(self, config: TruthDetectorConfig | None = None) -> None:
        super().__init__(config or TruthDetectorConfig())

    def on_objects(self, objects: TrackedObjects) -> Detections3D:
        config = self.config
        random = np.random.default_rng((config.seed, objects.header.t_sensor_ns & 0x7FFFFFFFFFFFFFFF))
        seen = [thing for thing in objects.objects if self._sees(thing)]
        kept = random.random(len(seen)) >= config.missed_share
        seen = [thing for thing, keep in zip(seen, kept, strict=True) if keep]
        count = len(seen)
        center = np.array([thing.center_m for thing in seen]).reshape(count, 3)
        center = center + config.position_noise_m * random.standard_normal((count, 3))
        turn = np.array([thing.rotation_xyzw for thing in seen]).reshape(count, 4)
        speed = np.array([thing.velocity_mps or (0.0, 0.0, 0.0) for thing in seen]).reshape(count, 3)
        return Detections3D(
            header=derived(objects.header),
            classes=config.classes,
            center_m=center.astype(np.float32),
            size_lwh_m=np.array([thing.size_lwh_m for thing in seen], np.float32).reshape(count, 3),
            yaw_rad=(2 * np.arctan2(turn[:, 2], turn[:, 3])).astype(np.float32),
            score=np.ones(count, np.float32),
            label=np.array([config.classes.index(thing.classes[0].label) for thing in seen], np.uint16),
            velocity_mps=speed[:, :2].astype(np.float32),
        )

    def _sees(self, thing: FusedObject) -> bool:
        config = self.config
        enough = thing.num_points >= config.min_points and (thing.visibility or 0.0) >= config.min_visibility
        return enough and thing.classes[0].label in config.classes
