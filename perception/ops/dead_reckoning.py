"""Where a vehicle is by its speed and its turning: wheels that do not slip, and a gyro or an inertial unit.

The gyro turns the pose. What an accelerometer reads, less the vehicle's own acceleration (by speed and turn rate),
points up: roll, pitch and the gyro's bias about these axes slowly follow it. Heading has no such help, but at a
standstill the gyro shows its bias about all axes.

Source: Mahony, Hamel & Pflimlin, "Nonlinear Complementary Filters on the Special Orthogonal Group", IEEE TAC 2008,
with the compensation of centripetal and forward acceleration of vehicles.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.ops.rigid_motion import exponential

Float: TypeAlias = NDArray[np.float64]
GRAVITY_MPS2 = 9.80665
UP_S = 10.0
"""Within so long roll and pitch follow the accelerometer; shorter trusts potholes, longer the gyro's bias."""
ACCELERATION_S = 0.3
"""Over so long the change of speed is smoothed."""
STILL_MPS = 0.05
STILL_S = 1.0
"""A vehicle that was slower for so long stands."""
BIAS_S = 5.0
"""Standing, the bias follows the gyro within so long, and at once as the mean of what it said so far."""


class DeadReckoning:
    """Integrates speed and turning into a pose; `x` ahead, `y` left, `z` up.

    Attributes:
        pose: (4, 4) odom_from_base_link.
        speed_mps: forward, the last one given.
        turning_radps: (3,) the last one, without bias.
        bias_radps: (3,) of the gyro.
    """

    def __init__(self) -> None:
        self.pose = np.eye(4)
        self.speed_mps = 0.0
        self.turning_radps = np.zeros(3)
        self.bias_radps = np.zeros(3)
        self._acceleration_mps2 = 0.0
        self._speed_s: float | None = None
        self._speeds_began_s = 0.0
        self._last_s: float | None = None
        self._last_mps = 0.0
        self._up_began_s: float | None = None
        self._still_s: float | None = None

    def speed(self, t_s: float, speed_mps: float) -> None:
        """Take a speed."""
        if self._speed_s is not None and t_s > self._speed_s:
            span_s = t_s - self._speed_s
            share = max(1 - math.exp(-span_s / ACCELERATION_S), span_s / (t_s - self._speeds_began_s))
            self._acceleration_mps2 += share * ((speed_mps - self.speed_mps) / span_s - self._acceleration_mps2)
        elif self._speed_s is None:
            self._speeds_began_s = t_s
        self.speed_mps, self._speed_s = speed_mps, t_s
        if abs(speed_mps) > STILL_MPS:
            self._still_s = None
        elif self._still_s is None:
            self._still_s = t_s

    def turn(self, t_s: float, turning_radps: Float, force_mps2: Float | None = None) -> None:
        """Move on to an instant.

        Args:
            t_s: the instant, after that of the call before.
            turning_radps: (3,) angular rate in base_link at it, as measured.
            force_mps2: (3,) specific force at base_link's origin; None leaves roll and pitch to the gyro.
        """
        span_s = 0.0 if self._last_s is None else t_s - self._last_s
        self._learn_bias(t_s, span_s, turning_radps)
        turning = turning_radps - self.bias_radps
        mean = (turning + self.turning_radps) / 2 if self._last_s is not None else turning
        if force_mps2 is not None:
            mean = mean + self._pull_up(t_s, span_s, turning, force_mps2)
        way = np.array([(self._last_mps + self.speed_mps) / 2 * span_s, 0.0, 0.0])
        self.pose = self.pose @ exponential(np.concatenate((way, mean * span_s)))
        self.turning_radps, self._last_s, self._last_mps = turning, t_s, self.speed_mps

    def skip(self) -> None:
        """Let the next call go on from the pose as it is: what happened in between is not known."""
        self._last_s = None
        self._still_s = None

    def _learn_bias(self, t_s: float, span_s: float, turning_radps: Float) -> None:
        stood_s = 0.0 if self._still_s is None else t_s - self._still_s - STILL_S
        if stood_s > 0:
            share = min(1.0, span_s / min(stood_s, BIAS_S))
            self.bias_radps = self.bias_radps + share * (turning_radps - self.bias_radps)

    @property
    def is_level(self) -> bool:
        """True where the accelerometer has shown what is up; before, the pose stands as if the road were level."""
        return self._up_began_s is not None

    def _pull_up(self, t_s: float, span_s: float, turning: Float, force_mps2: Float) -> Float:
        """Return the turn rate (3,) that brings the pose's up towards the measured one; the bias learns from it."""
        if self._speed_s is None or t_s - self._speeds_began_s < ACCELERATION_S:
            return np.zeros(3)
        own = np.array([self._acceleration_mps2, 0.0, 0.0]) + np.array([0.0, turning[2], -turning[1]]) * self.speed_mps
        up = force_mps2 - own
        length = float(np.linalg.norm(up))
        if not 0.5 * GRAVITY_MPS2 < length < 1.5 * GRAVITY_MPS2:
            return np.zeros(3)
        if self._up_began_s is None:
            self._up_began_s = t_s
            self.pose[:3, :3] = _upright(self.pose[:3, :3], up)
            return np.zeros(3)
        # At first the mean of what was measured so far counts, later that of the last seconds.
        since_s = t_s - self._up_began_s
        gain = 1 / min(since_s, UP_S)
        off = _cross(up / length, self.pose[2, :3])
        if since_s > UP_S:
            self.bias_radps = self.bias_radps - gain * gain / 4 * span_s * off
        return gain * off


def _cross(a: Float, b: Float) -> Float:
    (a1, a2, a3), (b1, b2, b3) = a.tolist(), b.tolist()
    return np.array([a2 * b3 - a3 * b2, a3 * b1 - a1 * b3, a1 * b2 - a2 * b1])  # numpy's own takes ten times as long


def _upright(rotation: Float, force_mps2: Float) -> Float:
    """Return the rotation turned by the least angle that brings the measured up to z."""
    up = rotation @ (force_mps2 / np.linalg.norm(force_mps2))
    axis, cosine = _cross(up, np.array([0.0, 0.0, 1.0])), float(up[2])
    sine = float(np.linalg.norm(axis))
    if sine < 1e-12:
        return rotation
    twist = np.concatenate((np.zeros(3), axis / sine * math.atan2(sine, cosine)))
    return np.asarray(exponential(twist)[:3, :3] @ rotation)


__all__ = ["GRAVITY_MPS2", "DeadReckoning"]
