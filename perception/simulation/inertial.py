"""What an IMU, a GNSS receiver and an odometer say of the vehicle's motion."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.geometry.transforms import Transform
from perception.simulation.motion import Motion

Float: TypeAlias = NDArray[np.float64]

GRAVITY_MPS2 = 9.80665
GYRO_NOISE, GYRO_BIAS = 0.003, 0.002
"""Of a car-grade gyro: standard deviation per sample and of the constant bias, rad/s."""
ACCELERATION_NOISE, ACCELERATION_BIAS = 0.06, 0.05
"""Standard deviation per sample (road and engine included) and of the constant bias, m/s2."""
SPEED_SCALE, YAW_DRIFT_RADPS = 0.004, 2e-4
"""Standard deviations of an odometer's error: of its speed, as a share, and of its turn rate."""
STEP_S = 0.01
EARTH_M = 6_378_137.0
START_DEG = (48.1, 11.6)
"""Latitude and longitude of the world's origin; x is east, y is north."""


def imu_at(
    motion: Motion, base_link_from_imu: Transform, t_s: float, seed: tuple[int, ...], number: int
) -> tuple[Float, Float]:
    """Return angular rate (3,) and specific force (3,) in the sensor's frame, with bias and noise."""
    bias, noise = _biases(seed), np.random.default_rng((*seed, number)).standard_normal((2, 3))
    rate = motion.yaw_rate_radps(t_s)
    gain = (motion.yaw_rate_radps(t_s + 1e-4) - motion.yaw_rate_radps(t_s - 1e-4)) / 2e-4
    forward, left = motion.acceleration_mps2(t_s)
    x, y, _ = base_link_from_imu.translation_m
    force = np.array([forward - gain * y - rate * rate * x, left + gain * x - rate * rate * y, GRAVITY_MPS2])
    back = base_link_from_imu.rotation.T
    turning = back @ np.array([0.0, 0.0, rate]) + GYRO_BIAS * bias[0]
    return (
        turning + GYRO_NOISE * noise[0],
        back @ force + ACCELERATION_BIAS * bias[1] + ACCELERATION_NOISE * noise[1],
    )


@lru_cache(maxsize=64)
def _biases(seed: tuple[int, ...]) -> Float:
    """Return the biases (2, 3) of a sensor's gyro and accelerometer, in their standard deviations."""
    return np.random.default_rng(seed).standard_normal((2, 3))


def gnss_at(motion: Motion, base_link_from_gnss: Transform, t_s: float, random: np.random.Generator) -> Float:
    """Return latitude, longitude (degrees) and altitude (metres), with an error of 1.2 m and 2.5 m upwards."""
    x, y, z = (motion.world_from_base_link(t_s) @ base_link_from_gnss).translation_m
    x, y, z = np.array([x, y, z]) + np.array([1.2, 1.2, 2.5]) * random.standard_normal(3)
    latitude = START_DEG[0] + math.degrees(y / EARTH_M)
    longitude = START_DEG[1] + math.degrees(x / (EARTH_M * math.cos(math.radians(START_DEG[0]))))
    return np.array([latitude, longitude, 520.0 + z])


class Odometer:
    """Wheel speed and a gyro, integrated: smooth, and slowly wrong.

    Args:
        motion: the true one.
        seed: of its error; at time zero it is right.
    """

    def __init__(self, motion: Motion, seed: int) -> None:
        random = np.random.default_rng((seed, 7))
        self.motion = motion
        self.scale = 1.0 + SPEED_SCALE * float(random.standard_normal())
        self.drift_radps = YAW_DRIFT_RADPS * float(random.standard_normal())
        self._places = [motion.world_from_base_link(0.0).translation_m[:2]]

    def pose_at(self, t_s: float) -> Transform:
        """Return odom_from_base_link at an instant, seconds from the start."""
        whole = math.floor(t_s / STEP_S)
        while len(self._places) <= whole:
            at = (len(self._places) - 1) * STEP_S
            self._places.append(self._places[-1] + self._way(at, STEP_S))
        place = self._places[whole] + self._way(whole * STEP_S, t_s - whole * STEP_S)
        return Transform.from_yaw((place[0], place[1], 0.0), self._heading(t_s))

    def _heading(self, t_s: float) -> float:
        return self.motion.heading_rad(t_s) + self.drift_radps * t_s

    def _way(self, t_s: float, span_s: float) -> Float:
        middle = t_s + span_s / 2
        yaw = self._heading(middle)
        way = self.scale * self.motion.speed_at(middle) * span_s
        return np.array([way * math.cos(yaw), way * math.sin(yaw)])


__all__ = ["GRAVITY_MPS2", "Odometer", "gnss_at", "imu_at"]
