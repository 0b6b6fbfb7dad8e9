"""Objects of a message at another instant, as a planner needs them: moved on, and less certain for it.

The same motion models as the tracker's (perception.tracking.motion), in numpy: a planner's process compiles nothing.
What an object may do in the meantime is in the message: `motion` says how hard it accelerates and turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.errors import MessageError
from perception.messages import FusedObject, TrackedObjects
from perception.messages.covariance import pose_covariance, velocity_covariance

Float: TypeAlias = NDArray[np.float64]

UPPER = np.triu_indices(5)
STRAIGHT_ENOUGH_RADPS = 1e-3
UNKNOWN_SPEED_MPS = 10.0
"""Standard deviation of the speed of what has none in the message."""


def objects_at(message: TrackedObjects, t_ns: int) -> TrackedObjects:
    """Return the objects at an instant, in the frame of the message.

    Raises:
        MessageError: the instant lies before the message's stamp or beyond `valid_until_ns`.
    """
    stamp_ns = message.header.t_sensor_ns
    if t_ns < stamp_ns:
        raise MessageError(
            f"objects of {stamp_ns} are asked for {(stamp_ns - t_ns) / 1e6:.0f} ms before their stamp; "
            "they tell of what comes, not of what was"
        )
    if message.valid_until_ns and t_ns > message.valid_until_ns:
        raise MessageError(
            f"objects of {stamp_ns} are valid for {(message.valid_until_ns - stamp_ns) / 1e6:.0f} ms and are asked for "
            f"{(t_ns - stamp_ns) / 1e6:.0f} ms after their stamp; use a newer message"
        )
    seconds = (t_ns - stamp_ns) * 1e-9
    objects = tuple(_moved(one, seconds, t_ns - stamp_ns) for one in message.objects)
    header = msgspec.structs.replace(message.header, t_sensor_ns=t_ns)
    return msgspec.structs.replace(message, header=header, objects=objects)


def _moved(one: FusedObject, seconds: float, later_ns: int) -> FusedObject:
    motion = one.motion
    if not one.has_velocity or one.velocity_mps is None or motion is None:
        return _wandered(one, seconds, later_ns)
    yaw = 2 * float(np.arctan2(one.rotation_xyzw[2], one.rotation_xyzw[3]))
    vx, vy, vz = one.velocity_mps
    noise = motion.acceleration_mps2, motion.turn_noise
    if motion.kind == "turning":
        speed = vx * np.cos(yaw) + vy * np.sin(yaw)
        after, step, spread = _turned(np.array([*one.center_m[:2], yaw, speed, motion.yaw_rate_radps]), seconds, noise)
        velocity = after[3] * np.array([np.cos(after[2]), np.sin(after[2])])
        by_state = np.zeros((2, 5))
        by_state[:, 2], by_state[:, 3] = (-velocity[1], velocity[0]), (np.cos(after[2]), np.sin(after[2]))
    else:
        after, step, spread = _straight(np.array([*one.center_m[:2], yaw, vx, vy]), seconds, noise)
        velocity = after[3:]
        by_state = np.eye(5)[3:]
    cov = step @ _full(motion.covariance) @ step.T + spread
    of_velocity = by_state @ cov @ by_state.T
    half = after[2] / 2
    return msgspec.structs.replace(
        one, center_m=(float(after[0]), float(after[1]), one.center_m[2]),
        rotation_xyzw=(0, 0, float(np.sin(half)), float(np.cos(half))),
        velocity_mps=(float(velocity[0]), float(velocity[1]), vz), age_ns=one.age_ns + later_ns,
        covariance_pose=_pose(cov[:3, :3], one),
        covariance_velocity=velocity_covariance(of_velocity[np.triu_indices(2)].tolist()),
        motion=msgspec.structs.replace(motion, covariance=tuple(cov[UPPER].tolist())),
    )  # fmt: skip


def _wandered(one: FusedObject, seconds: float, later_ns: int) -> FusedObject:
    """Leave an object of unknown velocity where it is, in a circle that grows as fast as it may be."""
    if one.covariance_pose is None:
        return msgspec.structs.replace(one, age_ns=one.age_ns + later_ns)
    pose = list(one.covariance_pose)
    for place in (0, 6):  # x x and y y
        pose[place] += (UNKNOWN_SPEED_MPS * seconds) ** 2
    return msgspec.structs.replace(one, covariance_pose=tuple(pose), age_ns=one.age_ns + later_ns)


def _pose(planar: Float, before: FusedObject) -> tuple[float, ...]:
    height = 0.0 if before.covariance_pose is None else before.covariance_pose[11]
    return pose_covariance(planar[np.triu_indices(3)].tolist(), height)


def _full(upper: Sequence[float]) -> Float:
    cov = np.zeros((5, 5))
    cov[UPPER] = upper
    return np.asarray(cov + np.triu(cov, 1).T)


def _turned(state: Float, dt: float, noise: tuple[float, float]) -> tuple[Float, Float, Float]:
    """Move a state of constant speed and turn rate; return it, its derivative by what it was, and the noise."""
    x, y, yaw, speed, rate = state
    step = np.eye(5)
    step[2, 4] = dt
    then = yaw + rate * dt
    if abs(rate) < STRAIGHT_ENOUGH_RADPS:
        along, across = np.cos(yaw) * dt, np.sin(yaw) * dt
        step[0, 4], step[1, 4] = -speed * np.sin(yaw) * dt * dt / 2, speed * np.cos(yaw) * dt * dt / 2
    else:
        along, across = (np.sin(then) - np.sin(yaw)) / rate, (np.cos(yaw) - np.cos(then)) / rate
        step[0, 4] = speed * (np.cos(then) * dt - along) / rate
        step[1, 4] = speed * (np.sin(then) * dt - across) / rate
    step[0, 2], step[0, 3], step[1, 2], step[1, 3] = -speed * across, along, speed * along, across
    after = np.array([x + speed * along, y + speed * across, (then + np.pi) % (2 * np.pi) - np.pi, speed, rate])
    half, cosine, sine = dt * dt / 2, np.cos(after[2]), np.sin(after[2])
    pushed = np.array([half * cosine, half * sine, 0.0, dt, 0.0])
    turned = np.array([0.0, 0.0, half, 0.0, dt])
    spread = np.outer(pushed, pushed) * noise[0] ** 2 + np.outer(turned, turned) * noise[1] ** 2
    spread[0, 0] += 0.25 * noise[0] ** 2 * (half * sine) ** 2
    spread[1, 1] += 0.25 * noise[0] ** 2 * (half * cosine) ** 2
    return after, step, spread


def _straight(state: Float, dt: float, noise: tuple[float, float]) -> tuple[Float, Float, Float]:
    """Move a state of constant velocity; return it, its derivative by what it was, and the noise."""
    step = np.eye(5)
    step[0, 3] = step[1, 4] = dt
    half, spread = dt * dt / 2, np.zeros((5, 5))
    for axis in range(2):
        pushed = np.zeros(5)
        pushed[axis], pushed[3 + axis] = half, dt
        spread += np.outer(pushed, pushed) * noise[0] ** 2
    spread[2, 2] = (noise[1] * dt) ** 2
    return step @ state, step, spread


__all__ = ["objects_at"]
