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
import numpy as np

TURNING, STRAIGHT = 0, 1
SLOW_TURN_RADPS = 1e-3
"""Below it the arc is a straight line: the division by the turn rate would lose all digits."""


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
def predict(mean: Any, cov: Any, model: Any, noise: Any, dt: float) -> None:
    """Move tracks on by `dt` seconds, in place.

    Args:
        mean: (N, 5), see the module's text.
        cov: (N, 5, 5) its covariance.
        model: (N,) TURNING or STRAIGHT.
        noise: (N, 2) standard deviation of the acceleration in m/s2, and of the turn acceleration in rad/s2 (turning)
            or the drift of the heading in rad/s (straight).
        dt: seconds, may be negative for a look back.
    """
    step, room = np.empty((5, 5)), np.empty((5, 5))
    for k in range(len(mean)):
        step[:] = 0
        for i in range(5):
            step[i, i] = 1.0
        acceleration, turn = noise[k, 0] ** 2, noise[k, 1] ** 2
        half, full = dt * dt / 2, abs(dt)
        if model[k] == TURNING:
            _move_turning(mean[k], step, dt)
            cosine, sine = math.cos(mean[k, 2]), math.sin(mean[k, 2])
            _spread(cov[k], step, room)
            pushed = (half * cosine, half * sine, 0.0, full, 0.0)
            turned = (0.0, 0.0, half, 0.0, full)
            for i in range(5):
                for j in range(5):
                    cov[k, i, j] += pushed[i] * pushed[j] * acceleration + turned[i] * turned[j] * turn
            sideways = (half * sine) ** 2, (half * cosine) ** 2  # the heading is not exactly the way it goes
            cov[k, 0, 0] += 0.25 * acceleration * sideways[0]
            cov[k, 1, 1] += 0.25 * acceleration * sideways[1]
        else:
            step[0, 3] = step[1, 4] = dt
            mean[k, 0] += mean[k, 3] * dt
            mean[k, 1] += mean[k, 4] * dt
            _spread(cov[k], step, room)
            for i in range(2):
                cov[k, i, i] += half * half * acceleration
                cov[k, i, 3 + i] += half * full * acceleration
                cov[k, 3 + i, i] += half * full * acceleration
                cov[k, 3 + i, 3 + i] += full * full * acceleration
            cov[k, 2, 2] += turn * full * full


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
def update(mean: Any, cov: Any, model: Any, measured: Any, spread: Any, agrees: Any) -> None:
    """Take one detection each into tracks, in place; numbers of independent noise are taken one after the other.

    Args:
        mean: (N, 5), see the module's text.
        cov: (N, 5, 5) its covariance.
        model: (N,) TURNING or STRAIGHT.
        measured: (N, 5) x, y, yaw, velocity along x and y over the frame; NaN velocities are left out.
        spread: (N, 3) standard deviations of the position in m, the heading in rad, the velocity in m/s.
        agrees: (N,) out: 1 where the detection's heading agrees with the track's, -1 where it was turned around.
    """
    seen, room = np.zeros(5), np.empty(5)
    for k in range(len(mean)):
        turn = wrapped(measured[k, 2] - mean[k, 2])
        agrees[k] = 1 if abs(turn) <= math.pi / 2 else -1
        yaw = measured[k, 2] if agrees[k] > 0 else measured[k, 2] + math.pi
        for i in range(2):
            seen[:] = 0
            seen[i] = 1.0
            _take(mean[k], cov[k], seen, measured[k, i] - mean[k, i], spread[k, 0] ** 2, room)
        seen[:] = 0
        seen[2] = 1.0
        _take(mean[k], cov[k], seen, wrapped(yaw - mean[k, 2]), spread[k, 1] ** 2, room)
        if not (math.isnan(measured[k, 3]) or math.isnan(measured[k, 4])):
            for i in range(2):
                seen[:] = 0
                expected = mean[k, 3 + i]
                if model[k] == TURNING:
                    cosine, sine, speed = math.cos(mean[k, 2]), math.sin(mean[k, 2]), mean[k, 3]
                    expected = speed * (sine if i else cosine)
                    seen[2], seen[3] = speed * (cosine if i else -sine), (sine if i else cosine)
                else:
                    seen[3 + i] = 1.0
                _take(mean[k], cov[k], seen, measured[k, 3 + i] - expected, spread[k, 2] ** 2, room)
        mean[k, 2] = wrapped(mean[k, 2])


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def drift_alone(variance: Any, drift: Any, label: Any, seconds: float) -> None:
    """Let numbers that depend on nothing else grow less certain, in place.

    Args:
        variance: (N, M).
        drift: (K,) by class, standard deviation a second.
        label: (N,) class.
        seconds: since they were as they are.
    """
    for k in range(len(variance)):
        for i in range(variance.shape[1]):
            variance[k, i] += (drift[label[k]] * seconds) ** 2


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def update_alone(mean: Any, variance: Any, measured: Any, spread: Any) -> None:
    """Take measured numbers that depend on nothing else into means and variances (N, M), in place.

    Args:
        mean: (N, M).
        variance: (N, M).
        measured: (N, M).
        spread: (N,) standard deviation of what is measured.
    """
    for k in range(len(mean)):
        for i in range(mean.shape[1]):
            gain = variance[k, i] / (variance[k, i] + spread[k] ** 2)
            mean[k, i] += gain * (measured[k, i] - mean[k, i])
            variance[k, i] *= 1 - gain


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def turn_around(mean: Any, cov: Any, model: Any) -> None:
    """Turn tracks by half a turn, in place: a track that goes backwards all the time has its front at the other end."""
    for k in range(len(mean)):
        mean[k, 2] = wrapped(mean[k, 2] + math.pi)
        if model[k] == TURNING:
            mean[k, 3] = -mean[k, 3]
            for i in range(5):
                if i != 3:
                    cov[k, i, 3] = -cov[k, i, 3]
                    cov[k, 3, i] = -cov[k, 3, i]


def convert(mean: Any, cov: Any, before: Any, after: Any) -> None:
    """Rewrite, in place, the states of tracks whose class, and with it the motion model, has changed."""
    for k in np.flatnonzero(before != after):
        cosine, sine = np.cos(mean[k, 2]), np.sin(mean[k, 2])
        spread = float(cov[k, 3, 3] + cov[k, 4, 4])
        if after[k] == TURNING:
            mean[k, 3], mean[k, 4] = cosine * mean[k, 3] + sine * mean[k, 4], 0.0
        else:
            mean[k, 3], mean[k, 4] = cosine * mean[k, 3], sine * mean[k, 3]
        cov[k, 3:, :] = cov[k, :, 3:] = 0.0
        cov[k, 3, 3], cov[k, 4, 4] = spread, 0.2**2 if after[k] == TURNING else spread


__all__ = [
    "STRAIGHT", "TURNING", "convert", "drift_alone", "predict", "turn_around", "update", "update_alone", "wrapped",
]  # fmt: skip
