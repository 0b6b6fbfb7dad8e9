"""A seeded street without end: road, kerbs, pavements, buildings, trees, poles, signs, and what is parked there.

The street is made in blocks of 40 m; block k of a seed is always the same, so a drive may last as long as it likes.
World frame: x along the street, y left, z up, origin on the road. Vehicles keep to the right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.simulation.classes import (
    BUILDING,
    CAR,
    FENCE,
    PERSON,
    POLE,
    TERRAIN,
    TRAFFIC_LIGHT,
    TRAFFIC_SIGN,
    TRUCK,
    VEGETATION,
    WALL,
)  # fmt: skip
from perception.simulation.parts import (
    BARK,
    BOX,
    BRICK,
    CAPSULE,
    CYLINDER,
    ELLIPSOID,
    FACADE,
    LAMP,
    LEAVES,
    NO_PARTS,
    PLAIN,
    SIGN,
    Parts,
    joined,
    parts,
)  # fmt: skip

Float: TypeAlias = NDArray[np.float64]

BLOCK_M = 40.0
LANE_M = 3.5
KERB_M = 0.12
SIZES_LWH_M = {CAR: (4.4, 1.8, 1.5), TRUCK: (8.2, 2.5, 3.2), PERSON: (0.75, 0.75, 1.75)}


@dataclass(frozen=True)
class Layout:
    """What holds for the whole street of a seed.

    Attributes:
        half_width_m: from the middle of the road to the kerb.
        pavement_m: width of each pavement.
        tree_gap_m: between trees.
        parked_share: of the parking places that are taken.
        green_share: of the plots without a building.
    """

    half_width_m: float
    pavement_m: float
    tree_gap_m: float
    parked_share: float
    green_share: float

    @property
    def front_m(self) -> float:
        """Where plots begin, from the middle of the road."""
        return self.half_width_m + self.pavement_m

    @property
    def ground(self) -> Float:
        """Half width and kerb for the ray caster."""
        return np.array([self.half_width_m, KERB_M])


@dataclass(frozen=True, eq=False)
class Standing:
    """Objects of a block that never move: rows x, y, yaw, class; sizes and colours."""

    place: Float
    size_lwh_m: Float
    colour: Float
    ids: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Block:
    """Forty metres of street."""

    parts: Parts
    standing: Standing


@lru_cache(maxsize=256)
def layout_of(seed: int) -> Layout:
    """Return the street of a seed."""
    random = np.random.default_rng((seed, 1))
    return Layout(
        half_width_m=float(random.uniform(7.6, 9.0)), pavement_m=float(random.uniform(2.8, 5.0)),
        tree_gap_m=float(random.choice((10.0, 13.5, 20.0, 40.0))), parked_share=float(random.uniform(0.35, 0.8)),
        green_share=float(random.uniform(0.0, 0.45)),
    )  # fmt: skip


@lru_cache(maxsize=128)
def block_of(seed: int, number: int) -> Block:
    """Return a block of a seed's street; it begins at x = 40 m times its number."""
    random = np.random.default_rng((seed, 2, number + 2**31))
    layout, begin = layout_of(seed), number * BLOCK_M
    groups = [NO_PARTS]
    for side in (-1.0, 1.0):
        groups += _plots(random, layout, begin, side) + _trees(random, layout, begin, side)
        groups += _furniture(random, layout, begin, side)
    return Block(joined(*groups), _standing(random, layout, begin, number))


def _plots(random: np.random.Generator, layout: Layout, begin: float, side: float) -> list[Parts]:
    groups, x = [], begin
    while x < begin + BLOCK_M - 4.0:
        length = min(random.uniform(9.0, 20.0), begin + BLOCK_M - x)
        middle, front = x + length / 2, side * layout.front_m
        if random.random() < layout.green_share:
            groups += _garden(random, middle, length, front, side)
        else:
            height, depth = random.uniform(6.0, 19.0), random.uniform(8.0, 13.0)
            setback = random.choice((0.0, 0.0, random.uniform(0.5, 3.0)))
            colour = random.uniform(0.25, 0.75) * np.array([1.0, random.uniform(0.75, 1.0), random.uniform(0.55, 0.95)])
            at = (middle, front + side * (setback + depth / 2), height / 2)
            half = (length / 2 - random.choice((0.0, 0.6)), depth / 2, height / 2)
            groups.append(parts(BOX, at, half, (1, 0), colour, BUILDING, random.choice((FACADE, FACADE, BRICK))))
        x += length
    return groups


def _garden(random: np.random.Generator, middle: float, length: float, front: float, side: float) -> list[Parts]:
    """A plot of grass behind a wall, a fence or a hedge, with bushes."""
    green = np.array([0.16, 0.3, 0.08]) * random.uniform(0.7, 1.3)
    groups = [parts(BOX, (middle, front + side * 8.0, 0.1), (length / 2, 8.0, 0.1), (1, 0), green, TERRAIN, LEAVES)]
    kind = random.choice((WALL, FENCE, VEGETATION))
    height = random.uniform(0.9, 1.9)
    colours = {WALL: np.array([0.5, 0.42, 0.36]), FENCE: np.array([0.22, 0.2, 0.18]), VEGETATION: green}
    surface = {WALL: BRICK, FENCE: BARK, VEGETATION: LEAVES}[int(kind)]
    at = (middle, front + side * 0.25, height / 2)
    groups.append(parts(BOX, at, (length / 2, 0.12, height / 2), (1, 0), colours[int(kind)], int(kind), surface))
    count = int(random.integers(1, 4))
    bush = np.stack(
        (random.uniform(middle - length / 2 + 1, middle + length / 2 - 1, count),
         front + side * random.uniform(2.5, 9.0, count), random.uniform(0.6, 1.6, count)), axis=1,
    )  # fmt: skip
    radii = np.stack((random.uniform(0.8, 1.9, count), random.uniform(0.8, 1.9, count), bush[:, 2]), axis=1)
    groups.append(parts(ELLIPSOID, bush, radii, (0, 0), green * random.uniform(0.7, 1.2), VEGETATION, LEAVES))
    return groups


def _trees(random: np.random.Generator, layout: Layout, begin: float, side: float) -> list[Parts]:
    first = math.ceil(begin / layout.tree_gap_m) * layout.tree_gap_m
    x = np.arange(first, begin + BLOCK_M, layout.tree_gap_m)
    x = x[random.random(len(x)) < 0.85] if len(x) else x
    count = len(x)
    y, height = np.full(count, side * (layout.half_width_m + 0.7)), random.uniform(2.2, 3.4, count)
    girth = random.uniform(0.1, 0.22, count)
    zero = np.zeros(count)
    trunk = parts(
        CYLINDER, np.stack((x, y, height / 2), axis=1), np.stack((girth, height / 2 + 0.3, zero), axis=1), (0, 0),
        (0.16, 0.11, 0.08), VEGETATION, BARK,
    )  # fmt: skip
    green = np.array([0.10, 0.22, 0.05]) * random.uniform(0.7, 1.5, (count, 1))
    crowns = []
    for _ in range(2):
        radius = random.uniform(1.1, 1.9, (count, 3)) * (1.0, 1.0, 1.1)
        at = np.stack((x, y, height + radius[:, 2] * 0.85), axis=1) + random.uniform(-0.5, 0.5, (count, 3))
        crowns.append(parts(ELLIPSOID, at, radius, (0, 0), green, VEGETATION, LEAVES))
    return [trunk, *crowns]


def _furniture(random: np.random.Generator, layout: Layout, begin: float, side: float) -> list[Parts]:
    """Lamp posts, and by chance a traffic sign, a traffic light, bollards."""
    edge = side * (layout.half_width_m + 0.45)
    x = begin + 20.0 + 6.0 * side
    grey = (0.22, 0.23, 0.24)
    arm = edge - side * 1.8
    groups = [
        parts(CYLINDER, (x, edge, 3.6), (0.07, 3.6, 0), (0, 0), grey, POLE, PLAIN),
        parts(CAPSULE, (x, edge, 7.1), (x, arm, 7.3), (0.05, 0), grey, POLE, PLAIN),
        parts(BOX, (x, arm, 7.22), (0.18, 0.32, 0.06), (1, 0), (0.9, 0.85, 0.7), POLE, LAMP),
    ]
    if random.random() < 0.6:  # a sign that faces oncoming traffic
        at, high = begin + random.uniform(2.0, 14.0), random.uniform(2.1, 2.6)
        colour = ((0.75, 0.05, 0.06), (0.05, 0.15, 0.6), (0.85, 0.65, 0.05))[int(random.integers(3))]
        groups += [
            parts(CYLINDER, (at, edge, high / 2), (0.035, high / 2, 0), (0, 0), grey, POLE, PLAIN),
            parts(BOX, (at, edge, high + 0.3), (0.02, 0.33, 0.33), (1, 0), colour, TRAFFIC_SIGN, SIGN),
        ]
    if random.random() < 0.3:
        at = begin + 33.0
        groups += [
            parts(CYLINDER, (at, edge, 1.6), (0.06, 1.6, 0), (0, 0), grey, POLE, PLAIN),
            parts(BOX, (at, edge, 2.75), (0.14, 0.17, 0.48), (1, 0), (0.05, 0.06, 0.05), TRAFFIC_LIGHT, LAMP),
        ]
    if random.random() < 0.4:
        place = np.stack((begin + np.arange(6) * 1.6 + 3.0, np.full(6, edge), np.full(6, 0.45)), axis=1)
        groups.append(parts(CYLINDER, place, (0.05, 0.45, 0), (0, 0), (0.15, 0.15, 0.16), POLE, PLAIN))
    return groups


def _standing(random: np.random.Generator, layout: Layout, begin: float, number: int) -> Standing:
    rows: list[tuple[float, float, float, int]] = []
    for side in (-1.0, 1.0):
        x = begin + random.uniform(0.5, 3.0)
        while x < begin + BLOCK_M - 5.0:
            kind = TRUCK if random.random() < 0.1 else CAR
            length = SIZES_LWH_M[kind][0] * 1.08
            if x + length < begin + BLOCK_M and random.random() < layout.parked_share:
                yaw = (0.0 if side < 0 else math.pi) + random.normal(0.0, 0.04)
                y = side * (layout.half_width_m - 0.25 - SIZES_LWH_M[kind][1] * 0.54 - 0.1)
                rows.append((x + length / 2, y, yaw, kind))
            x += length + random.uniform(0.8, 5.0)
        for _ in range(int(random.integers(0, 3))):
            y = side * random.uniform(layout.half_width_m + 1.6, layout.front_m - 0.5)
            rows.append((begin + random.uniform(1, 39), y, random.uniform(-math.pi, math.pi), PERSON))
    count = len(rows)
    place = np.array(rows, np.float64).reshape(count, 4)
    size = np.array([SIZES_LWH_M[int(kind)] for kind in place[:, 3]]).reshape(count, 3)
    size = size * random.uniform(0.93, 1.07, (count, 3))
    ids = 1 + (number % 512) * 64 + np.arange(count)
    return Standing(place, size, paint(random, count), ids)


def paint(random: np.random.Generator, count: int) -> Float:
    """Return colours (count, 3) of vehicles and clothes: many grey, black and white ones, some of every hue."""
    grey = np.repeat(random.choice((0.03, 0.08, 0.25, 0.5, 0.75), (count, 1)), 3, axis=1)
    hue = random.uniform(0.02, 0.7, (count, 3))
    colours: Float = np.where(random.random((count, 1)) < 0.55, grey, hue)
    return colours


__all__ = [
    "BLOCK_M",
    "KERB_M",
    "LANE_M",
    "SIZES_LWH_M",
    "Block",
    "Layout",
    "Standing",
    "block_of",
    "layout_of",
    "paint",
]
