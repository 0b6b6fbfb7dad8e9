"""An instant of the world: all parts that a ray can meet, and the objects that they belong to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.geometry.boxes import Boxes
from perception.simulation import skeleton
from perception.simulation.bodies import Humans, bicycles, placed, vehicles
from perception.simulation.classes import BICYCLE, BUS, CAR, PERSON, RIDER, TRUCK
from perception.simulation.motion import Motion
from perception.simulation.parts import Parts, joined
from perception.simulation.street import BLOCK_M, KERB_M, block_of, layout_of
from perception.simulation.traffic import AROUND_M, SIZES_LWH_M, Movers, movers_at

Float: TypeAlias = NDArray[np.float64]

STEP_M = 1.45
"""Way of a pedestrian in one period of the gait, two steps."""
TURN_M = 5.2
"""Way of a bicycle in one turn of the pedals."""


MOST_CROWDS = 8
_crowds: dict[tuple[int, int, float, bytes], Crowd] = {}
"""The newest crowds: made again where they are missing, equal."""


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
        texture_seeds: a number per part that tells its texture from its neighbour's, the same at every instant.
    """

    parts: Parts
    things: Things
    ground: Float
    texture_seeds: NDArray[np.int64]

    @cached_property
    def spheres(self) -> Float:
        """Bounding spheres of the parts."""
        return self.parts.spheres()


def texture_seeds_of(parts: Parts, things: Things) -> NDArray[np.int64]:
    """Return the texture seeds of parts: of objects by their id, of others, which stand, by their place."""
    place = np.rint(parts.rows[:, 1]).astype(np.int64) & 0x3FF
    return np.where(parts.thing >= 0, things.ids[parts.thing], place) if len(things) else place


def street_at(seed: int, motion: Motion, t_s: float) -> Snapshot:
    """Return the street around the ego vehicle at an instant, seconds from the start."""
    ego_x = motion.mean_along_m(t_s)
    first = math.floor((ego_x - AROUND_M / 2) / BLOCK_M)
    movers = movers_at(seed, t_s, ego_x, motion.speed_mps)
    key = (seed, first, motion.speed_mps, movers.ids.tobytes())
    crowd = _crowds.get(key)
    if crowd is None:
        crowd = _crowds[key] = Crowd(seed, first, movers)
        if len(_crowds) > MOST_CROWDS:
            _crowds.pop(next(iter(_crowds)), None)
    return crowd.at(movers, t_s)


class Crowd:
    """The blocks and road users that are around for a while: all that does not change from instant to instant."""

    def __init__(self, seed: int, first_block: int, movers: Movers) -> None:
        blocks = [block_of(seed, number) for number in range(first_block, first_block + int(AROUND_M / BLOCK_M) + 2)]
        standing = [block.standing for block in blocks]
        self._still = np.concatenate([one.place for one in standing])
        count = len(self._still)
        kind = np.concatenate((self._still[:, 3].astype(np.int64), movers.kind))
        size = np.concatenate((*(one.size_lwh_m for one in standing), movers.size_lwh_m))
        colour = np.concatenate((*(one.colour for one in standing), movers.colour))
        velocity = np.concatenate((np.zeros((count, 3)), movers.velocity_mps))
        self._floor = np.where(kind == PERSON, KERB_M, 0.0)
        ids = np.concatenate((*(one.ids for one in standing), movers.ids))
        yaw = np.concatenate((self._still[:, 2], movers.yaw_rad))
        self._things = Things(ids, kind, np.zeros((len(ids), 3)), size, yaw, velocity)
        self._ground = layout_of(seed).ground
        groups = [
            vehicles(one, size[at], colour[at], at, velocity[at])
            for one in (CAR, TRUCK, BUS)
            if len(at := np.flatnonzero(kind == one))
        ]
        self._walkers, self._riders = np.flatnonzero(kind == PERSON), np.flatnonzero(kind == BICYCLE)
        at = self._riders
        self._rigid = joined(*groups, bicycles(colour[at][:, ::-1], at, velocity[at]))
        self._cyclists = Humans(np.full(len(at), 0.97), colour[at], colour[at] * 0.3, RIDER, at, velocity[at])
        at = self._walkers
        scale = size[at, 2] / SIZES_LWH_M[PERSON][2]
        self._people = Humans(scale, colour[at], colour[at][:, ::-1] * 0.5, PERSON, at, velocity[at])
        self._static = joined(*(block.parts for block in blocks))
        self._all = joined(self._static, self._rigid, self._people.parts, self._cyclists.parts)
        self._texture_seeds = texture_seeds_of(self._all, self._things)

    def at(self, movers: Movers, t_s: float) -> Snapshot:
        """Return the snapshot of an instant, with the movers of that instant."""
        place = np.concatenate((self._still[:, :2], movers.place_m[:, :2]))
        place = np.concatenate((place, self._floor[:, None]), axis=1)
        yaw = self._things.yaw_rad
        way = np.concatenate((np.full(len(self._still), np.nan), movers.way_m))
        people, cyclists = self._people.rows(self._walking(way, t_s)), self._cyclists.rows(self._riding(way))
        rows = np.concatenate(
            (
                self._static.rows, placed(self._rigid.rows, self._rigid.thing, place, yaw),
                placed(people, self._people.parts.thing, place, yaw),
                placed(cyclists, self._cyclists.parts.thing, place, yaw),
            )
        )  # fmt: skip
        center = place + np.array([0.0, 0.0, 0.5]) * self._things.size_lwh_m
        things = replace(self._things, center_m=center)
        return Snapshot(replace(self._all, rows=rows), things, self._ground, self._texture_seeds)

    def _walking(self, way_m: Float, t_s: float) -> skeleton.Body:
        """Return the bodies of people; who has no way stands."""
        way, scale = way_m[self._walkers], self._people.scale
        standing = np.isnan(way)
        walking = skeleton.walk(np.where(standing, 0.0, way) / (STEP_M * scale))
        idle = skeleton.stand(np.asarray(t_s / 4.0 + self._things.ids[self._walkers] * 0.37, np.float64))
        return skeleton.body_of(walking.blended(idle, standing.astype(np.float64)), scale)

    def _riding(self, way_m: Float) -> skeleton.Body:
        """Return the bodies of cyclists, on their saddles."""
        body = skeleton.body_of(skeleton.ride(way_m[self._riders] / TURN_M), self._cyclists.scale)
        seat = np.array([-0.16, 0.0, 0.96]) - body.pelvis_m * (0, 0, 1)
        return replace(body, points_m=body.points_m + seat[:, None])


__all__ = ["Snapshot", "Things", "street_at", "texture_seeds_of"]
