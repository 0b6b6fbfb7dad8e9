"""An event camera: each pixel fires when the logarithm of its light has changed by its threshold.

Between renderings a few milliseconds apart the logarithm is taken to be linear, so that events have stamps of
microseconds (Rebecq et al., "ESIM: an Open Event Camera Simulator", CoRL 2018). Thresholds differ from pixel to pixel,
a pixel is blind for a refractory period after each event, and noise fires without a change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.simulation.intersections import jit

Float: TypeAlias = NDArray[np.float64]


LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Shares of red, green and blue."""


@dataclass(frozen=True)
class EventSettings:
    """What kind of event camera it is.

    Attributes:
        threshold: change of the natural logarithm that fires.
        mismatch: standard deviation of the threshold from pixel to pixel.
        refractory_ns: blind time after an event.
        noise_hz: events per pixel and second without a change.
        floor: light that is always there, so that dark stays finite.
    """

    threshold: float = 0.22
    mismatch: float = 0.03
    refractory_ns: int = 500_000
    noise_hz: float = 0.15
    floor: float = 0.02


@dataclass(frozen=True, eq=False)
class Events:
    """N events in time order, columns as in `EventPacket`."""

    t_ns: NDArray[np.int64]
    x: NDArray[np.uint16]
    y: NDArray[np.uint16]
    polarity: NDArray[np.uint8]


Light: TypeAlias = tuple[Float, NDArray[np.int64]]
"""The logarithm of the light of some pixels, and their numbers."""
Lights: TypeAlias = Callable[[Sequence[int]], Iterator[Light]]
"""Gives those of instants, one after the other."""

NO_EVENTS = Events(np.zeros(0, np.int64), np.zeros(0, np.uint16), np.zeros(0, np.uint16), np.zeros(0, np.uint8))


def log_of(radiance: NDArray[np.float32], settings: EventSettings) -> Float:
    """Return what pixels see of linear light (N, 3): the logarithm of its luminance and the floor."""
    luminance = LUMA[0] * radiance[:, 0] + LUMA[1] * radiance[:, 1] + LUMA[2] * radiance[:, 2]
    light: Float = np.log(luminance.astype(np.float64) + settings.floor)
    return light


class EventSensor:
    """The pixels of one event camera; it is fed with light, step by step.

    Args:
        width_px, height_px: of the sensor.
        settings: see there.
        seed: of mismatch and noise.
    """

    def __init__(self, width_px: int, height_px: int, settings: EventSettings, seed: tuple[int, ...]) -> None:
        self.width_px, self.settings = width_px, settings
        self._random = np.random.default_rng(seed)
        count = width_px * height_px
        spread = settings.threshold + settings.mismatch * self._random.standard_normal((2, count))
        self._thresholds = np.maximum(spread, 0.05)
        self._log = np.full(count, np.log(settings.floor))
        self._reference = self._log.copy()
        self._blind_until_ns = np.full(count, np.iinfo(np.int64).min)
        self._t_ns: int | None = None
        most = 4 * count
        self._found = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.uint8)

    def feed(self, log: Float, t_ns: int, pixels: NDArray[np.int64] | None = None) -> Events:
        """Return the events since the last light; the first light sets the pixels.

        Args:
            log: (N,) logarithm of the light, as `log_of` gives it.
            t_ns: its instant.
            pixels: (N,) row by row numbers of those that it falls on; the others keep their light. By default all.
        """
        pixels = np.arange(len(self._log)) if pixels is None else pixels
        if self._t_ns is None:
            self._log[pixels] = self._reference[pixels] = log
            self._t_ns = t_ns
            return NO_EVENTS
        begin_ns, all_pixels = self._t_ns, len(self._log)
        t, where, sign = self._found
        fired = _fire(
            pixels, self._log, log, begin_ns, t_ns, self._thresholds, self._reference, self._blind_until_ns,
            self.settings.refractory_ns, t, where, sign,
        )  # fmt: skip
        noise = self._random.poisson(self.settings.noise_hz * all_pixels * (t_ns - begin_ns) * 1e-9)
        count = min(fired + noise, len(t))
        t[fired:count] = self._random.integers(begin_ns + 1, t_ns + 1, noise)[: count - fired]
        where[fired:count] = self._random.integers(0, all_pixels, noise)[: count - fired]
        sign[fired:count] = self._random.integers(0, 2, noise, np.uint8)[: count - fired]
        self._t_ns = t_ns
        keys = np.empty(count, np.int64)
        _tick(t, where, begin_ns, all_pixels, keys)
        events = Events(
            np.empty(count, np.int64), np.empty(count, np.uint16), np.empty(count, np.uint16),
            np.empty(count, np.uint8),
        )  # fmt: skip
        order = np.argsort(keys, kind="stable")
        _sorted(order, t, where, sign, self.width_px, events.t_ns, events.x, events.y, events.polarity)
        return events


@jit
def _tick(t: Any, where: Any, begin_ns: int, pixels: int, keys: Any) -> None:
    """Let the clock of the sensor tick once a microsecond; fill keys that order by time, then by pixel."""
    for k in range(len(keys)):
        t[k] = t[k] // 1000 * 1000
        keys[k] = (t[k] - begin_ns) * pixels + where[k]


@jit
def _sorted(order: Any, t: Any, where: Any, sign: Any, width: int, times: Any, x: Any, y: Any, polarity: Any) -> None:
    for k in range(len(order)):
        i = order[k]
        row = where[i] // width
        times[k], x[k], y[k], polarity[k] = t[i], where[i] - row * width, row, sign[i]


@jit
def _fire(
    pixels: NDArray[np.int64], log: Float, after: Float, begin_ns: int, end_ns: int, thresholds: Float,
    reference: Float, blind_until_ns: Any, refractory_ns: int, t: Any, where: Any, sign: Any,
) -> int:  # fmt: skip
    """Fill the events of pixels whose `log` goes to `after`; return how many."""
    count, most, span = 0, len(t), float(end_ns - begin_ns)
    for k in range(len(pixels)):
        p = pixels[k]
        a, b = log[p], after[k]
        if a == b:
            continue
        log[p] = b
        up = b > a
        step = thresholds[1, p] if up else -thresholds[0, p]
        while count < most:
            level = reference[p] + step
            if (up and level > b) or (not up and level < b):
                break
            share = min(max((level - a) / (b - a), 0.0), 1.0)
            at = begin_ns + max(int(share * span), 1)
            reference[p] = level
            if at >= blind_until_ns[p]:
                t[count], where[count], sign[count] = at, p, 1 if up else 0
                count += 1
                blind_until_ns[p] = at + refractory_ns
    return count


__all__ = ["NO_EVENTS", "EventSensor", "EventSettings", "Events", "Light", "Lights", "log_of"]
