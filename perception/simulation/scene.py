"""An instant of the world: all parts that a ray can meet, and the objects that they belong to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.geometry.boxes import Boxes
from perception.simulation import skeleton
from perception.simulation.bodies import bicycles, humans, vehicles
from perception.simulation.classes import BICYCLE, BUS, CAR, PERSON, RIDER, TRUCK
from perception.simulation.motion import Motion
from perception.simulation.parts import Parts, joined
from perception.simulation.street import BLOCK_M, KERB_M, block_of, layout_of
from perception.simulation.traffic import AROUND_M, SIZES_LWH_M, movers_at

Float: TypeAlias = NDArray[np.float64]

STEP_M = 1.45
"""Way of a pedestrian in one period of the gait, two steps."""
TURN_M = 5.2
"""Way of a bicycle in one turn of the pedals."""


@dataclass(frozen=True, eq=False)
class Things:
    """N objects at an instant, in the world.

    Attributes:
        ids: (N,) 1 to 65535.
        kind: (N,) semantic class; a cyclist is BICYCLE.
        center_m, size_lwh_m, yaw_rad: upright boxes.
        velocity_mps: (N, 3).
    """

    ids: NDArray[np.int64]
    kind: NDArray[np.int64]
    center_m: Float
    size_lwh_m: Float
    yaw_rad: Float
    velocity_mps: Float

    @property
    def boxes(self) -> Boxes:
        """The boxes, in the world."""
        return Boxes(self.center_m, self.size_lwh_m, self.yaw_rad)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything at one instant.

    Attributes:
        parts: of the world; `parts.thing` points into `things`.
        things: the objects.
        ground: half width of the road and height of the pavement.
    """

    parts: Parts
    things: Things
    ground: Float

    @cached_property
    def spheres(self) -> Float:
        """Bounding spheres of the parts."""
        return self.parts.spheres()

    @cached_property
    def texture_seeds(self) -> NDArray[np.int64]:
        """A number per part that tells its texture from its neighbour's, and stays the same from instant to instant."""
        own = np.append(self.things.ids, 0)[self.parts.thing]
        place = np.rint(self.parts.rows[:, 1]).astype(np.int64) & 0x3FF
        return np.where(self.parts.thing >= 0, own, place)


def street_at(seed: int, motion: Motion, t_s: float) -> Snapshot:
    """Return the street around the ego vehicle at an instant, seconds from the start."""
    ego_x = motion.mean_along_m(t_s)
    first = math.floor((ego_x - AROUND_M / 2) / BLOCK_M)
    blocks = [block_of(seed, number) for number in range(first, first + int(AROUND_M / BLOCK_M) + 2)]
    standing = [block.standing for block in blocks]
    still = np.concatenate([one.place for one in standing])
    movers = movers_at(seed, t_s, ego_x, motion.speed_mps)
    count, moving = len(still), len(movers.ids)
    kind = np.concatenate((still[:, 3].astype(np.int64), movers.kind))
    place = np.concatenate((still[:, :2], movers.place_m[:, :2]))
    floor = np.where(kind == PERSON, KERB_M, 0.0)
    yaw = np.concatenate((still[:, 2], movers.yaw_rad))
    size = np.concatenate((*(one.size_lwh_m for one in standing), movers.size_lwh_m))
    colour = np.concatenate((*(one.colour for one in standing), movers.colour))
    velocity = np.concatenate((np.zeros((count, 3)), movers.velocity_mps))
    ids = np.concatenate((*(one.ids for one in standing), movers.ids))
    center = np.concatenate((place, (floor + size[:, 2] / 2)[:, None]), axis=1)
    things = Things(ids, kind, center, size, yaw, velocity)
    way = np.concatenate((np.full(count, np.nan), movers.way_m))
    bodies = _bodies(things, colour, way, t_s)
    assert len(things) == count + moving
    return Snapshot(joined(*(block.parts for block in blocks), *bodies), things, layout_of(seed).ground)


def _bodies(things: Things, colour: Float, way_m: Float, t_s: float) -> list[Parts]:
    """Return the parts of all objects; who has no way stands."""
    groups = []
    for kind in (CAR, TRUCK, BUS):
        at = np.flatnonzero(things.kind == kind)
        groups.append(
            vehicles(kind, things.center_m[at], things.size_lwh_m[at], things.yaw_rad[at], colour[at], at,
                     things.velocity_mps[at])
        )  # fmt: skip
    groups.append(_people(things, colour, way_m, t_s))
    groups.append(_cyclists(things, colour, way_m))
    return groups


def _people(things: Things, colour: Float, way_m: Float, t_s: float) -> Parts:
    at = np.flatnonzero(things.kind == PERSON)
    scale = things.size_lwh_m[at, 2] / SIZES_LWH_M[PERSON][2]
    standing = np.isnan(way_m[at])
    walking = skeleton.walk(np.where(standing, 0.0, way_m[at]) / (STEP_M * scale))
    idle = skeleton.stand(np.asarray(t_s / 4.0 + things.ids[at] * 0.37, np.float64))
    body = skeleton.body_of(walking.blended(idle, standing.astype(np.float64)), scale)
    place = things.center_m[at] * (1, 1, 0) + np.array([0.0, 0.0, KERB_M])
    trousers = colour[at][:, ::-1] * 0.5
    return humans(body, place, things.yaw_rad[at], scale, colour[at], trousers, PERSON, at, things.velocity_mps[at])


def _cyclists(things: Things, colour: Float, way_m: Float) -> Parts:
    at = np.flatnonzero(things.kind == BICYCLE)
    scale, yaw = np.full(len(at), 0.97), things.yaw_rad[at]
    body = skeleton.body_of(skeleton.ride(np.nan_to_num(way_m[at]) / TURN_M), scale)
    ground = things.center_m[at] * (1, 1, 0)
    seat = np.stack((-0.16 * np.cos(yaw), -0.16 * np.sin(yaw), 0.96 - body.pelvis_m[:, 2]), axis=1)
    rider = humans(body, ground + seat, yaw, scale, colour[at], colour[at] * 0.3, RIDER, at, things.velocity_mps[at])
    return joined(bicycles(ground, yaw, colour[at][:, ::-1], at, things.velocity_mps[at]), rider)


__all__ = ["Snapshot", "Things", "street_at"]
