"""Rigid motions and their twists: translation, then rotation vector, as a screw that goes on evenly."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float64]


def exponential(twist: Float) -> Float:
    """Return the rigid motion (4, 4) of a twist: translation, then rotation vector (6,)."""
    angle = float(np.linalg.norm(twist[3:]))
    skew = np.array([[0, -twist[5], twist[4]], [twist[5], 0, -twist[3]], [-twist[4], twist[3], 0]])
    near = angle < 1e-8
    a = 1.0 if near else np.sin(angle) / angle
    b = 0.5 if near else (1 - np.cos(angle)) / angle**2
    c = 1 / 6 if near else (angle - np.sin(angle)) / angle**3
    motion = np.eye(4)
    motion[:3, :3] += a * skew + b * skew @ skew
    motion[:3, 3] = (np.eye(3) + b * skew + c * skew @ skew) @ twist[:3]
    return motion


def logarithm(motion: Float) -> Float:
    """Return the twist (6,) whose exponential a rigid motion is; turns below half a turn."""
    rotation = motion[:3, :3]
    angle = float(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
    axis = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    vector = axis * (0.5 if angle < 1e-8 else angle / (2 * np.sin(angle)))
    skew = np.array([[0, -vector[2], vector[1]], [vector[2], 0, -vector[0]], [-vector[1], vector[0], 0]])
    near = angle < 1e-8
    b = 0.5 if near else (1 - np.cos(angle)) / angle**2
    c = 1 / 6 if near else (angle - np.sin(angle)) / angle**3
    left = np.eye(3) + b * skew + c * skew @ skew
    return np.concatenate((np.linalg.solve(left, motion[:3, 3]), vector))


__all__ = ["exponential", "logarithm"]
