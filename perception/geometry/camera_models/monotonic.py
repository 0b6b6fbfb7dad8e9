"""Invert a function that grows: what unprojecting comes down to for models that are given from ray to picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

SAMPLES = 1024
STEPS = 12


def inverted(value: Callable[[Float], Float], slope: Callable[[Float], Float], arguments: Float, goal: Float) -> Float:
    """Return where a growing function has the values `goal`, to rounding; outside its range, the nearest end.

    Args:
        value: the function.
        slope: its derivative.
        arguments: (S,) rising samples between whose ends the function grows; they bracket the answer.
        goal: (N,).

    Newton's method that falls back to halving the bracket, so that it neither leaves it nor stalls where the slope
    goes to zero.
    """
    known = value(arguments)
    wanted = np.clip(goal, known[0], known[-1])
    upper = np.clip(np.searchsorted(known, wanted), 1, len(arguments) - 1)
    low, high = arguments[upper - 1].copy(), arguments[upper].copy()
    share = (wanted - known[upper - 1]) / np.maximum(known[upper] - known[upper - 1], 1e-300)
    at: Float = low + np.clip(share, 0.0, 1.0) * (high - low)
    for _ in range(STEPS):
        error = value(at) - wanted
        high, low = np.where(error > 0, at, high), np.where(error <= 0, at, low)
        rise = slope(at)
        step = at - error / np.where(np.abs(rise) > 1e-300, rise, 1.0)
        inside = (rise > 0) & (step >= low) & (step <= high)
        at = np.where(inside, step, (low + high) / 2)
    return at


def first_root(coefficients: Float, above: float, below: float) -> float:
    """Return the smallest real root of a polynomial (constant term first) between two limits, or infinity."""
    trimmed = np.trim_zeros(np.where(np.abs(coefficients) > 1e-20, coefficients, 0.0), "b")  # less overflows
    if len(trimmed) < 2:
        return np.inf
    roots = np.polynomial.polynomial.polyroots(trimmed)
    real = roots[np.abs(roots.imag) < 1e-9 * np.maximum(1.0, np.abs(roots))].real
    inside = real[(real > above) & (real < below)]
    return float(inside.min()) if len(inside) else np.inf


__all__ = ["SAMPLES", "first_root", "inverted"]
