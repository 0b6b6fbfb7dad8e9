"""Say where the ground ahead and around is free to drive on.

in:  painted, LiDAR points in `base_link`, each with the class of the pixel that it falls on.
out: freespace, a polygon on the ground plane in `base_link` at the points' stamp.

The polygon spans only what was seen: it ends where road points end, a margin before whatever stands on the ground, and
before ground of another class. A point that no camera sees blocks where it stands above the ground and says nothing
where it lies on it.
"""

from __future__ import annotations

from typing import Annotated, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from perception.messages import FreeSpace, PaintedPoints, derived, host
from perception.ops.free_space import BLOCKED, DRIVABLE, NEITHER, free_ranges, polygon
from perception.ops.painting import UNKNOWN
from perception.runtime.node import Node, NodeConfig, NodeSetup, On, Out

NO_ROAD = "no road is seen: no free space is known"
Metres = Annotated[float, Field(gt=0)]


class FreeSpaceFinderConfig(NodeConfig):
    """Settings of the free space."""

    drivable: tuple[str, ...] = ("road",)
    """Identities of classes that the vehicle may drive on."""
    confidence_min: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Ground whose class is less certain than this says nothing; only where masks come with confidence."""
    ground_tolerance_m: Metres = 0.25
    """Points so far above the ground plane, plus the slope, still lie on the ground."""
    ground_slope: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    """By how much the ground may rise per metre."""
    clearance_m: Metres = 2.5
    """What is higher than this above the ground does not block: signs, bridges."""
    margin_m: Metres = 0.3
    """Kept free around every blocked point."""
    blind_m: Metres = 8.0
    """The ground nearer than this to the LiDAR need not be seen: it looks over it."""
    max_gap_m: Metres = 5.0
    """Between neighbouring points of the road in one direction: the rings of a LiDAR lie apart."""
    max_range_m: Metres = 60.0
    """No farther than this."""
    sectors: Annotated[int, Field(ge=8, le=3600)] = 180
    """Directions around the vehicle."""


class FreeSpaceFinder(Node):
    """See the module's text."""

    Config = FreeSpaceFinderConfig
    painted = On[PaintedPoints](keep="latest")
    freespace = Out[FreeSpace]()

    @classmethod
    def create(cls, config: FreeSpaceFinderConfig, setup: NodeSetup) -> Self:
        lidars = [sensor for sensor in setup.rig.sensors.values() if sensor.kind == "lidar"] if setup.rig else []
        if not lidars or setup.rig is None:
            return cls(config)
        x, y, _ = setup.rig.base_link_from(lidars[0].frame).translation_m
        return cls(config, origin_m=(float(x), float(y)))

    def __init__(self, config: FreeSpaceFinderConfig | None = None, origin_m: tuple[float, float] = (0.0, 0.0)) -> None:
        """`origin_m` is where the rays begin, in `base_link`: the place of the LiDAR."""
        super().__init__(config or FreeSpaceFinderConfig())
        self.origin_m = np.array(origin_m)

    def warm_up(self) -> None:
        self._ranges(np.ones((1, 2)), np.full(1, DRIVABLE, np.uint8))

    def on_painted(self, painted: PaintedPoints) -> FreeSpace:
        points = host(painted.xyz_m).astype(np.float64)
        ranges = self._ranges(points[:, :2] - self.origin_m, self._kinds(painted, points))
        outline = polygon(ranges)
        header = derived(painted.header, frame_id="base_link")
        if not len(outline):
            header = msgspec.structs.replace(header, degraded=(*header.degraded, NO_ROAD))
        return FreeSpace(header=header, polygon_m=(outline + self.origin_m).astype(np.float32))

    def _ranges(self, points_m: NDArray[np.float64], kind: NDArray[np.uint8]) -> NDArray[np.float64]:
        config = self.config
        return free_ranges(
            points_m, kind, sectors=config.sectors, margin_m=config.margin_m, blind_m=config.blind_m,
            max_gap_m=config.max_gap_m, max_range_m=config.max_range_m,
        )  # fmt: skip

    def _kinds(self, painted: PaintedPoints, points: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return (N,) what each point says of the ground below it."""
        config, label = self.config, host(painted.label)
        names = painted.identities or painted.classes
        drivable = np.zeros(256, np.bool_)
        drivable[[index for index, name in enumerate(names) if name in config.drivable]] = True
        reach = np.hypot(*(points[:, :2] - self.origin_m).T)
        height, allowed = points[:, 2], config.ground_tolerance_m + config.ground_slope * reach
        on_ground = np.abs(height) <= allowed
        known = label != UNKNOWN
        if painted.confidence is not None:
            known &= host(painted.confidence) >= 255 * config.confidence_min
        kind = np.full(len(points), NEITHER, np.uint8)
        kind[on_ground & known] = BLOCKED
        kind[on_ground & known & drivable[label]] = DRIVABLE
        kind[(height > allowed) & (height < config.clearance_m)] = BLOCKED
        return kind
