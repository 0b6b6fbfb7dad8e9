"""Events as pictures and grids: what networks on event cameras read.

Each representation has a plain reference, a function of all events of a window, and a streaming form that is fed packet
by packet and gives the same numbers wherever the packets are cut (tests compare them bit by bit):

    image         red where something got brighter, blue where darker, on white (VisEvent, HARDVS)
    histogram     counts per polarity and pixel
    voxel grid    signed polarity, shared linearly between the two nearest of B instants (Zhu et al., CVPR 2019)
    time surface  exp(-age / tau) of the last event per polarity and pixel (Lagorce et al., PAMI 2017)

Channels of polarity: 0 darker, 1 brighter. H rows and W columns of the sensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError
from perception.ops.events import Events

BACKGROUND = (255, 255, 255)
BRIGHTER = (220, 30, 30)
DARKER = (30, 30, 200)
"""Red, green and blue, as VisEvent's script draws them."""


def event_image(events: Events, height: int, width: int) -> NDArray[np.uint8]:
    """Draw events as HARDVS does: no counts, and darker wins whatever the order in time.

    Returns:
        (H, W, 3) red, green, blue.

    Raises:
        ShapeError: an event outside the sensor.

    Source: VisEvent_SOT_Benchmark, scripts/read_aedat4.py, which the authors of HARDVS point to.
    """
    events.check_fits(height, width)
    image = np.full((height, width, 3), BACKGROUND, np.uint8)
    brighter = events.polarity > 0
    image[events.y[brighter], events.x[brighter]] = BRIGHTER
    image[events.y[~brighter], events.x[~brighter]] = DARKER
    return image


def window_images(
    events: Events, windows_ns: Iterable[tuple[int, int]], height: int, width: int
) -> Iterator[NDArray[np.uint8]]:
    """Draw one image per window begin <= t < end; windows may overlap or leave gaps.

    Raises:
        ShapeError: an event outside the sensor, or times that fall.
    """
    if (np.diff(events.t_ns) < 0).any():
        raise ShapeError("event times fall; windows need them in ascending order")
    for begin_ns, end_ns in windows_ns:
        yield event_image(events.between(begin_ns, end_ns), height, width)


def event_histogram(events: Events, height: int, width: int) -> NDArray[np.int32]:
    """Count events; returns (2, H, W).

    Raises:
        ShapeError: an event outside the sensor.
    """
    events.check_fits(height, width)
    counts = np.zeros((2, height, width), np.int32)
    np.add.at(counts, ((events.polarity > 0).astype(np.intp), events.y, events.x), 1)
    return counts


def voxel_grid(events: Events, span_ns: tuple[int, int], bins: int, height: int, width: int) -> NDArray[np.float64]:
    """Spread events over `bins` instants from begin to end of the span, both included.

    An event of time t adds +1 (brighter) or -1 (darker) times max(0, 1 - |b - (B - 1) (t - begin) / (end - begin)|) to
    bin b. Events outside of the span add nothing.

    Returns:
        (B, H, W), each cell summed in the order of its events.

    Raises:
        ShapeError: an event outside the sensor, fewer than two bins, or an empty span.

    Source: Zhu et al., "Unsupervised Event-based Learning of Optical Flow, Depth, and Egomotion", CVPR 2019, eq. 1-3,
    with the span given instead of taken from the first and last event, so that it is known while events arrive.
    """
    events.check_fits(height, width)
    begin_ns, end_ns = _checked_span(span_ns, bins)
    grid = np.zeros((bins, height, width))
    events = events[(events.t_ns >= begin_ns) & (events.t_ns <= end_ns)]
    place = (events.t_ns - begin_ns) * (bins - 1) / (end_ns - begin_ns)
    below = np.minimum(place.astype(np.intp), bins - 2)
    sign = np.where(events.polarity > 0, 1.0, -1.0)
    np.add.at(grid, (below, events.y, events.x), sign * (1 - (place - below)))
    above = np.zeros_like(grid)
    np.add.at(above, (below + 1, events.y, events.x), sign * (place - below))
    return grid + above


def time_surface(events: Events, at_ns: int, tau_ns: float, height: int, width: int) -> NDArray[np.float32]:
    """Return exp(-(at - t) / tau) of the last event up to `at_ns` per polarity and pixel, 0 where there was none.

    Returns:
        (2, H, W).

    Raises:
        ShapeError: an event outside the sensor, or a tau that is not positive.
    """
    events.check_fits(height, width)
    last = np.full((2, height, width), _NEVER, np.int64)
    past = events[events.t_ns <= at_ns]
    np.maximum.at(last, ((past.polarity > 0).astype(np.intp), past.y, past.x), past.t_ns)
    return _decayed(last, at_ns, tau_ns)


def colours_of(marks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Paint the marks of `EventImage` of any shape; returns that shape with red, green and blue behind it."""
    return _PALETTE[marks]


class EventImage:
    """`event_image` of all packets since the last `clear`."""

    def __init__(self, height: int, width: int) -> None:
        self._seen = np.zeros((height, width), np.uint8)  # bit 0: brighter, bit 1: darker

    def add(self, events: Events) -> None:
        """Take a packet; ShapeError where an event lies outside the sensor, and then nothing of it is taken."""
        events.check_fits(*self._seen.shape)
        _mark(events.x, events.y, events.polarity, self._seen)

    def image(self) -> NDArray[np.uint8]:
        """Return (H, W, 3) red, green, blue."""
        return colours_of(self._seen)

    def marks(self) -> NDArray[np.uint8]:
        """Return a copy (H, W), bit 0 where something got brighter, bit 1 where darker: two windows are one by `|`."""
        return self._seen.copy()

    def clear(self) -> None:
        """Begin a new window."""
        self._seen.fill(0)


class EventHistogram:
    """`event_histogram` of all packets since the last `clear`."""

    def __init__(self, height: int, width: int) -> None:
        self._counts = np.zeros((2, height, width), np.int32)

    def add(self, events: Events) -> None:
        """Take a packet; ShapeError where an event lies outside the sensor, and then nothing of it is taken."""
        _, height, width = self._counts.shape
        events.check_fits(height, width)
        _count(events.x, events.y, events.polarity, self._counts)

    def counts(self) -> NDArray[np.int32]:
        """Return a copy, (2, H, W)."""
        return self._counts.copy()

    def clear(self) -> None:
        """Begin a new window."""
        self._counts.fill(0)


class VoxelGrid:
    """`voxel_grid` of all packets of one span."""

    def __init__(self, span_ns: tuple[int, int], bins: int, height: int, width: int) -> None:
        self._begin_ns, self._end_ns = _checked_span(span_ns, bins)
        # An event's share of the bin before it and of the bin after it are summed apart, as in the reference: floats
        # are equal to the last bit only if they are added in the same order.
        self._before = np.zeros((bins, height, width))
        self._after = np.zeros((bins, height, width))

    def add(self, events: Events) -> None:
        """Take a packet; ShapeError where an event lies outside the sensor, and then nothing of it is taken."""
        _, height, width = self._before.shape
        events.check_fits(height, width)
        inside = events[(events.t_ns >= self._begin_ns) & (events.t_ns <= self._end_ns)]
        place = (inside.t_ns - self._begin_ns) * (len(self._before) - 1) / (self._end_ns - self._begin_ns)
        _spread(place, inside.x, inside.y, inside.polarity, (self._before, self._after))

    def grid(self) -> NDArray[np.float64]:
        """Return (B, H, W)."""
        grid: NDArray[np.float64] = self._before + self._after
        return grid


class TimeSurface:
    """`time_surface` of all packets so far."""

    def __init__(self, tau_ns: float, height: int, width: int) -> None:
        self._tau_ns = tau_ns
        self._last = np.full((2, height, width), _NEVER, np.int64)

    def add(self, events: Events) -> None:
        """Take a packet; ShapeError where an event lies outside the sensor, and then nothing of it is taken."""
        _, height, width = self._last.shape
        events.check_fits(height, width)
        _remember(events.t_ns, events.x, events.y, events.polarity, self._last)

    def surface(self, at_ns: int) -> NDArray[np.float32]:
        """Return (2, H, W) at `at_ns`; ShapeError if an event taken so far came later."""
        return _decayed(self._last, at_ns, self._tau_ns)


_NEVER = np.iinfo(np.int64).min
_PALETTE = np.array([BACKGROUND, BRIGHTER, DARKER, DARKER], np.uint8)


def _decayed(last: NDArray[np.int64], at_ns: int, tau_ns: float) -> NDArray[np.float32]:
    if not tau_ns > 0:
        raise ShapeError(f"a time surface with tau {tau_ns} ns; expected more than 0")
    if last.max() > at_ns:
        raise ShapeError(f"the time surface of {at_ns} ns was asked for after an event of {last.max()} ns")
    age = at_ns - np.where(last == _NEVER, at_ns, last)
    surface: NDArray[np.float32] = np.where(last == _NEVER, 0.0, np.exp(-age / tau_ns)).astype(np.float32)
    return surface


def _checked_span(span_ns: tuple[int, int], bins: int) -> tuple[int, int]:
    begin_ns, end_ns = span_ns
    if bins < 2 or end_ns <= begin_ns:
        raise ShapeError(f"a voxel grid of {bins} bins from {begin_ns} to {end_ns} ns; expected two bins, and a span")
    return begin_ns, end_ns


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _mark(x: Any, y: Any, polarity: Any, seen: Any) -> None:
    for i in range(len(x)):
        seen[y[i], x[i]] |= 1 if polarity[i] > 0 else 2


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count(x: Any, y: Any, polarity: Any, counts: Any) -> None:
    for i in range(len(x)):
        counts[1 if polarity[i] > 0 else 0, y[i], x[i]] += 1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _spread(place: Any, x: Any, y: Any, polarity: Any, grids: Any) -> None:
    before, after = grids
    for i in range(len(place)):
        below = min(int(place[i]), before.shape[0] - 2)
        sign = 1.0 if polarity[i] > 0 else -1.0
        before[below, y[i], x[i]] += sign * (1 - (place[i] - below))
        after[below + 1, y[i], x[i]] += sign * (place[i] - below)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _remember(t: Any, x: Any, y: Any, polarity: Any, last: Any) -> None:
    for i in range(len(t)):
        channel = 1 if polarity[i] > 0 else 0
        last[channel, y[i], x[i]] = max(last[channel, y[i], x[i]], t[i])
