"""A human body: joints from a few angles, and the actions that move them.

Joints and their order are those of UnrealEgo as EgoPoseFormer uses them. The body's frame stands on the floor below the
pelvis: x forward, y left, z up. Everything is vectorised over N persons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.simulation.intersections import jit

Float: TypeAlias = NDArray[np.float64]

JOINTS = (
    "head", "neck_01", "upperarm_l", "upperarm_r", "lowerarm_l", "lowerarm_r", "hand_l", "hand_r",
    "thigh_l", "thigh_r", "calf_l", "calf_r", "foot_l", "foot_r", "ball_l", "ball_r",
)  # fmt: skip
LIMBS = (
    (0, 1), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7), (2, 8), (3, 9), (8, 10), (9, 11), (10, 12), (11, 13),
    (12, 14), (13, 15),
)  # fmt: skip
"""Pairs of joints, as in the cards of EgoPoseFormer."""
HEIGHT_M = 1.75
"""Of a body of scale one, crown to floor, standing."""
CROWN_M = 0.12
"""The crown above the joint `head`."""


@dataclass
class Pose:
    """Angles of N persons, radians, (N,) each; zero is standing with hanging arms.

    Attributes:
        lean: of the trunk, forward.
        twist: of the trunk, to the left.
        nod: of the head against the trunk, forward.
        hip_l, hip_r: thighs forward.
        spread: both thighs outward.
        knee_l, knee_r: bent, the calf backward.
        shoulder_l, shoulder_r: arms forward (pi is straight up).
        abduct_l, abduct_r: arms outward.
        elbow_l, elbow_r: bent, the forearm forward and up.
        toe: both feet pointed down.
        lift_m: the lowest foot above the floor.
    """

    lean: Float
    twist: Float
    nod: Float
    hip_l: Float
    hip_r: Float
    spread: Float
    knee_l: Float
    knee_r: Float
    shoulder_l: Float
    shoulder_r: Float
    abduct_l: Float
    abduct_r: Float
    elbow_l: Float
    elbow_r: Float
    toe: Float
    lift_m: Float

    @classmethod
    def standing(cls, count: int) -> Pose:
        """Return people who stand."""
        pose = cls(*np.zeros((len(ANGLES), count)))
        pose.abduct_l += 0.12
        pose.abduct_r += 0.12
        pose.elbow_l += 0.15
        pose.elbow_r += 0.15
        return pose

    def stacked(self) -> Float:
        """Return the angles (16, N), in the order of the fields."""
        return np.array([getattr(self, name) for name in ANGLES])

    def blended(self, other: Pose, share: Float | float) -> Pose:
        """Return the pose on the way to another."""
        return Pose(*((1 - share) * self.stacked() + share * other.stacked()))


ANGLES = tuple(field.name for field in fields(Pose))
PELVIS = len(JOINTS)


@dataclass(frozen=True, eq=False)
class Body:
    """Points of N persons, metres in their body frames.

    Attributes:
        points_m: (N, 17, 3) the joints, then the pelvis.
        facing: (N, 3) where the faces look.
    """

    points_m: Float
    facing: Float

    @property
    def joints_m(self) -> Float:
        """(N, 16, 3)."""
        return self.points_m[:, :PELVIS]

    @property
    def pelvis_m(self) -> Float:
        """(N, 3)."""
        return self.points_m[:, PELVIS]

    def one(self, number: int) -> Body:
        """Return one of the persons."""
        return Body(self.points_m[number : number + 1], self.facing[number : number + 1])


def body_of(pose: Pose, scale: Float) -> Body:
    """Return the joints of persons of a size; the lowest foot stands on the floor (or `lift_m` above it)."""
    points, facing = np.zeros((len(scale), PELVIS + 1, 3)), np.zeros((len(scale), 3))
    _place_joints(pose.stacked(), scale, points, facing)
    return Body(points, facing)


@jit
def _place_joints(angles: Any, scale: Any, points: Any, facing: Any) -> None:
    """Fill points (N, 17, 3) from the pelvis outwards, and where the faces look."""
    for n in range(len(scale)):
        lean, twist, nod, spread, toe, lift = (
            angles[0, n], angles[1, n], angles[2, n], angles[5, n], angles[14, n], angles[15, n],
        )  # fmt: skip
        p = points[n]
        _put(p, 1, 16, lean, twist, 0.0, 0.0, 0.52)
        _put(p, 0, 1, lean + nod, 0.0, 0.02, 0.0, 0.17)
        facing[n, 0], facing[n, 2] = math.cos(lean + nod), -math.sin(lean + nod)
        lowest = 0.0
        for side in range(2):
            sign = 1.0 - 2.0 * side
            hip, knee = angles[3 + side, n], angles[6 + side, n]
            raised, out, bent = angles[8 + side, n], sign * angles[10 + side, n], angles[12 + side, n]
            _put(p, 2 + side, 16, lean, twist, 0.0, sign * 0.18, 0.46)
            _hang(p, 4 + side, 2 + side, lean, twist, raised, out, 0.29)
            _hang(p, 6 + side, 4 + side, lean, twist, raised + bent, 0.6 * out, 0.26)
            _put(p, 8 + side, 16, 0.0, 0.0, 0.0, sign * 0.10, -0.04)
            _hang(p, 10 + side, 8 + side, 0.0, 0.0, hip, sign * spread, 0.42)
            _hang(p, 12 + side, 10 + side, 0.0, 0.0, hip - knee, sign * spread, 0.42)
            sole = max(hip - knee + math.pi / 2 - toe, math.pi / 2 - 0.6)  # a toe does not dig into the floor
            _hang(p, 14 + side, 12 + side, 0.0, 0.0, sole, 0.0, 0.15)
            p[14 + side, 2] -= 0.06
            lowest = min(lowest, p[12 + side, 2], p[14 + side, 2])
        for k in range(len(p)):
            p[k, 2] += lift + 0.03 - lowest
            for axis in range(3):
                p[k, axis] *= scale[n]


@jit
def _put(p: Any, which: int, start: int, lean: float, twist: float, x: float, y: float, z: float) -> None:
    """Put a point at a place relative to another, after a twist about z and a lean about y."""
    x, y = math.cos(twist) * x - math.sin(twist) * y, math.sin(twist) * x + math.cos(twist) * y
    p[which, 0] = p[start, 0] + math.cos(lean) * x + math.sin(lean) * z
    p[which, 1] = p[start, 1] + y
    p[which, 2] = p[start, 2] - math.sin(lean) * x + math.cos(lean) * z


@jit
def _hang(
    p: Any, which: int, start: int, lean: float, twist: float, forward: float, outward: float, length: float
) -> None:
    """Put a point at the end of a limb that hangs at zero from another."""
    c = math.cos(outward) * length
    _put(p, which, start, lean, twist, math.sin(forward) * c, math.sin(outward) * length, -math.cos(forward) * c)


def _wave(phase: Float) -> Float:
    return np.sin(2 * math.pi * phase)


def _swing(phase: Float) -> Float:
    """Return 0 to 1 and back, smoothly, once per period."""
    return (1 - np.cos(2 * math.pi * phase)) / 2


def walk(phase: Float, stride: Float | float = 1.0) -> Pose:
    """Return people who walk; a period is two steps."""
    pose, swing, offbeat = Pose.standing(len(phase)), _wave(phase), np.cos(2 * math.pi * phase)
    pose.hip_l, pose.hip_r = 0.42 * stride * swing, -0.42 * stride * swing
    pose.knee_l = 0.1 + 0.75 * stride * np.maximum(offbeat, 0.0) ** 1.5
    pose.knee_r = 0.1 + 0.75 * stride * np.maximum(-offbeat, 0.0) ** 1.5
    pose.shoulder_l, pose.shoulder_r = -0.4 * stride * swing, 0.4 * stride * swing
    pose.elbow_l = pose.elbow_r = 0.35 + 0.1 * np.abs(swing)
    pose.twist = -0.1 * swing
    pose.lean = 0.04 + 0.0 * phase
    return pose


def run(phase: Float) -> Pose:
    """Return people who run."""
    pose = walk(phase * 2, 1.7)
    pose.elbow_l = pose.elbow_r = 1.45 + 0.0 * phase
    pose.lean, pose.lift_m = 0.18 + 0.0 * phase, 0.08 * _swing(phase * 4 + 0.25)
    return pose


def stand(phase: Float) -> Pose:
    """Return people who stand and breathe."""
    pose = Pose.standing(len(phase))
    pose.lean, pose.nod, pose.twist = 0.02 * _wave(phase), 0.08 * _wave(phase * 0.7), 0.06 * _wave(phase * 0.4)
    return pose


def wave(phase: Float) -> Pose:
    """Return people who wave the right hand overhead."""
    pose = stand(phase)
    pose.shoulder_r = 2.5 + 0.0 * phase
    pose.abduct_r = 0.35 + 0.45 * _wave(phase * 2)
    pose.elbow_r = 0.3 + 0.3 * _wave(phase * 2 + 0.25)
    return pose


def raise_arms(phase: Float) -> Pose:
    """Return people who lift both arms sideways over the head and let them sink."""
    pose, up = stand(phase), _swing(phase)
    pose.abduct_l = pose.abduct_r = 0.12 + 1.35 * up
    pose.shoulder_l = pose.shoulder_r = 0.25 * up
    pose.elbow_l = pose.elbow_r = 0.1 + 0.0 * phase
    return pose


def clap(phase: Float) -> Pose:
    """Return people who clap before the chest."""
    pose, apart = stand(phase), _swing(phase * 2)
    pose.shoulder_l = pose.shoulder_r = 1.15 + 0.0 * phase
    pose.abduct_l = pose.abduct_r = -0.38 + 0.75 * apart
    pose.elbow_l = pose.elbow_r = 0.35 + 0.0 * phase
    return pose


def squat(phase: Float) -> Pose:
    """Return people who bend their knees deeply, arms ahead."""
    pose, down = Pose.standing(len(phase)), _swing(phase)
    pose.hip_l = pose.hip_r = 1.45 * down
    pose.knee_l = pose.knee_r = 1.9 * down
    pose.spread, pose.lean = 0.1 + 0.15 * down, 0.5 * down
    pose.shoulder_l = pose.shoulder_r = 1.1 * down
    return pose


def jump(phase: Float) -> Pose:
    """Return people who jump with arms going up."""
    pose, air = Pose.standing(len(phase)), np.maximum(_wave(phase), 0.0)
    crouch = np.maximum(-_wave(phase), 0.0)
    pose.hip_l = pose.hip_r = 0.8 * crouch
    pose.knee_l = pose.knee_r = 1.25 * crouch
    pose.lean, pose.toe = 0.35 * crouch, 0.5 * air
    pose.shoulder_l = pose.shoulder_r = 2.3 * air - 0.5 * crouch
    pose.lift_m = 0.30 * air
    return pose


def kick(phase: Float) -> Pose:
    """Return people who kick ahead with the right leg."""
    pose, strike = stand(phase), _swing(phase) ** 2
    pose.hip_r, pose.knee_r = 1.3 * strike, 0.9 * _swing(phase) * (1 - strike)
    pose.knee_l, pose.lean = 0.1 + 0.0 * phase, -0.12 * strike
    pose.shoulder_l, pose.shoulder_r = 0.7 * strike, -0.4 * strike
    return pose


def punch(phase: Float) -> Pose:
    """Return people who box, left and right in turn."""
    pose, left, right = stand(phase), _swing(phase * 2), _swing(phase * 2 + 0.5)
    pose.shoulder_l, pose.shoulder_r = 0.45 + 1.05 * left, 0.45 + 1.05 * right
    pose.elbow_l, pose.elbow_r = 1.9 - 1.8 * left, 1.9 - 1.8 * right
    pose.twist, pose.hip_l, pose.hip_r = 0.35 * (right - left), 0.2 + 0.0 * phase, -0.15 + 0.0 * phase
    return pose


def bend(phase: Float) -> Pose:
    """Return people who bow down to their feet."""
    pose, down = stand(phase), _swing(phase)
    pose.lean, pose.nod = 1.35 * down, 0.25 * down
    pose.shoulder_l = pose.shoulder_r = 1.3 * down
    pose.knee_l = pose.knee_r = 0.15 * down
    return pose


def march(phase: Float) -> Pose:
    """Return people who lift their knees high on the spot."""
    pose, swing = Pose.standing(len(phase)), _wave(phase)
    left, right = np.maximum(swing, 0.0), np.maximum(-swing, 0.0)
    pose.hip_l, pose.hip_r, pose.knee_l, pose.knee_r = 1.4 * left, 1.4 * right, 1.5 * left, 1.5 * right
    pose.shoulder_l, pose.shoulder_r = 0.9 * right - 0.2, 0.9 * left - 0.2
    pose.elbow_l = pose.elbow_r = 1.2 + 0.0 * phase
    return pose


def ride(phase: Float) -> Pose:
    """Return cyclists; a period is one turn of the pedals."""
    pose, turn = Pose.standing(len(phase)), _wave(phase)
    pose.lean, pose.nod = 0.55 + 0.0 * phase, -0.45 + 0.0 * phase
    pose.hip_l, pose.hip_r = 1.0 + 0.35 * turn, 1.0 - 0.35 * turn
    pose.knee_l, pose.knee_r = 1.15 + 0.45 * turn, 1.15 - 0.45 * turn
    pose.shoulder_l = pose.shoulder_r = 1.15 + 0.0 * phase
    pose.elbow_l = pose.elbow_r = 0.25 + 0.0 * phase
    return pose


ACTIONS: Mapping[str, Callable[[Float], Pose]] = MappingProxyType(
    {
        "stand": stand, "walk": walk, "run": run, "wave": wave, "raise_arms": raise_arms, "clap": clap, "squat": squat,
        "jump": jump, "kick": kick, "punch": punch, "bend": bend, "march": march,
    }
)  # fmt: skip
"""What the wearer does, by its name: the classes of `truth/action`."""

__all__ = [
    "ACTIONS", "ANGLES", "CROWN_M", "HEIGHT_M", "JOINTS", "LIMBS", "PELVIS", "Body", "Pose", "body_of", "ride", "stand",
    "walk",
]  # fmt: skip
