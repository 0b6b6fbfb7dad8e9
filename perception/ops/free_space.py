"""How far the ground is known to be free in every direction, from points on the road and points on everything else."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

NEITHER, DRIVABLE, BLOCKED = 0, 1, 2
"""Kinds of points: says nothing, is road, is something that one must not drive on or into."""


def free_ranges(
    points_m: NDArray[np.float64],
    kind: NDArray[np.uint8],
    *,
    sectors: int,
    margin_m: float,
    blind_m: float,
    max_gap_m: float,
    max_range_m: float,
) -> NDArray[np.float64]:
    """Return (sectors,) metres that are free in each direction, counter-clockwise from +x.

    A direction is free as far as road points follow each other with gaps of at most `max_gap_m`, the first within
    `blind_m` of the origin, up to `margin_m` before the nearest blocked point. What nobody saw is not free.

    Args:
        points_m: (N, 2) on the ground plane, relative to where the rays begin.
        kind: (N,) NEITHER, DRIVABLE or BLOCKED.
        sectors: directions of equal width; sector s lies between s and s + 1 times 360 degrees over their number.
        margin_m: radius that each blocked point takes.
        blind_m: the ground nearer than this need not be seen.
        max_gap_m: between neighbouring road points of a direction.
        max_range_m: no farther than this.
    """
    distance = np.hypot(points_m[:, 0], points_m[:, 1])
    sector = np.floor(np.arctan2(points_m[:, 1], points_m[:, 0]) / (2 * np.pi) * sectors).astype(np.int64) % sectors
    order = np.lexsort((distance, sector))
    return _ranges(  # type: ignore[no-any-return]
        points_m[order], distance[order], sector[order], kind[order], sectors, margin_m, blind_m, max_gap_m, max_range_m
    )


@numba.njit(nogil=True, cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _ranges(
    points_m: NDArray[np.float64],
    distance: NDArray[np.float64],
    sector: NDArray[np.int64],
    kind: NDArray[np.uint8],
    sectors: int,
    margin_m: float,
    blind_m: float,
    max_gap_m: float,
    max_range_m: float,
) -> NDArray[np.float64]:
    limit = np.full(sectors, max_range_m)
    width = 2 * np.pi / sectors
    for n in range(len(distance)):
        if kind[n] != 2:
            continue
        if distance[n] <= margin_m:
            limit[:] = 0.0
            break
        angle = np.arctan2(points_m[n, 1], points_m[n, 0])
        aside = np.arcsin(margin_m / distance[n])
        for s in range(int(np.floor((angle - aside) / width)), int(np.floor((angle + aside) / width)) + 1):
            limit[s % sectors] = min(limit[s % sectors], distance[n] - margin_m)
    free = np.zeros(sectors)
    ended = np.zeros(sectors, np.bool_)
    for n in range(len(distance)):  # by sector, from near to far
        s = sector[n]
        if kind[n] != 1 or ended[s]:
            continue
        gap = blind_m if free[s] == 0.0 else max_gap_m
        if distance[n] > limit[s] or distance[n] - free[s] > gap:
            ended[s] = True
        else:
            free[s] = distance[n]
    return free


def polygon(ranges_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the outline (N, 2) of the free sectors, counter-clockwise, relative to where the rays begin.

    Each sector is a triangle between its two edges, which lies within its circle; neighbours without range meet in the
    origin. (0, 2) where nothing is free.
    """
    if not (ranges_m > 0).any():
        return np.zeros((0, 2))
    edges = np.arange(len(ranges_m) + 1) * (2 * np.pi / len(ranges_m))
    directions = np.column_stack((np.cos(edges), np.sin(edges)))
    corners = np.stack((ranges_m[:, None] * directions[:-1], ranges_m[:, None] * directions[1:]), axis=1)
    outline = corners.reshape(-1, 2)
    repeated = np.abs(outline - np.roll(outline, 1, axis=0)).max(axis=1) < 1e-9
    return np.asarray(outline[~repeated])


__all__ = ["BLOCKED", "DRIVABLE", "NEITHER", "free_ranges", "polygon"]
