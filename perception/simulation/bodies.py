"""Vehicles, people and cyclists as parts: what a box of the truth looks like from near."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.simulation.classes import BICYCLE, BUS, CAR, TRUCK
from perception.simulation.intersections import jit
from perception.simulation.parts import (
    BODY,
    BOX,
    CAPSULE,
    CLOTH,
    DISC,
    GLASS,
    PLAIN,
    Parts,
    joined,
    parts,
)  # fmt: skip
from perception.simulation.skeleton import CROWN_M, PELVIS, Body

Float: TypeAlias = NDArray[np.float64]

SKIN, SHOE = (0.55, 0.36, 0.27), (0.06, 0.05, 0.05)
TYRE = (0.03, 0.03, 0.03)

# Boxes of a vehicle in shares of its length, width and height: centre (z from the floor), size, surface.
SHAPES: dict[int, tuple[tuple[tuple[float, ...], tuple[float, ...], int], ...]] = {
    CAR: (
        ((0.0, 0.0, 0.41), (1.0, 1.0, 0.46), BODY),
        ((-0.05, 0.0, 0.81), (0.56, 0.9, 0.38), GLASS),
    ),
    TRUCK: (
        ((0.41, 0.0, 0.48), (0.18, 0.94, 0.72), GLASS),
        ((-0.1, 0.0, 0.6), (0.8, 1.0, 0.8), PLAIN),
        ((0.0, 0.0, 0.17), (0.98, 0.9, 0.1), BODY),
    ),
    BUS: (((0.0, 0.0, 0.545), (1.0, 1.0, 0.91), BODY), ((0.0, 0.0, 0.66), (0.96, 1.008, 0.34), GLASS)),
}
WHEEL_M = {CAR: 0.31, TRUCK: 0.48, BUS: 0.48}


def vehicles(kind: int, size_lwh_m: Float, colour: Float, thing: NDArray[np.int64], velocity_mps: Float) -> Parts:
    """Return the parts of N vehicles of a class, each as if it stood at the origin and looked along x."""
    count = len(size_lwh_m)

    def at(share: tuple[float, ...]) -> Float:
        return np.asarray(np.array(share) * size_lwh_m, np.float64)

    groups = []
    for middle, size, surface in SHAPES[kind]:
        look = np.where(surface == GLASS, 0.75, 1.0) * colour
        half = np.array(size) * size_lwh_m / 2
        groups.append(parts(BOX, at(middle), half, (1, 0), look, kind, surface, thing, velocity_mps))
    radius, width = WHEEL_M[kind], WHEEL_M[kind] * 0.55
    corners = [(along, side) for along in (0.3, -0.3) for side in (1.0, -1.0)]
    hub = np.concatenate([at((along, side * 0.5, 0.0)) for along, side in corners]) + np.array([0.0, 0.0, radius])
    inward = np.repeat([(0.0, -side, 0.0) for _, side in corners], count, axis=0)
    things, speed = np.tile(thing, 4), np.tile(velocity_mps, (4, 1))
    inner, outer = hub + inward * (width + 0.1), hub + inward * width
    groups.append(parts(CAPSULE, inner, outer, (width, 0.0), TYRE, kind, PLAIN, things, speed))
    groups.append(parts(DISC, hub + inward * 0.02, (radius, 0.0, 0.0), (1, 0), TYRE, kind, PLAIN, things, speed))
    return joined(*groups)


@dataclass(frozen=True, eq=False)
class Bone:
    """A capsule of a body: each end is a weighted sum (17,) of the joints and the pelvis."""

    first: Float
    second: Float
    radius_m: float
    colour: str
    surface: int = CLOTH
    of_head: bool = False


def _bones() -> tuple[Bone, ...]:
    point = np.eye(PELVIS + 1)
    pelvis, chest, across = point[PELVIS], (point[2] + point[3]) / 2, point[2] - point[3]
    bones = [
        Bone(point[0], point[0] * 1.05 - point[1] * 0.05, CROWN_M, "skin", PLAIN, of_head=True),
        Bone(point[1], point[0], 0.05, "skin", PLAIN, of_head=True),
        Bone(point[8], point[9], 0.1, "trousers"),
    ]
    for side, sign in ((0, 0.25), (1, -0.25)):
        bones.append(Bone(pelvis + sign * across, chest * 0.85 + pelvis * 0.15 + sign * across, 0.115, "clothes"))
        upper, elbow, wrist, hip, knee, ankle, ball = (point[first + side] for first in range(2, 16, 2))
        bones += [
            Bone(upper, elbow, 0.05, "clothes"), Bone(elbow, wrist, 0.04, "sleeve"),
            Bone(wrist, wrist * 1.25 - elbow * 0.25, 0.045, "skin", PLAIN), Bone(hip, knee, 0.075, "trousers"),
            Bone(knee, ankle, 0.055, "trousers"), Bone(ankle, ball, 0.042, "shoe", PLAIN),
        ]  # fmt: skip
    return tuple(bones)


BONES = _bones()


class Humans:
    """N people whose bodies move: what stays is made once.

    Args:
        scale: (N,) of the bodies.
        clothes: (N, 3) colours above the belt; trousers: (N, 3) below.
        semantic: class of the parts.
        thing: (N,) objects that they are.
        velocity_mps: (N, 3).
        with_head: False for cameras that are worn there.
    """

    def __init__(
        self, scale: Float, clothes: Float, trousers: Float, semantic: int, thing: NDArray[np.int64],
        velocity_mps: Float, *, with_head: bool = True,
    ) -> None:  # fmt: skip
        bones = [bone for bone in BONES if with_head or not bone.of_head]
        total, count = len(bones), len(scale)
        wear = {"skin": np.array(SKIN), "shoe": np.array(SHOE), "clothes": clothes, "trousers": trousers,
                "sleeve": clothes * 0.5 + 0.5 * np.array(SKIN)}  # fmt: skip
        rest, colour = np.zeros((total, count, 2)), np.empty((total, count, 3))
        for k, bone in enumerate(bones):
            rest[k, :, 0], colour[k] = bone.radius_m * scale, wear[bone.colour]
        self.scale = scale
        self._weights = np.array([(bone.first, bone.second) for bone in bones])  # (B, 2, 17)
        self.parts = parts(
            CAPSULE, np.zeros((total * count, 3)), (0, 0, 0), rest.reshape(-1, 2), colour.reshape(-1, 3), semantic,
            np.repeat([bone.surface for bone in bones], count), np.tile(thing, total),
            np.tile(velocity_mps, (total, 1)),
        )  # fmt: skip

    def rows(self, body: Body) -> Float:
        """Return the rows of the parts for a pose, each in its body's frame."""
        rows = self.parts.rows.copy()
        _place_bones(self._weights, body.points_m, rows)
        return rows


@jit
def _place_bones(weights: Any, points: Any, rows: Any) -> None:
    """Fill both ends of the bones (B * N rows) from the points (N, 17, 3)."""
    count = len(points)
    for b in range(len(weights)):
        for n in range(count):
            for end in range(2):
                for axis in range(3):
                    total = 0.0
                    for j in range(points.shape[1]):
                        total += weights[b, end, j] * points[n, j, axis]
                    rows[b * count + n, 1 + 3 * end + axis] = total


@jit
def placed(rows: Any, thing: Any, place_m: Any, yaw_rad: Any) -> Any:
    """Return the rows of parts that are given in the frames of their objects, in the world.

    Args:
        rows: (P, 9) parts as if every object stood at the origin and looked along x.
        thing: (P,) index of each part's object.
        place_m: (M, 3) of the objects.
        yaw_rad: (M,) of the objects.
    """
    out = rows.copy()
    for p in range(len(rows)):
        m = thing[p]
        c, s = math.cos(yaw_rad[m]), math.sin(yaw_rad[m])
        for first in (1, 4) if rows[p, 0] == 3.0 else (1, 1):  # a capsule has two ends
            x, y = rows[p, first], rows[p, first + 1]
            out[p, first] = c * x - s * y + place_m[m, 0]
            out[p, first + 1] = s * x + c * y + place_m[m, 1]
            out[p, first + 2] = rows[p, first + 2] + place_m[m, 2]
        if rows[p, 0] == 0.0 or rows[p, 0] == 4.0:
            out[p, 7] = c * rows[p, 7] - s * rows[p, 8]
            out[p, 8] = s * rows[p, 7] + c * rows[p, 8]
    return out


def bicycles(colour: Float, thing: NDArray[np.int64], velocity_mps: Float) -> Parts:
    """Return the parts of N bicycles, each as if it stood at the origin and looked along x; saddles at 0.95 m."""
    count = len(colour)
    wheels = np.repeat([(0.52, 0.0, 0.34), (-0.52, 0.0, 0.34)], count, axis=0)
    tubes = (
        ((-0.18, 0.0, 0.9), (0.0, 0.0, 0.32)), ((0.0, 0.0, 0.32), (0.4, 0.0, 0.85)),
        ((-0.15, 0.0, 0.85), (0.4, 0.0, 0.9)), ((0.4, 0.0, 0.95), (0.52, 0.0, 0.34)),
        ((0.0, 0.0, 0.32), (-0.52, 0.0, 0.34)), ((-0.16, 0.0, 0.88), (-0.52, 0.0, 0.34)),
        ((0.42, 0.25, 1.0), (0.42, -0.25, 1.0)),
    )  # fmt: skip
    first, second = (np.repeat([tube[end] for tube in tubes], count, axis=0) for end in (0, 1))
    many = len(tubes)
    return joined(
        parts(DISC, wheels, (0.34, 0.28, 0.0), (1, 0), TYRE, BICYCLE, PLAIN, np.tile(thing, 2),
              np.tile(velocity_mps, (2, 1))),
        parts(CAPSULE, first, second, (0.022, 0.0), np.tile(colour, (many, 1)), BICYCLE, PLAIN, np.tile(thing, many),
              np.tile(velocity_mps, (many, 1))),
    )  # fmt: skip


__all__ = ["Humans", "bicycles", "placed", "vehicles"]
