"""How far the ground is free around the vehicle, by LiDAR points: sector after sector, up to what stands in the way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def free_polygon(
    xy_m: NDArray[np.floating], ground: NDArray[np.bool_], blocks: NDArray[np.bool_], range_m: float, sectors: int = 180
) -> NDArray[np.float32]:
    """Return the outline (2 * sectors, 2) of the free ground around the origin, counter-clockwise.

    In each sector the ground is free up to the furthest point of the ground that lies before the nearest obstacle. A
    sector without such a point is not known and has no extent: what is not seen is not free.

    Args:
        xy_m: (N, 2) places of points.
        ground: (N,) True for points of free ground.
        blocks: (N,) True for points that stand in the way.
        range_m: nothing is said beyond.
        sectors: how many, all around.
    """
    angle, distance = np.arctan2(xy_m[:, 1], xy_m[:, 0]), np.hypot(xy_m[:, 0], xy_m[:, 1])
    sector = np.minimum(((angle + np.pi) / (2 * np.pi) * sectors).astype(np.int64), sectors - 1)
    nearest = np.full(sectors, range_m)
    np.minimum.at(nearest, sector[blocks], distance[blocks])
    reach = np.zeros(sectors)
    seen = ground & (distance <= nearest[sector])
    np.maximum.at(reach, sector[seen], distance[seen])
    edges = np.arange(sectors + 1) * (2 * np.pi / sectors) - np.pi
    corner = np.stack((edges[:-1], edges[1:]), axis=1)  # each sector from its first edge to its second
    outline = reach[:, None, None] * np.stack((np.cos(corner), np.sin(corner)), axis=-1)
    return np.asarray(outline.reshape(-1, 2), np.float32)


__all__ = ["free_polygon"]
