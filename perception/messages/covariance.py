"""Covariances as messages hold them: the upper triangle, row by row.

What is not estimated stands there as the whole number 0, which takes one byte in MessagePack where 0.0 takes nine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat

NOT_ESTIMATED = repeat(0)


def pose_covariances(planar: Sequence[Iterable[float]], height: Iterable[float]) -> Iterator[tuple[float, ...]]:
    """Return 21 numbers of x y z roll pitch yaw for each object; roll and pitch are not estimated.

    Args:
        planar: 6 columns, the upper triangle of x, y, yaw.
        height: a column, variance of z.
    """
    (xx, xy, xt, yy, yt, tt), _ = planar, NOT_ESTIMATED
    # fmt: off
    return zip(
        xx, xy, _, _, _, xt,
            yy, _, _, _, yt,
                height, _, _, _,
                        _, _, _,
                           _, _,
                              tt, strict=False,
    )
    # fmt: on


def velocity_covariances(planar: Sequence[Iterable[float]]) -> Iterator[tuple[float, ...]]:
    """Return 6 numbers of vx vy vz for each object, from 3 columns of vx and vy; vz is not estimated."""
    (xx, xy, yy), _ = planar, NOT_ESTIMATED
    return zip(xx, xy, _, yy, _, _, strict=False)


def pose_covariance(planar: Sequence[float], height: float) -> tuple[float, ...]:
    """Return the 21 numbers of one object, from the 6 of x, y, yaw and the variance of z."""
    return next(pose_covariances([(number,) for number in planar], (height,)))


def velocity_covariance(planar: Sequence[float]) -> tuple[float, ...]:
    """Return the 6 numbers of one object, from the 3 of vx and vy."""
    return next(velocity_covariances([(number,) for number in planar]))


__all__ = ["pose_covariance", "pose_covariances", "velocity_covariance", "velocity_covariances"]
