"""Give the simulator's true objects as tracks for planners.

in:  objects, the simulator's `truth/objects`.
out: objects, those that the sensor has seen, in `base_link`, with their true ids and velocities.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from pydantic import Field

from perception.messages import TrackedObjects, derived
from perception.runtime.node import Node, NodeConfig, On, Out


class TruthTrackerConfig(NodeConfig):
    """Settings of the tracker."""

    min_points: Annotated[int, Field(ge=0)] = 1
    """Returns that an object must once have had; from then on it is listed while it is around."""
    valid_for_ms: Annotated[float, Field(gt=0)] = 500.0
    """How long planners may extrapolate objects."""


class TruthTracker(Node):
    """Stands in for a tracker: what was seen once is known from then on, hidden or not."""

    Config = TruthTrackerConfig
    objects = On[TrackedObjects](keep="all")
    tracks = Out[TrackedObjects]()

    def __init__(self, config: TruthTrackerConfig | None = None) -> None:
        super().__init__(config or TruthTrackerConfig())
        self._first_ns: dict[int, int] = {}
        self._last_ns: dict[int, int] = {}

    def reset(self, reason: str) -> None:
        self._first_ns.clear()
        self._last_ns.clear()

    def on_objects(self, objects: TrackedObjects) -> TrackedObjects:
        t_ns = objects.header.t_sensor_ns
        for thing in objects.objects:
            if thing.num_points >= self.config.min_points:
                self._first_ns.setdefault(thing.id, t_ns)
                self._last_ns[thing.id] = t_ns
        around = {thing.id for thing in objects.objects}
        self._first_ns = {key: value for key, value in self._first_ns.items() if key in around}
        known = tuple(
            msgspec.structs.replace(thing, age_ns=t_ns - self._first_ns[thing.id], last_seen_ns=self._last_ns[thing.id])
            for thing in objects.objects
            if thing.id in self._first_ns
        )
        return msgspec.structs.replace(
            objects, header=derived(objects.header), objects=known,
            valid_until_ns=t_ns + round(self.config.valid_for_ms * 1e6),
        )  # fmt: skip
