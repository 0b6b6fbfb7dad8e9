"""Covariances as messages hold them: the upper triangle, row by row.

What is not estimated stands there as the whole number 0, which takes one byte in MessagePack where 0.0 takes nine.
"""

from __future__ import annotations

from collections.abc import Sequence


def pose_covariance(planar: Sequence[float], height: float) -> tuple[float, ...]:
    """Return 21 numbers of x y z roll pitch yaw; roll and pitch are not estimated.

    Args:
        planar: 6 numbers, the upper triangle of x, y, yaw.
        height: variance of z.
    """
    xx, xy, xt, yy, yt, tt = planar
    return (xx, xy, 0, 0, 0, xt, yy, 0, 0, 0, yt, height, 0, 0, 0, 0, 0, 0, 0, 0, tt)


def velocity_covariance(planar: Sequence[float]) -> tuple[float, ...]:
    """Return 6 numbers of vx vy vz, from the 3 of vx and vy; vz is not estimated."""
    xx, xy, yy = planar
    return (xx, xy, 0, yy, 0, 0)


__all__ = ["pose_covariance", "velocity_covariance"]
