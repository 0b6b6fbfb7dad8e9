"""How far the stamps of two sensors are apart, from what both feel of one motion.

Both signals (angular rate, or motion energy of pictures and events) are laid on one grid and correlated; the peak, to a
fraction of the grid by a parabola, is the offset. As in Kelly & Sukhatme, "A general framework for temporal
calibration of multiple proprioceptive and exteroceptive sensors", ISER 2010, for one degree of freedom.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import UserError

Float: TypeAlias = NDArray[np.float64]

GRID_S = 0.002
FEWEST_S = 3.0
GOOD_CORRELATION = 0.6
PARTS = 6


@dataclass(frozen=True)
class Signal:
    """What one sensor feels of the motion.

    Attributes:
        name: of its topic.
        t_ns: (N,) rising.
        value: (N,) any unit.
    """

    name: str
    t_ns: NDArray[np.int64]
    value: Float


@dataclass(frozen=True)
class OffsetResult:
    """How far apart two clocks are.

    Attributes:
        offset_ms: added to the stamps of the first, it lays them on those of the second.
        deviation_ms: standard deviation, from parts of the recording.
        correlation: of both signals at the offset, -1 to 1.
        runner_up: the next best peak's correlation, 60 ms or more away.
        lags_ms: (L,) of the correlation curve.
        curve: (L,).
    """

    offset_ms: float
    deviation_ms: float
    correlation: float
    runner_up: float
    lags_ms: Float
    curve: Float


def find_offset(first: Signal, second: Signal, largest_ms: float = 500.0) -> OffsetResult:
    """Find the offset between two signals of one motion.

    Args:
        first: its stamps are to be corrected.
        second: the reference.
        largest_ms: offsets up to this are looked for.

    Raises:
        UserError: too few samples, too short an overlap, or no motion.
    """
    for signal in (first, second):
        if len(signal.t_ns) < 10:
            raise UserError(f"'{signal.name}' has {len(signal.t_ns)} samples; an offset needs 10 and more")
        if np.ptp(signal.value) < 1e-12:
            raise UserError(f"'{signal.name}' does not change: record while the rig is turned to and fro")
    start = max(first.t_ns[0], second.t_ns[0]) - round(largest_ms * 1e6)
    end = min(first.t_ns[-1], second.t_ns[-1]) + round(largest_ms * 1e6)
    if min(first.t_ns[-1], second.t_ns[-1]) - max(first.t_ns[0], second.t_ns[0]) < FEWEST_S * 1e9:
        raise UserError(f"'{first.name}' and '{second.name}' overlap for less than {FEWEST_S:g} s")
    grid_s = np.arange(0.0, (end - start) * 1e-9, GRID_S)
    period_s = max(float(np.median(np.diff(signal.t_ns))) * 1e-9 for signal in (first, second))
    a, b = (_on_grid(signal, start, grid_s, period_s) for signal in (first, second))
    reach = round(largest_ms * 1e-3 / GRID_S)
    curve = _correlation(a, b, reach)
    lags_ms = np.asarray(np.arange(-reach, reach + 1) * GRID_S * 1e3, np.float64)
    offset = _peak(lags_ms, curve)
    away = np.abs(lags_ms - offset) > 60.0
    parts = []
    for part in np.array_split(np.arange(len(grid_s)), PARTS):
        piece = _correlation(a[part], b[part], reach)
        near = np.abs(lags_ms - offset) < max(60.0, 2e3 * period_s)
        parts.append(_peak(lags_ms[near], piece[near]))
    spread = float(np.median(np.abs(np.array(parts) - np.median(parts))) * 1.4826 / np.sqrt(PARTS))
    return OffsetResult(
        offset, max(spread, GRID_S * 1e3 / 10), float(curve.max()), float(curve[away].max()) if away.any() else -1.0,
        lags_ms, curve,
    )  # fmt: skip


def complaints_of_offset(result: OffsetResult) -> list[str]:
    """Return what is poor, and what to do; empty is good."""
    said = []
    if result.correlation < GOOD_CORRELATION:
        said.append(
            f"the signals agree by {result.correlation:.2f} only (1 is perfect): turn the rig to and fro about one "
            "axis, quickly and irregularly, for 20 s"
        )
    if result.runner_up > 0.9 * result.correlation:
        said.append("another offset fits nearly as well: the motion repeats itself; move irregularly")
    if result.deviation_ms > 5.0:
        said.append(f"parts of the recording differ by {result.deviation_ms:.1f} ms: record longer")
    if abs(result.offset_ms) > 0.95 * float(result.lags_ms[-1]):
        said.append("the offset lies at the end of the range: look further with --largest-ms")
    return said


def picture_motion(t_ns: NDArray[np.int64], profiles: Float) -> Float:
    """Return how far pictures move to the side between neighbours, pixels per second at each stamp (N,).

    Args:
        t_ns: (N,) stamps.
        profiles: (N, W) column means of each picture.
    """
    shifts = np.array([_shift(before, after) for before, after in pairwise(profiles)])
    rate = shifts / np.maximum(np.diff(t_ns) * 1e-9, 1e-6)
    middle = (t_ns[1:] + t_ns[:-1]) / 2
    return np.asarray(np.interp(t_ns.astype(np.float64), middle, rate))


def _shift(before: Float, after: Float) -> float:
    """Return the displacement of one profile to the next, by correlation, to a fraction of a pixel."""
    a, b = (np.gradient(profile) for profile in (before, after))
    reach = len(a) // 6
    core = slice(reach, len(a) - reach)
    scores = np.array([(a[core] * b[reach + k : len(b) - reach + k]).sum() for k in range(-reach, reach + 1)])
    return _peak(np.arange(-reach, reach + 1).astype(np.float64), scores)


def _on_grid(signal: Signal, start_ns: int, grid_s: Float, period_s: float) -> Float:
    """Return the signal on the grid without its mean and slow drift; NaN outside its own time."""
    at = (signal.t_ns - start_ns) * 1e-9
    value = np.interp(grid_s, at, signal.value)
    width = max(1, round(period_s / GRID_S))
    value = np.convolve(value, np.ones(width) / width, mode="same")
    value[(grid_s < at[0]) | (grid_s > at[-1])] = np.nan
    return value


def _correlation(a: Float, b: Float, reach: int) -> Float:
    """Return Pearson's correlation of a delayed by each lag with b, where both are."""
    out = np.full(2 * reach + 1, -1.0)
    for index, lag in enumerate(range(-reach, reach + 1)):
        x, y = (a[: len(a) - lag], b[lag:]) if lag >= 0 else (a[-lag:], b[: len(b) + lag])
        there = np.isfinite(x) & np.isfinite(y)
        if there.sum() < 100:
            continue
        x, y = x[there] - x[there].mean(), y[there] - y[there].mean()
        size = float(np.sqrt((x * x).sum() * (y * y).sum()))
        out[index] = float((x * y).sum() / size) if size > 0 else -1.0
    return out


def _peak(x: Float, y: Float) -> float:
    """Return where a curve is highest, between its samples by a parabola."""
    at = int(np.argmax(y))
    if not 0 < at < len(y) - 1:
        return float(x[at])
    left, middle, right = y[at - 1 : at + 2]
    bend = left - 2 * middle + right
    share = 0.5 * (left - right) / bend if bend < 0 else 0.0
    return float(x[at] + share * (x[1] - x[0]))


__all__ = ["OffsetResult", "Signal", "complaints_of_offset", "find_offset", "picture_motion"]
