"""What moves in the street: cars, trucks, buses, cyclists and pedestrians, each along its lane at its own steady speed.

A lane has places at equal gaps. They travel with the lane's speed; one that falls 150 m behind the vehicle comes back
150 m ahead as somebody else, with a new id, beyond what a sensor sees. All of a lane are equally fast: nobody collides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.simulation.classes import BICYCLE, BUS, CAR, PERSON, TRUCK
from perception.simulation.street import KERB_M, LANE_M, Layout, layout_of, paint

Float: TypeAlias = NDArray[np.float64]

AROUND_M = 300.0
"""Length of street that is populated, half of it ahead."""
SIZES_LWH_M = {
    CAR: (4.4, 1.8, 1.5), TRUCK: (8.2, 2.5, 3.2), BUS: (11.5, 2.5, 3.1), BICYCLE: (1.85, 0.75, 1.8),
    PERSON: (1.05, 0.75, 1.78),
}  # fmt: skip
FIRST_ID = 1 + 512 * 64
"""Smaller ids belong to what is parked and stands."""


@dataclass(frozen=True)
class Lane:
    """One stream of road users.

    Attributes:
        kind: what moves there, CAR for all vehicles.
        y_m: its middle.
        speed_mps: along x; negative is towards -x.
        offset_m: (P,) where its places are at time zero, relative to the ego vehicle's mean place.
        first_id: of its places.
    """

    kind: int
    y_m: float
    speed_mps: float
    offset_m: Float
    first_id: int


@dataclass(frozen=True, eq=False)
class Movers:
    """N road users at an instant: ids, classes, places on the ground (N, 3), yaw, velocity (N, 3), size, colour, phase.

    `way_m` is the distance that each has travelled: it drives legs and pedals.
    """

    ids: NDArray[np.int64]
    kind: NDArray[np.int64]
    place_m: Float
    yaw_rad: Float
    velocity_mps: Float
    size_lwh_m: Float
    colour: Float
    way_m: Float


@lru_cache(maxsize=256)
def lanes_of(seed: int, ego_speed_mps: float) -> tuple[Lane, ...]:
    """Return the lanes of a seed's street; the ego vehicle's lane moves with it."""
    random, layout = np.random.default_rng((seed, 3)), layout_of(seed)
    first, lanes = FIRST_ID, []

    def lane(kind: int, y_m: float, speed_mps: float, places: int, jitter_m: float) -> None:
        nonlocal first
        gap = AROUND_M / places
        offset = (np.arange(places) + 0.5) * gap - AROUND_M / 2 + random.uniform(-jitter_m, jitter_m, places)
        lanes.append(Lane(kind, y_m, speed_mps, offset, first))
        first += places

    # An even number of places, so that the ego vehicle is between two of its lane.
    lane(CAR, -LANE_M / 2, ego_speed_mps, 2 * int(random.integers(3, 5)), 2.5)
    lane(CAR, LANE_M / 2, -float(random.uniform(6.0, 11.0)), int(random.integers(7, 12)), 5.0)
    strip = (LANE_M + layout.half_width_m - 2.3) / 2
    for side in (-1.0, 1.0):
        lane(BICYCLE, side * strip, -side * float(random.uniform(3.5, 6.0)), int(random.integers(3, 8)), 9.0)
        for y_m in np.linspace(layout.half_width_m + 1.7, layout.front_m - 0.6, 2):
            for way in (-1.0, 1.0):
                beside = float(random.uniform(-0.2, 0.2)) + 0.25 * way
                lane(PERSON, side * y_m + beside, way * float(random.uniform(0.8, 1.6)), int(random.integers(3, 7)), 18)
    return tuple(lanes)


def movers_at(seed: int, t_s: float, ego_x_m: float, ego_speed_mps: float) -> Movers:
    """Return who is around the ego vehicle at an instant; `ego_x_m` is its mean place then."""
    layout = layout_of(seed)
    found = [_of_lane(seed, layout, lane, t_s, ego_x_m, ego_speed_mps) for lane in lanes_of(seed, ego_speed_mps)]
    names = ("ids", "kind", "place_m", "yaw_rad", "velocity_mps", "size_lwh_m", "colour", "way_m")
    return Movers(*(np.concatenate([getattr(movers, name) for movers in found]) for name in names))


def _of_lane(seed: int, layout: Layout, lane: Lane, t_s: float, ego_x_m: float, ego_speed_mps: float) -> Movers:
    travelled = lane.offset_m + (lane.speed_mps - ego_speed_mps) * t_s + AROUND_M / 2
    rounds = np.floor(travelled / AROUND_M).astype(np.int64)
    x = ego_x_m + travelled - rounds * AROUND_M - AROUND_M / 2
    count = len(x)
    who = [_somebody(seed, lane.first_id + place, int(turn), lane.kind) for place, turn in enumerate(rounds)]
    kind = np.array([one[0] for one in who], np.int64)
    place = np.stack((x, np.full(count, lane.y_m), np.full(count, KERB_M if lane.kind == PERSON else 0.0)), axis=1)
    speed = np.zeros((count, 3))
    speed[:, 0] = lane.speed_mps
    ids = np.array([lane.first_id + place + 1000 * (int(turn) % 30) for place, turn in enumerate(rounds)], np.int64)
    return Movers(
        ids=ids, kind=kind, place_m=place, yaw_rad=np.full(count, 0.0 if lane.speed_mps >= 0 else math.pi),
        velocity_mps=speed, size_lwh_m=np.array([one[1] for one in who]), colour=np.array([one[2] for one in who]),
        way_m=abs(lane.speed_mps) * t_s + np.array([one[3] for one in who]),
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _somebody(seed: int, place: int, turn: int, kind: int) -> tuple[int, Float, Float, float]:
    """Return class, size, colour and phase (metres) of whoever has a place for one round."""
    random = np.random.default_rng((seed, 4, place, turn + 2**31))
    if kind == CAR:
        kind = int(random.choice((CAR, CAR, CAR, CAR, CAR, TRUCK, BUS)))
    size = np.array(SIZES_LWH_M[kind]) * random.uniform(0.94, 1.06, 3)
    return kind, size, paint(random, 1)[0], float(random.uniform(0.0, 50.0))


__all__ = ["AROUND_M", "SIZES_LWH_M", "Movers", "lanes_of", "movers_at"]
