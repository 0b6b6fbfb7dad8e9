"""The clock of an event camera against the host's: offset and drift, given or estimated from trigger edges.

A pulse that both sides see (a camera's exposure, a pulse per second, a line that the host drives) has a time in each
clock. Pairs of such times give the offset and, over some seconds, the drift.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError

DRIFT_NEEDS_NS = 2_000_000_000
"""Pairs must span so much before a drift is estimated: over less, noise looks like drift."""
LARGEST_DRIFT_PPM = 500.0
FIRST_PAIRS = 5
LARGEST_SHIFT = 6
"""Where no offset is given, so many first pairs must agree, and edges are shifted so far against references."""
ALIGNED_NS = 500_000
"""How well they must agree."""


@dataclass(frozen=True)
class ClockModel:
    """How host time follows from camera time: host = camera + offset + drift * (camera - at)."""

    offset_ns: int
    drift_ppm: float = 0.0
    at_ns: int = 0
    """Camera time at which the offset holds."""
    pairs: int = 0
    """Pairs behind an estimate; 0 where the numbers were given."""
    residual_ns: float = 0.0
    """Root mean square of what the pairs lie beside the estimate."""

    def to_host(self, t_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Convert camera times, nanoseconds."""
        drift = np.rint((t_ns - self.at_ns) * (self.drift_ppm * 1e-6)).astype(np.int64)
        host: NDArray[np.int64] = t_ns + self.offset_ns + drift
        return host

    def one_to_host(self, t_ns: int) -> int:
        """Convert one camera time."""
        return int(self.to_host(np.array([t_ns], np.int64))[0])

    def line(self, clock: str) -> str:
        """Return a line for the status."""
        text = f"clock {clock}: offset {self.offset_ns} ns, drift {self.drift_ppm:+.3f} ppm"
        if not self.pairs:
            return f"{text}, as given"
        return f"{text}, from {self.pairs} trigger edges, {self.residual_ns / 1e3:.1f} us beside them (rms)"


def fitted(camera_ns: NDArray[np.int64], host_ns: NDArray[np.int64], drift_ppm: float = 0.0) -> ClockModel:
    """Fit offset and drift to pairs, leaving out pairs far from the others.

    Args:
        camera_ns: (N,) times of edges.
        host_ns: (N,) the same instants in host time.
        drift_ppm: the drift taken where the pairs span too little to tell it.

    Raises:
        ShapeError: no pair, or not as many on both sides.
    """
    if len(camera_ns) != len(host_ns) or not len(camera_ns):
        raise ShapeError(f"{len(camera_ns)} edges and {len(host_ns)} references; expected pairs")
    at_ns = int(camera_ns[-1])
    x = (camera_ns - at_ns).astype(np.float64)
    base = int(host_ns[-1] - camera_ns[-1])
    y = (host_ns - camera_ns - base).astype(np.float64)
    kept = np.ones(len(x), bool)
    for _ in range(3):
        slope, start = _line(x[kept], y[kept], drift_ppm * 1e-6)
        beside = np.abs(y - (start + slope * x))
        limit = max(3 * 1.4826 * float(np.median(beside[kept])), 1000.0)
        if (beside[kept] <= limit).all():
            break
        kept = beside <= limit
    residual = float(np.sqrt(np.mean((y - (start + slope * x))[kept] ** 2)))
    return ClockModel(base + round(start), slope * 1e6, at_ns, int(kept.sum()), residual)


def _line(x: NDArray[np.float64], y: NDArray[np.float64], given_slope: float) -> tuple[float, float]:
    if len(x) < 3 or np.ptp(x) < DRIFT_NEEDS_NS:
        return given_slope, float(np.mean(y - given_slope * x))
    slope, start = np.polyfit(x, y, 1)
    limited = float(np.clip(slope, -LARGEST_DRIFT_PPM * 1e-6, LARGEST_DRIFT_PPM * 1e-6))
    return limited, float(start) if limited == slope else float(np.mean(y - limited * x))


class ClockEstimator:
    """Estimates a clock from edges and references as they come.

    Args:
        given: offset and drift to start from; None where nothing is known.
        period_ns: host time of the pulses is whole multiples of it (a pulse per second); None: references are given.
        window: pairs kept.
        least: pairs needed.
    """

    def __init__(
        self, given: ClockModel | None = None, period_ns: int | None = None, window: int = 100, least: int = 3
    ) -> None:
        if period_ns is not None and given is None:
            raise ShapeError("pulses at whole multiples of a period need an offset that is right to half of it")
        self._given, self._period_ns, self._least = given, period_ns, least
        self._edges: deque[int] = deque(maxlen=window)
        self._references: deque[int] = deque(maxlen=window)
        self._pairs: deque[tuple[int, int]] = deque(maxlen=window)
        self.unmatched = 0
        """Edges that no reference was found for, once there was an estimate."""
        self.clock = given

    def edge(self, t_ns: int) -> None:
        """Take an edge, camera time."""
        if self._edges and t_ns <= self._edges[-1]:
            return
        self._edges.append(t_ns)
        if self._period_ns is not None and self.clock is not None:
            guess = self.clock.one_to_host(t_ns)
            self._pair(t_ns, round(guess / self._period_ns) * self._period_ns)
        else:
            self._match()

    def reference(self, t_ns: int) -> None:
        """Take a pulse's time in the host's clock."""
        if self._period_ns is None and not (self._references and t_ns <= self._references[-1]):
            self._references.append(t_ns)
            self._match()

    def _match(self) -> None:
        if self.clock is None:
            first = first_alignment(list(self._edges), list(self._references))
            if first is None:
                return
            self.clock = first
        tolerance = _half_shortest(self._references)
        while self._edges and self._references:
            beside = self._references[0] - self.clock.one_to_host(self._edges[0])
            if abs(beside) <= tolerance:
                self._pair(self._edges.popleft(), self._references.popleft())
            elif beside > 0:
                self._edges.popleft()
                self.unmatched += 1
            else:
                self._references.popleft()

    def _pair(self, camera_ns: int, host_ns: int) -> None:
        self._pairs.append((camera_ns, host_ns))
        if len(self._pairs) >= self._least:
            camera, host = np.array(self._pairs, np.int64).T
            self.clock = fitted(camera, host, self._given.drift_ppm if self._given is not None else 0.0)


def first_alignment(edges: list[int], references: list[int]) -> ClockModel | None:
    """Return a clock under which the first edges meet the first references, None while too few agree.

    Both are shifted against each other by a few places; the shift whose intervals agree best wins, and of equal ones,
    as those of a strictly periodic pulse are, the smallest: the first edge is then the first reference.
    """
    best: ClockModel | None = None
    for shift in sorted(range(-LARGEST_SHIFT, LARGEST_SHIFT + 1), key=abs):
        camera, host = edges[max(0, -shift) :], references[max(0, shift) :]
        count = min(len(camera), len(host))
        if count < FIRST_PAIRS:
            continue
        clock = fitted(np.array(camera[:count], np.int64), np.array(host[:count], np.int64))
        if clock.residual_ns > ALIGNED_NS or clock.pairs < count:
            continue
        if best is None or clock.residual_ns < 0.1 * best.residual_ns - 10_000:
            best = clock
    return best


def _half_shortest(references: deque[int]) -> float:
    """Return half of the shortest interval between references, within which an edge is one of them."""
    gaps = [later - earlier for earlier, later in pairwise(references)]
    return min(gaps) / 2 if gaps else 10_000_000.0


__all__ = ["ClockEstimator", "ClockModel", "first_alignment", "fitted"]
