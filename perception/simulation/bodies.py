"""Vehicles, people and cyclists as parts: what a box of the truth looks like from near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.simulation.classes import BICYCLE, BUS, CAR, PERSON, RIDER, TRUCK
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


def vehicles(
    kind: int, center_m: Float, size_lwh_m: Float, yaw_rad: Float, colour: Float, thing: NDArray[np.int64],
    velocity_mps: Float,
) -> Parts:  # fmt: skip
    """Return the parts of N vehicles of a class; boxes as in the truth."""
    cosine, sine = np.cos(yaw_rad), np.sin(yaw_rad)
    turn = np.stack((cosine, sine), axis=1)
    floor = center_m - np.array([0.0, 0.0, 0.5]) * size_lwh_m

    def placed(share: tuple[float, ...] | Float) -> Float:
        local = np.asarray(share) * size_lwh_m
        x, y = cosine * local[:, 0] - sine * local[:, 1], sine * local[:, 0] + cosine * local[:, 1]
        return floor + np.stack((x, y, local[:, 2]), axis=1)

    groups = []
    for middle, size, surface in SHAPES[kind]:
        half = np.array(size) * size_lwh_m / 2
        look = np.where(surface == GLASS, 0.75, 1.0) * colour
        groups.append(parts(BOX, placed(middle), half, turn, look, kind, surface, thing, velocity_mps))
    radius, width = WHEEL_M[kind], WHEEL_M[kind] * 0.55
    across = np.stack((-sine, cosine, np.zeros_like(sine)), axis=1)
    corners = [(along, side) for along in (0.3, -0.3) for side in (1.0, -1.0)]
    hub = np.concatenate([placed((along, side * 0.5, 0.0)) for along, side in corners])
    hub[:, 2] += radius
    inward = np.concatenate([-side * across for _, side in corners])
    things, speed = np.tile(thing, 4), np.tile(velocity_mps, (4, 1))
    inner, outer, wheel = hub + inward * (width + 0.1), hub + inward * width, np.tile(turn, (4, 1))
    groups.append(parts(CAPSULE, inner, outer, (width, 0.0), TYRE, kind, PLAIN, things, speed))
    groups.append(parts(DISC, hub + inward * 0.02, (radius, 0.0, 0.0), wheel, TYRE, kind, PLAIN, things, speed))
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


def humans(
    body: Body, place_m: Float, yaw_rad: Float, scale: Float, clothes: Float, trousers: Float,
    semantic: int, thing: NDArray[np.int64], velocity_mps: Float, *, with_head: bool = True,
) -> Parts:  # fmt: skip
    """Return the parts of N bodies at places with headings; without heads for cameras that are worn there."""
    points = _placed(body.points_m, place_m, yaw_rad)
    bones = [bone for bone in BONES if with_head or not bone.of_head]
    total, count = len(bones), len(scale)
    wear = {"skin": np.array(SKIN), "shoe": np.array(SHOE), "clothes": clothes, "trousers": trousers,
            "sleeve": clothes * 0.5 + 0.5 * np.array(SKIN)}  # fmt: skip
    rest, colour = np.zeros((total, count, 2)), np.empty((total, count, 3))
    for k, bone in enumerate(bones):
        rest[k, :, 0], colour[k] = bone.radius_m * scale, wear[bone.colour]
    weights = np.array([(bone.first, bone.second) for bone in bones])  # (B, 2, 17)
    ends = np.einsum("bej,njk->ebnk", weights, points).reshape(2, -1, 3)
    return parts(
        CAPSULE, ends[0], ends[1], rest.reshape(-1, 2), colour.reshape(-1, 3), semantic,
        np.repeat([bone.surface for bone in bones], count), np.tile(thing, total), np.tile(velocity_mps, (total, 1)),
    )  # fmt: skip


def _placed(values: Float, place_m: Float, yaw_rad: Float) -> Float:
    """Turn and move points (N, ..., 3) of body frames into the world."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    shape = (len(yaw_rad),) + (1,) * (values.ndim - 2)
    c, s = c.reshape(shape), s.reshape(shape)
    turned = np.stack(
        (c * values[..., 0] - s * values[..., 1], s * values[..., 0] + c * values[..., 1], values[..., 2]), axis=-1
    )
    moved: Float = turned + place_m.reshape(*shape, 3)
    return moved


def bicycles(place_m: Float, yaw_rad: Float, colour: Float, thing: NDArray[np.int64], velocity_mps: Float) -> Parts:
    """Return the parts of N bicycles that stand on the ground at places (N, 3); the saddle is at 0.95 m."""
    cosine, sine = np.cos(yaw_rad), np.sin(yaw_rad)
    ahead, turn = np.stack((cosine, sine, np.zeros_like(sine)), axis=1), np.stack((cosine, sine), axis=1)

    def at(x: float, z: float) -> Float:
        return np.asarray(place_m + x * ahead + np.array([0.0, 0.0, z]), np.float64)

    groups = [
        parts(DISC, at(x, 0.34), (0.34, 0.28, 0.0), turn, TYRE, BICYCLE, PLAIN, thing, velocity_mps)
        for x in (0.52, -0.52)
    ]
    tubes = (
        ((-0.18, 0.9), (0.0, 0.32)), ((0.0, 0.32), (0.4, 0.85)), ((-0.15, 0.85), (0.4, 0.9)),
        ((0.4, 0.95), (0.52, 0.34)), ((0.0, 0.32), (-0.52, 0.34)), ((-0.16, 0.88), (-0.52, 0.34)),
    )  # fmt: skip
    across = np.stack((-sine, cosine, np.zeros_like(sine)), axis=1) * 0.25
    ends = [(at(*a), at(*b)) for a, b in tubes] + [(at(0.42, 1.0) + across, at(0.42, 1.0) - across)]
    frame = parts(
        CAPSULE, np.concatenate([a for a, _ in ends]), np.concatenate([b for _, b in ends]), (0.022, 0.0),
        np.tile(colour, (len(ends), 1)), BICYCLE, PLAIN, np.tile(thing, len(ends)),
        np.tile(velocity_mps, (len(ends), 1)),
    )  # fmt: skip
    return joined(*groups, frame)


__all__ = ["BICYCLE", "PERSON", "RIDER", "bicycles", "humans", "vehicles"]
