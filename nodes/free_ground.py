"""Say which ground around the vehicle is free, by painted points.

in:  painted, LiDAR points in `base_link` with the class of their pixel.
out: freespace, a polygon around the vehicle on the ground.

A point belongs to free ground where it is painted as something drivable, or, unpainted, where it lies about as high as
the ground; everything else up to the vehicle's height stands in the way, a pavement too.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from pydantic import Field

from perception.messages import FreeSpace, PaintedPoints, host
from perception.ops.free_space import free_polygon
from perception.ops.painting import UNKNOWN
from perception.runtime.node import Node, NodeConfig, On, Out


class FreeGroundConfig(NodeConfig):
    """Settings of the free ground."""

    drivable: tuple[str, ...] = ("road",)
    """Painted classes that a vehicle may drive on."""
    ground_m: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Unpainted points so far above or below `base_link` are of the ground."""
    height_m: Annotated[float, Field(gt=0, le=10)] = 2.5
    """What hangs higher is not in the way."""
    range_m: Annotated[float, Field(gt=0)] = 40.0
    """Nothing is said beyond."""
    sectors: Annotated[int, Field(ge=8, le=3600)] = 180
    """Directions all around."""


class FreeGround(Node):
    """See the module's text."""

    Config = FreeGroundConfig
    painted = On[PaintedPoints]()
    freespace = Out[FreeSpace]()

    def on_painted(self, painted: PaintedPoints) -> FreeSpace:
        xyz, label = np.asarray(host(painted.xyz_m), np.float64), host(painted.label)
        names = [*(name in self.config.drivable for name in painted.classes)]
        drivable = np.zeros(256, np.bool_)
        drivable[: len(names)] = names
        level = np.abs(xyz[:, 2]) <= self.config.ground_m
        ground = np.where(label == UNKNOWN, level, drivable[label])
        blocks = ~ground & (xyz[:, 2] <= self.config.height_m) & (xyz[:, 2] >= -self.config.ground_m)
        polygon = free_polygon(xyz[:, :2], ground, blocks, self.config.range_m, self.config.sectors)
        return FreeSpace(header=msgspec.structs.replace(painted.header, frame_id="base_link"), polygon_m=polygon)


__all__ = ["FreeGround", "FreeGroundConfig"]
