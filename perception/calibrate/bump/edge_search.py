"""Where a picture has an edge near a line that is looked for: kernels, a line at a time.

A line is a pixel and the direction across it. The picture is sampled along that direction; how much it changes over two
pixels says how much of an edge is there.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float64]
Index: TypeAlias = NDArray[np.int64]

WEAKEST = 8.0
"""Grey values over two pixels below which there is no edge."""
STRONG = 25.0
"""Grey values at which an edge counts half: a bright marking nearby draws no more than the outline itself."""
STEP_PX = 0.5
STEEPEST = 0.4
"""Cosine between the direction of search and the normal of an edge below which it runs along the search."""


def attraction(
    pictures: Float, which: Index, pixels: Float, direction: Float, window_px: Float
) -> tuple[Float, Float, Float, Float]:
    """Return how far each line is drawn along its direction (N,), how strongly, how firmly, and what moves it (N, 2).

    Edges within the window pull (mean shift with a Gaussian kernel: Cheng, "Mean shift, mode seeking, and clustering",
    PAMI 1995), by how much of the window they fill: what is far off pulls little. Firm is a pull that grows as fast as
    the line is moved off: of one thin edge, as firm as strong; of two, or of a wide one, less, or below zero. The last
    is the normal of the edge that was found over its component along the direction: a line that runs aslant through the
    picture moves along the direction of search when it is moved across, too.

    Args:
        pictures: (S, H, W) grey, smoothed.
        which: (N,) picture of each line.
        pixels: (N, 2) column and row.
        direction: (N, 2) unit vectors.
        window_px: (N,) half width of the search for each.
    """
    mean, weight, firm = (np.zeros(len(pixels)) for _ in range(3))
    normal = direction.copy()
    _attract(pictures, which, pixels, direction, window_px, mean, weight, firm, normal)
    return mean, weight, firm, normal


def edge_share(pictures: Float, which: Index, pixels: Float, direction: Float, reach_px: Float) -> Float:
    """Return for each line (N,) how much of an edge is within `reach_px` (N,) of it, 0 to 1."""
    share = np.zeros(len(pixels))
    _share(pictures, which, pixels, direction, reach_px, share)
    return share


def smooth(grey: NDArray[np.uint8]) -> Float:
    """Return the picture after a binomial filter of 3 x 3, as float."""
    out = grey.astype(np.float64)
    for axis in (0, 1):
        padded = np.pad(out, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        first, middle, last = (np.take(padded, range(k, k + out.shape[axis]), axis) for k in range(3))
        out = (first + 2 * middle + last) / 4
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _at(grey: Any, u: float, v: float) -> float:
    """Sample bilinearly; places outside take the nearest inside."""
    height, width = grey.shape
    u, v = min(max(u, 0.0), width - 1.001), min(max(v, 0.0), height - 1.001)
    left, top = int(u), int(v)
    fu, fv = u - left, v - top
    upper = grey[top, left] * (1 - fu) + grey[top, left + 1] * fu
    lower = grey[top + 1, left] * (1 - fu) + grey[top + 1, left + 1] * fu
    return float(upper * (1 - fv) + lower * fv)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _edge(grey: Any, u: float, v: float, du: float, dv: float) -> float:
    """Return how much of an edge lies across (du, dv) at a place, 0 to 1."""
    change = abs(_at(grey, u + du, v + dv) - _at(grey, u - du, v - dv)) - WEAKEST
    if change <= 0.0:
        return 0.0
    return float(change * change / (change * change + STRONG * STRONG))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _attract(
    pictures: Any, which: Any, pixels: Any, direction: Any, windows: Any, mean: Any, weight: Any, firm: Any,
    normal: Any,
) -> None:  # fmt: skip
    for n in range(len(pixels)):
        grey, window = pictures[which[n]], windows[n]
        steps, whole = int(1.5 * window / STEP_PX), window * math.sqrt(math.pi / 2.0) / STEP_PX
        u, v, du, dv = pixels[n, 0], pixels[n, 1], direction[n, 0], direction[n, 1]
        total, first, second = 0.0, 0.0, 0.0
        for k in range(-steps, steps + 1):
            reach = k * STEP_PX
            pull = _edge(grey, u + reach * du, v + reach * dv, du, dv) * math.exp(-2.0 * (reach / window) ** 2)
            total += pull
            first += pull * reach
            second += pull * reach * reach
        if total <= 0.0:
            continue
        middle = first / total
        mean[n] = middle
        u, v = u + middle * du, v + middle * dv
        slope_u, slope_v = _at(grey, u + 1, v) - _at(grey, u - 1, v), _at(grey, u, v + 1) - _at(grey, u, v - 1)
        along = slope_u * du + slope_v * dv
        if abs(along) > STEEPEST * math.hypot(slope_u, slope_v):
            weight[n] = total / whole
            firm[n] = weight[n] * (1.0 - 4.0 * (second / total - middle * middle) / (window * window))
            normal[n, 0], normal[n, 1] = slope_u / along, slope_v / along


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _share(pictures: Any, which: Any, pixels: Any, direction: Any, reach: Any, share: Any) -> None:
    for n in range(len(pixels)):
        grey = pictures[which[n]]
        u, v, du, dv = pixels[n, 0], pixels[n, 1], direction[n, 0], direction[n, 1]
        total = 0.0
        for k in range(-2, 3):
            at = 0.5 * k * reach[n]
            total += _edge(grey, u + at * du, v + at * dv, du, dv)
        share[n] = total / 5


__all__ = ["attraction", "edge_share", "smooth"]
