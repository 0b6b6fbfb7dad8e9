"""What moves in the street: cars, trucks, buses, cyclists and pedestrians, each along its lane at its own steady speed.

A lane has places at equal gaps. They travel with the lane's speed; one that falls 150 m behind the vehicle comes back
150 m ahead as somebody else, with a new id, beyond what a sensor sees. All of a lane are equally fast: nobody collides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.simulation.classes import BICYCLE, BUS, CAR, PERSON, TRUCK
from perception.simulation.street import KERB_M, LANE_M, layout_of, paint

Float: TypeAlias = NDArray[np.float64]

AROUND_M = 300.0
"""Length of street that is populated, half of it ahead."""
SIZES_LWH_M = {
    CAR: (4.4, 1.8, 1.5), TRUCK: (8.2, 2.5, 3.2), BUS: (11.5, 2.5, 3.1), BICYCLE: (1.85, 0.75, 1.8),
    PERSON: (1.05, 0.75, 1.78),
}  # fmt: skip
FIRST_ID = 1 + 512 * 64
"""Smaller ids belong to what is parked and stands."""


@dataclass(frozen=True, eq=False)
class Lanes:
    """All streams of road users, place after place.

    Attributes:
        kind: (P,) what moves there, CAR for all vehicles.
        y_m: (P,) middle of the lane.
        speed_mps: (P,) along x; negative is towards -x.
        offset_m: (P,) where the places are at time zero, relative to the ego vehicle's mean place.
    """

    kind: NDArray[np.int64]
    y_m: Float
    speed_mps: Float
    offset_m: Float


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
def lanes_of(seed: int, ego_speed_mps: float) -> Lanes:
    """Return the lanes of a seed's street; the ego vehicle's lane moves with it."""
    random, layout = np.random.default_rng((seed, 3)), layout_of(seed)
    kinds, ys, speeds, offsets = list[int](), list[float](), list[float](), list[float]()

    def lane(kind: int, y_m: float, speed_mps: float, places: int, jitter_m: float) -> None:
        gap = AROUND_M / places
        offset = (np.arange(places) + 0.5) * gap - AROUND_M / 2 + random.uniform(-jitter_m, jitter_m, places)
        kinds.extend([kind] * places)
        ys.extend([y_m] * places)
        speeds.extend([speed_mps] * places)
        offsets.extend(offset.tolist())

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
    return Lanes(np.array(kinds, np.int64), np.array(ys), np.array(speeds), np.array(offsets))


def movers_at(seed: int, t_s: float, ego_x_m: float, ego_speed_mps: float) -> Movers:
    """Return who is around the ego vehicle at an instant; `ego_x_m` is its mean place then."""
    lanes = lanes_of(seed, ego_speed_mps)
    travelled = lanes.offset_m + (lanes.speed_mps - ego_speed_mps) * t_s + AROUND_M / 2
    rounds = np.floor(travelled / AROUND_M).astype(np.int64)
    who = _who(seed, ego_speed_mps, rounds.tobytes())
    place = who.place_m.copy()
    place[:, 0] = ego_x_m + travelled - rounds * AROUND_M - AROUND_M / 2
    return replace(who, place_m=place, way_m=np.abs(lanes.speed_mps) * t_s + who.way_m)


@lru_cache(maxsize=64)
def _who(seed: int, ego_speed_mps: float, rounds: bytes) -> Movers:
    """Return who has the places in these rounds (P,) int64, all at x = 0, with their phases for ways."""
    lanes, turns = lanes_of(seed, ego_speed_mps), np.frombuffer(rounds, np.int64)
    count = len(turns)
    number = FIRST_ID + np.arange(count)
    places = zip(number.tolist(), turns.tolist(), lanes.kind.tolist(), strict=True)
    who = [_somebody(seed, place, turn, kind) for place, turn, kind in places]
    zero = np.zeros(count)
    return Movers(
        ids=number + 1000 * (turns % 30), kind=np.array([one[0] for one in who], np.int64),
        place_m=np.stack((zero, lanes.y_m, np.where(lanes.kind == PERSON, KERB_M, 0.0)), axis=1),
        yaw_rad=np.where(lanes.speed_mps >= 0, 0.0, math.pi),
        velocity_mps=np.stack((lanes.speed_mps, zero, zero), axis=1), size_lwh_m=np.array([one[1] for one in who]),
        colour=np.array([one[2] for one in who]), way_m=np.array([one[3] for one in who]),
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
