"""Pictures from events, in which a board can be found.

accumulate   of a blinking board (a screen, an LED panel): every blink makes all bright squares fire at once; the events
             of a window, brighter ones up and darker ones down, are a picture of the board.
reconstruct  of a moving board: a high-pass filter of each pixel's events (Scheerlinck et al., "Continuous-time
             intensity estimation using event cameras", ACCV 2018, without frames): log intensity that forgets slowly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Grey: TypeAlias = NDArray[np.uint8]
Mode: TypeAlias = Literal["accumulate", "reconstruct"]


@dataclass(frozen=True)
class EventPacketArrays:
    """Events in time order: t_ns, x, y and polarity (1 brighter), each (N,)."""

    t_ns: NDArray[np.int64]
    x: NDArray[np.int64]
    y: NDArray[np.int64]
    polarity: NDArray[np.int64]


def event_pictures(
    packets: Iterator[EventPacketArrays], width_px: int, height_px: int, mode: Mode, window_ms: float,
    forget_ms: float = 150.0,
) -> Iterator[tuple[int, Grey]]:  # fmt: skip
    """Yield (stamp, picture) every `window_ms`.

    Args:
        packets: in time order.
        width_px: of the sensor.
        height_px: of the sensor.
        mode: as the module's text says.
        window_ms: of one picture.
        forget_ms: time constant of `reconstruct`.
    """
    window_ns = round(window_ms * 1e6)
    state = np.zeros(height_px * width_px)
    end_ns: int | None = None
    waiting: list[EventPacketArrays] = []
    for packet in packets:
        begin = 0
        if end_ns is None and len(packet.t_ns):
            end_ns = int(packet.t_ns[0]) + window_ns
        while end_ns is not None and len(packet.t_ns) and int(packet.t_ns[-1]) >= end_ns:
            cut = int(np.searchsorted(packet.t_ns, end_ns))
            waiting.append(_part(packet, begin, cut))
            state = _advanced(state, waiting, width_px, end_ns, mode, window_ns, forget_ms)
            yield end_ns - window_ns // 2 if mode == "accumulate" else end_ns, _picture(state, width_px, height_px)
            waiting, begin, end_ns = [], cut, end_ns + window_ns
        waiting.append(_part(packet, begin, len(packet.t_ns)))


def _part(packet: EventPacketArrays, begin: int, end: int) -> EventPacketArrays:
    return EventPacketArrays(*(values[begin:end] for values in (packet.t_ns, packet.x, packet.y, packet.polarity)))


def _advanced(
    state: NDArray[np.float64], packets: list[EventPacketArrays], width: int, end_ns: int, mode: Mode, window_ns: int,
    forget_ms: float,
) -> NDArray[np.float64]:  # fmt: skip
    t, x, y, polarity = (np.concatenate([getattr(p, name) for p in packets]) for name in ("t_ns", "x", "y", "polarity"))
    sign = np.where(polarity > 0, 1.0, -1.0)
    at = y * width + x
    if mode == "accumulate":
        return _blink(at, sign, len(state))
    kept = state * np.exp(-window_ns * 1e-6 / forget_ms)
    return np.asarray(kept + np.bincount(at, sign * np.exp(-(end_ns - t) * 1e-6 / forget_ms), len(state)))


def _blink(at: NDArray[np.int64], sign: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return the polarity that dominates the window, on every pixel: a blink on, or a blink off upside down."""
    total = np.bincount(at, sign, size)
    return np.asarray(total if total.sum() >= 0 else -total)


def _picture(state: NDArray[np.float64], width: int, height: int) -> Grey:
    low, high = np.quantile(state, (0.01, 0.99))
    if high - low < 1e-9:
        return np.full((height, width), 128, np.uint8)
    scaled = np.clip((state - low) / (high - low), 0.0, 1.0) * 255
    return np.asarray(np.rint(scaled), np.uint8).reshape(height, width)


__all__ = ["EventPacketArrays", "Mode", "event_pictures"]
