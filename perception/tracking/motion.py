"""How tracks move and what a detection says of them: extended Kalman filters over arrays of tracks.

Two models share five numbers x, y, yaw, a, b:

    turning   a speed along the heading, b turn rate (constant turn rate and velocity): vehicles, two-wheelers
    straight  a, b velocity along x and y, the heading for itself: people, animals, and everything where the frame
              itself moves in an unknown way

Height above ground and size change little and depend on nothing else: they are filtered one by one.

Source: Schubert et al., "Comparison and evaluation of advanced motion models for vehicle tracking", FUSION 2008 (CTRV).
A heading that contradicts the track by more than a right angle is turned by half a turn
first: detectors confuse front and rear, and the votes say which is right.
"""

from __future__ import annotations

import math
from typing import Any

import numba

TURNING, STRAIGHT = 0, 1
SLOW_TURN_RADPS = 1e-3
"""Below it the arc is a straight line: the division by the turn rate would lose all digits."""
TURN_RADPS = 0.2
"""How fast an object may turn of which nothing is known yet."""


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def wrapped(angle: float) -> float:
    """Return the angle in -pi to pi."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _move_turning(mean: Any, jacobian: Any, dt: float) -> None:
    yaw, speed, rate = mean[2], mean[3], mean[4]
    sine, cosine = math.sin(yaw), math.cos(yaw)
    if abs(rate) < SLOW_TURN_RADPS:
        mean[0] += speed * cosine * dt
        mean[1] += speed * sine * dt
        jacobian[0, 2], jacobian[0, 3] = -speed * sine * dt, cosine * dt
        jacobian[1, 2], jacobian[1, 3] = speed * cosine * dt, sine * dt
        jacobian[0, 4], jacobian[1, 4] = -speed * sine * dt * dt / 2, speed * cosine * dt * dt / 2
    else:
        then = yaw + rate * dt
        sine_then, cosine_then = math.sin(then), math.cos(then)
        along, across = (sine_then - sine) / rate, (cosine - cosine_then) / rate
        mean[0] += speed * along
        mean[1] += speed * across
        jacobian[0, 2], jacobian[0, 3] = -speed * across, along
        jacobian[1, 2], jacobian[1, 3] = speed * along, across
        jacobian[0, 4] = speed * (cosine_then * dt - along) / rate
        jacobian[1, 4] = speed * (sine_then * dt - across) / rate
    jacobian[2, 4] = dt
    mean[2] = wrapped(yaw + rate * dt)


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _spread(cov: Any, step: Any, half: Any) -> None:
    """Replace a covariance by step @ cov @ step.T; most of a step is zero. `half` (5, 5) is room to work in.

    Numba's own product needs a library that we do not.
    """
    half[:] = 0.0
    for i in range(5):
        for k in range(5):
            if step[i, k] != 0:
                for j in range(5):
                    half[i, j] += step[i, k] * cov[k, j]
    cov[:] = 0.0
    for j in range(5):
        for k in range(5):
            if step[j, k] != 0:
                for i in range(5):
                    cov[i, j] += half[i, k] * step[j, k]


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def predict(
    mean: Any, cov: Any, model: int, acceleration_mps2: float, turn: float, dt: float, step: Any, room: Any
) -> None:
    """Move a track on by `dt` seconds, in place.

    Args:
        mean: (5,), see the module's text.
        cov: (5, 5) its covariance.
        model: TURNING or STRAIGHT.
        acceleration_mps2: standard deviation of the acceleration.
        turn: that of the turn acceleration in rad/s2 (turning), or of the drift of the heading in rad/s (straight).
        dt: seconds, may be negative for a look back.
        step: (5, 5) room to work in.
        room: (5, 5) another.
    """
    step[:] = 0
    for i in range(5):
        step[i, i] = 1.0
    acceleration, turn = acceleration_mps2**2, turn**2
    half, full = dt * dt / 2, abs(dt)
    if model == TURNING:
        _move_turning(mean, step, dt)
        cosine, sine = math.cos(mean[2]), math.sin(mean[2])
        _spread(cov, step, room)
        pushed = (half * cosine, half * sine, 0.0, full, 0.0)
        turned = (0.0, 0.0, half, 0.0, full)
        for i in range(5):
            for j in range(5):
                cov[i, j] += pushed[i] * pushed[j] * acceleration + turned[i] * turned[j] * turn
        sideways = (half * sine) ** 2, (half * cosine) ** 2  # the heading is not exactly the way it goes
        cov[0, 0] += 0.25 * acceleration * sideways[0]
        cov[1, 1] += 0.25 * acceleration * sideways[1]
        return
    step[0, 3] = step[1, 4] = dt
    mean[0] += mean[3] * dt
    mean[1] += mean[4] * dt
    _spread(cov, step, room)
    for i in range(2):
        cov[i, i] += half * half * acceleration
        cov[i, 3 + i] += half * full * acceleration
        cov[3 + i, i] += half * full * acceleration
        cov[3 + i, 3 + i] += full * full * acceleration
    cov[2, 2] += turn * full * full


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _take(mean: Any, cov: Any, seen: Any, rest: float, variance: float, crossed: Any) -> None:
    """Take one measured number: `seen` (5,) is its derivative by the state, `rest` measured minus expected.

    Most of a derivative is zero. `crossed` (5,) is room to work in.
    """
    crossed[:] = 0.0
    for j in range(5):
        if seen[j] != 0:
            for i in range(5):
                crossed[i] += cov[i, j] * seen[j]
    total = variance
    for i in range(5):
        total += seen[i] * crossed[i]
    for i in range(5):
        mean[i] += crossed[i] / total * rest
        for j in range(5):
            cov[i, j] -= crossed[i] * crossed[j] / total


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def update(
    mean: Any, cov: Any, model: int, measured: Any, position_m: float, heading_rad: float, velocity_mps: float,
    seen: Any, room: Any,
) -> int:  # fmt: skip
    """Take one detection into one track, in place; numbers of independent noise are taken one after the other.

    Args:
        mean: (5,), see the module's text.
        cov: (5, 5) its covariance.
        model: TURNING or STRAIGHT.
        measured: (5,) x, y, yaw, velocity along x and y over the frame; NaN velocities are left out.
        position_m: standard deviation of the position.
        heading_rad: of the heading.
        velocity_mps: of the velocity.
        seen: (5,) room to work in.
        room: (5,) another.

    Returns:
        1 where the detection's heading agrees with the track's, -1 where it was turned around.
    """
    agrees = 1 if abs(wrapped(measured[2] - mean[2])) <= math.pi / 2 else -1
    yaw = measured[2] if agrees > 0 else measured[2] + math.pi
    for i in range(2):
        seen[:] = 0
        seen[i] = 1.0
        _take(mean, cov, seen, measured[i] - mean[i], position_m**2, room)
    seen[:] = 0
    seen[2] = 1.0
    _take(mean, cov, seen, wrapped(yaw - mean[2]), heading_rad**2, room)
    if not (math.isnan(measured[3]) or math.isnan(measured[4])):
        for i in range(2):
            seen[:] = 0
            expected = mean[3 + i]
            if model == TURNING:
                cosine, sine, speed = math.cos(mean[2]), math.sin(mean[2]), mean[3]
                expected = speed * (sine if i else cosine)
                seen[2], seen[3] = speed * (cosine if i else -sine), (sine if i else cosine)
            else:
                seen[3 + i] = 1.0
            _take(mean, cov, seen, measured[3 + i] - expected, velocity_mps**2, room)
    mean[2] = wrapped(mean[2])
    return agrees


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def update_alone(mean: Any, variance: Any, i: int, measured: float, spread: float) -> None:
    """Take a measured number that depends on nothing else into the mean and the variance at `i`, in place.

    Args:
        mean: (M,).
        variance: (M,).
        i: which of them.
        measured: it.
        spread: its standard deviation.
    """
    gain = variance[i] / (variance[i] + spread**2)
    mean[i] += gain * (measured - mean[i])
    variance[i] *= 1 - gain


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def turn_around(mean: Any, cov: Any, model: int) -> None:
    """Turn a track by half a turn, in place: one that goes backwards all the time has its front at the other end."""
    mean[2] = wrapped(mean[2] + math.pi)
    if model == TURNING:
        mean[3] = -mean[3]
        for i in range(5):
            if i != 3:
                cov[i, 3] = -cov[i, 3]
                cov[3, i] = -cov[3, i]


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def convert(mean: Any, cov: Any, before: int, after: int) -> None:
    """Rewrite, in place, the state of a track whose class, and with it the motion model, has changed."""
    if before == after:
        return
    cosine, sine = math.cos(mean[2]), math.sin(mean[2])
    spread = cov[3, 3] + cov[4, 4]
    if after == TURNING:
        mean[3], mean[4] = cosine * mean[3] + sine * mean[4], 0.0
    else:
        mean[3], mean[4] = cosine * mean[3], sine * mean[3]
    for i in range(5):
        for k in range(3, 5):
            cov[i, k] = cov[k, i] = 0.0
    cov[3, 3], cov[4, 4] = spread, TURN_RADPS**2 if after == TURNING else spread


__all__ = [
    "STRAIGHT", "TURNING", "TURN_RADPS", "convert", "predict", "turn_around", "update", "update_alone", "wrapped",
]  # fmt: skip
