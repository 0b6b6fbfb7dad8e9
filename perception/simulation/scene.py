"""A seeded street: a straight road, pavements, buildings, parked and moving cars, trucks, cyclists and pedestrians.

Everything that moves does so at a constant speed along a straight line; the ego vehicle drives along the road and sways
by a sine, so that its pose, and every truth, is exact at every instant. World frame: x along the road, y left, z up,
origin on the road where the ego vehicle starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.geometry.boxes import Boxes
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]

CLASSES = ("road", "sidewalk", "building", "vegetation", "sky", "person", "car", "truck", "bicycle")
"""Semantic classes of the masks; the names are the identities of the model cards."""
ROAD, SIDEWALK, BUILDING, VEGETATION, SKY, PERSON, CAR, TRUCK, BICYCLE = range(len(CLASSES))
OBJECT_CLASSES = ("person", "car", "truck", "bicycle")
"""Classes of the objects whose boxes are truth."""

SIZES_LWH_M = {CAR: (4.4, 1.8, 1.5), TRUCK: (8.5, 2.5, 3.2), PERSON: (0.6, 0.6, 1.75), BICYCLE: (1.8, 0.6, 1.7)}
LANE_M = 3.5
SIDEWALK_FROM_M = 8.0
STREET_M = 400.0


@dataclass(frozen=True)
class Motion:
    """How the ego vehicle drives.

    Attributes:
        speed_mps: along its heading.
        sway_rad: how far its heading swings to each side.
        period_s: of the swing.
    """

    speed_mps: float = 8.0
    sway_rad: float = 0.12
    period_s: float = 6.0

    def yaw_rad(self, t_s: float) -> float:
        return self.sway_rad * math.sin(2 * math.pi * t_s / self.period_s)

    def yaw_rate_radps(self, t_s: float) -> float:
        return self.sway_rad * 2 * math.pi / self.period_s * math.cos(2 * math.pi * t_s / self.period_s)

    def place_m(self, t_s: float) -> tuple[float, float]:
        """Return where the vehicle is; the integral of its velocity, by Simpson's rule on steps of 20 ms or less."""
        steps = max(2, 2 * math.ceil(t_s / 0.04))
        at = np.linspace(0.0, t_s, steps + 1)
        yaw = self.sway_rad * np.sin(2 * math.pi * at / self.period_s)
        weights = np.ones(steps + 1)
        weights[1:-1:2], weights[2:-1:2] = 4, 2
        scale = self.speed_mps * t_s / steps / 3
        return float(scale * (weights * np.cos(yaw)).sum()), float(scale * (weights * np.sin(yaw)).sum())

    def track(self, t_s: float, lags_s: Float) -> tuple[Float, Float]:
        """Return places (L, 3) and yaws (L,) at instants shortly before `t_s`, evenly spaced, the last being `t_s`."""
        x, y = self.place_m(t_s)
        at = np.maximum(t_s + lags_s, 0.0)
        yaw = self.sway_rad * np.sin(2 * math.pi * at / self.period_s)
        velocity = self.speed_mps * np.stack((np.cos(yaw), np.sin(yaw)), axis=1)
        steps = np.diff(at)[:, None] * (velocity[1:] + velocity[:-1]) / 2
        way = np.concatenate((np.zeros((1, 2)), np.cumsum(steps, axis=0)))
        place = np.concatenate((way - way[-1] + (x, y - LANE_M / 2), np.zeros((len(at), 1))), axis=1)
        return place, yaw

    def world_from_base_link(self, t_s: float) -> Transform:
        """Return the pose at an instant, seconds from the start."""
        x, y = self.place_m(t_s)
        return Transform.from_yaw((x, y - LANE_M / 2, 0.0), self.yaw_rad(t_s))


@dataclass(frozen=True)
class Scene:
    """All boxes of the world.

    Attributes:
        center_m: (M, 3) at t = 0.
        velocity_mps: (M, 3).
        size_lwh_m: (M, 3).
        yaw_rad: (M,).
        semantic: (M,) class of `CLASSES`.
        colour: (M, 3) 0 to 1.
        objects: the first so many boxes are objects, with truth; the others are buildings and trees.
        motion: of the ego vehicle.
    """

    center_m: Float
    velocity_mps: Float
    size_lwh_m: Float
    yaw_rad: Float
    semantic: NDArray[np.int64]
    colour: Float
    objects: int
    motion: Motion

    def boxes_at(self, t_s: float) -> Boxes:
        """Return all boxes at an instant, in the world."""
        return Boxes(self.center_m + self.velocity_mps * t_s, self.size_lwh_m, self.yaw_rad)


def make_scene(seed: int, motion: Motion | None = None) -> Scene:
    """Make a street; the same seed gives the same street."""
    random = np.random.default_rng(seed)
    rows: list[tuple[float, float, float, float, int]] = []  # x, y, yaw, speed, class

    for side in (-1.0, 1.0):  # parked cars and some trucks
        x = random.uniform(5, 12)
        while x < STREET_M:
            kind = CAR if random.random() < 0.85 else TRUCK
            if random.random() < 0.7:
                rows.append((x, side * 6.6, 0.0 if side < 0 else math.pi, 0.0, kind))
            x += SIZES_LWH_M[kind][0] + random.uniform(1.2, 9.0)
    oncoming = ((random.uniform(20, STREET_M), random.uniform(6, 12)) for _ in range(14))
    rows += [(x, LANE_M / 2, math.pi, speed, CAR) for x, speed in oncoming]
    ahead = ((gap + random.uniform(0, 6), random.uniform(7, 9)) for gap in (14.0, 38.0, 65.0))
    rows += [(x, -LANE_M / 2 - 0.2, 0.0, speed, CAR) for x, speed in ahead]
    for _ in range(10):
        side = random.choice((-1.0, 1.0))
        rows.append(
            (random.uniform(5, STREET_M / 2), side * 4.9, 0.0 if side < 0 else math.pi, random.uniform(3, 6), BICYCLE)
        )
    for _ in range(30):
        side, way = random.choice((-1.0, 1.0)), random.choice((0.0, math.pi))
        rows.append(
            (random.uniform(3, STREET_M / 2), side * random.uniform(8.6, 10.5), way, random.uniform(0.6, 1.7), PERSON)
        )
    objects = len(rows)
    place = np.array(rows)
    sizes = np.array([SIZES_LWH_M[int(kind)] for kind in place[:, 4]]) * random.uniform(0.92, 1.08, (objects, 3))
    center = np.stack((place[:, 0], place[:, 1], sizes[:, 2] / 2), axis=1)
    heading = np.stack((np.cos(place[:, 2]), np.sin(place[:, 2]), np.zeros(objects)), axis=1)
    colour = random.uniform(0.15, 0.95, (objects, 3))
    still = _still_things(random)
    return Scene(
        center_m=np.concatenate((center, still[0])),
        velocity_mps=np.concatenate((heading * place[:, 3:4], np.zeros_like(still[0]))),
        size_lwh_m=np.concatenate((sizes, still[1])),
        yaw_rad=np.concatenate((place[:, 2], np.zeros(len(still[0])))),
        semantic=np.concatenate((place[:, 4].astype(np.int64), still[2])),
        colour=np.concatenate((colour, still[3])),
        objects=objects,
        motion=motion or Motion(),
    )


def _still_things(random: np.random.Generator) -> tuple[Float, Float, NDArray[np.int64], Float]:
    center, size, semantic, colour = [], [], [], []
    for side in (-1.0, 1.0):
        x = -30.0
        while x < STREET_M + 60:
            length, height, depth = random.uniform(10, 22), random.uniform(6, 18), random.uniform(6, 12)
            center.append((x + length / 2, side * (12.5 + depth / 2), height / 2))
            size.append((length, depth, height))
            semantic.append(BUILDING)
            colour.append(tuple(random.uniform(0.35, 0.75) * np.array([1.0, 0.92, 0.85])))
            x += length + random.uniform(0, 4)
        for x in np.arange(-10, STREET_M, 17.0):
            height = random.uniform(3.5, 6)
            center.append((x + random.uniform(-2, 2), side * 8.4, height / 2))
            size.append((0.35, 0.35, height))
            semantic.append(VEGETATION)
            colour.append((0.2, 0.42, 0.15))
    return np.array(center), np.array(size), np.array(semantic, np.int64), np.array(colour)


__all__ = ["CLASSES", "OBJECT_CLASSES", "Motion", "Scene", "make_scene"]
