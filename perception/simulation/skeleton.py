"""A human body: joints from a few angles, and the actions that move them.

Joints and their order are those of UnrealEgo as EgoPoseFormer uses them. The body's frame stands on the floor below the
pelvis: x forward, y left, z up. Everything is vectorised over N persons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

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
        pose = cls(**{field.name: np.zeros(count) for field in fields(cls)})
        pose.abduct_l += 0.12
        pose.abduct_r += 0.12
        pose.elbow_l += 0.15
        pose.elbow_r += 0.15
        return pose

    def blended(self, other: Pose, share: float) -> Pose:
        """Return the pose on the way to another."""
        names = [field.name for field in fields(self)]
        return Pose(**{name: (1 - share) * getattr(self, name) + share * getattr(other, name) for name in names})


def _turned(vector: Float, axis: int, angle: Float) -> Float:
    """Turn vectors (N, 3) about x, y or z by angles (N,)."""
    c, s = np.cos(angle), np.sin(angle)
    i, j = ((1, 2), (2, 0), (0, 1))[axis]
    turned = vector.copy()
    turned[:, i] = c * vector[:, i] - s * vector[:, j]
    turned[:, j] = s * vector[:, i] + c * vector[:, j]
    return turned


@dataclass(frozen=True, eq=False)
class Body:
    """Joints (N, 16, 3) and pelvis (N, 3) of N persons, metres in their body frames; `facing` (N, 3) of the faces."""

    joints_m: Float
    pelvis_m: Float
    facing: Float


def body_of(pose: Pose, scale: Float) -> Body:
    """Return the joints of persons of a size; the lowest foot stands on the floor (or `lift_m` above it)."""
    count = len(scale)
    joints = np.zeros((count, 16, 3))

    def trunk(x: float, y: float, z: float) -> Float:
        vector = np.broadcast_to(np.array([x, y, z]), (count, 3))
        return _turned(_turned(vector.copy(), 2, pose.twist), 1, pose.lean)

    neck = trunk(0.0, 0.0, 0.52)
    nod = pose.lean + pose.nod
    head = neck + _turned(np.tile([0.02, 0.0, 0.17], (count, 1)), 1, nod)
    facing = _turned(np.tile([1.0, 0.0, 0.0], (count, 1)), 1, nod)
    joints[:, 0], joints[:, 1] = head, neck
    for side, sign in enumerate((1.0, -1.0)):
        shoulder = trunk(0.0, sign * 0.18, 0.46)
        raise_, out, bend = (
            (pose.shoulder_l, pose.abduct_l, pose.elbow_l), (pose.shoulder_r, pose.abduct_r, pose.elbow_r),
        )[side]  # fmt: skip
        upper = _limb(raise_, sign * out)
        fore = _limb(raise_ + bend, sign * out * 0.6)
        upper, fore = (_turned(_turned(limb, 2, pose.twist), 1, pose.lean) for limb in (upper, fore))
        joints[:, 2 + side] = shoulder
        joints[:, 4 + side] = shoulder + 0.29 * upper
        joints[:, 6 + side] = joints[:, 4 + side] + 0.26 * fore
        hip, knee = ((pose.hip_l, pose.knee_l), (pose.hip_r, pose.knee_r))[side]
        joints[:, 8 + side] = (0.0, sign * 0.10, -0.04)
        joints[:, 10 + side] = joints[:, 8 + side] + 0.42 * _limb(hip, sign * pose.spread)
        joints[:, 12 + side] = joints[:, 10 + side] + 0.42 * _limb(hip - knee, sign * pose.spread)
        sole = hip - knee + math.pi / 2 - pose.toe  # at right angles to the calf
        level = np.maximum(sole, math.pi / 2 - 0.6)  # a toe does not dig into the floor
        joints[:, 14 + side] = joints[:, 12 + side] + 0.15 * _limb(level, np.zeros(count)) - (0.0, 0.0, 0.06)
    floor = joints[:, 12:, 2].min(axis=1) - 0.03
    up = np.zeros((count, 3))
    up[:, 2] = -floor + pose.lift_m
    size = scale[:, None]
    return Body((joints + up[:, None]) * size[:, None], up * size, facing)


def _limb(forward: Float, outward: Float) -> Float:
    """Return unit vectors (N, 3) of limbs that hang at zero."""
    c = np.cos(outward)
    return np.stack((np.sin(forward) * c, np.sin(outward) * np.ones_like(forward), -np.cos(forward) * c), axis=1)


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

__all__ = ["ACTIONS", "CROWN_M", "HEIGHT_M", "JOINTS", "LIMBS", "Body", "Pose", "body_of", "ride", "stand", "walk"]
