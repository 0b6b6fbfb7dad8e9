"""What data sets with annotated tracks lack: how fast each object moves over ground."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from perception.geometry.transforms import Transform

LONGEST_GAP_NS = 1_000_000_000
"""Two places of a track that lie farther apart in time give no velocity."""
Float = NDArray[np.float64]


def velocities_over_ground(
    t_ns: NDArray[np.int64], track: NDArray[np.int64], center_m: Float, pose_at: Callable[[int], Transform | None]
) -> Float:
    """Return velocities over ground by central differences of where each track was before and after.

    Args:
        t_ns: (M,) stamps, rising.
        track: (M,) whose place a row is.
        center_m: (M, 3) in `base_link` of the row's instant.
        pose_at: gives odom_from_base_link at an instant; None where it is not known.

    Returns:
        (M, 3) in the axes of `base_link`; not a number where a track is seen once, or no pose is known.
    """
    if not len(t_ns):
        return np.empty((0, 3))
    in_odom, velocity = np.full((len(t_ns), 3), np.nan), np.full((len(t_ns), 3), np.nan)
    instants, first = np.unique(t_ns, return_index=True)
    groups = [slice(begin, end) for begin, end in zip(first, [*first[1:], len(t_ns)], strict=True)]
    there = [pose_at(int(instant)) for instant in instants]
    for rows, pose in zip(groups, there, strict=True):
        if pose is not None:
            in_odom[rows] = pose.apply(center_m[rows])
    order = np.lexsort((t_ns, track))
    same = track[order][1:] == track[order][:-1]
    before, after = order.copy(), order.copy()
    before[1:][same], after[:-1][same] = order[:-1][same], order[1:][same]
    passed_ns = t_ns[after] - t_ns[before]
    known = (passed_ns > 0) & (passed_ns <= LONGEST_GAP_NS)
    moved = (in_odom[after] - in_odom[before])[known]
    velocity[order[known]] = moved / (passed_ns[known, None] / 1e9)
    for rows, pose in zip(groups, there, strict=True):
        velocity[rows] = np.nan if pose is None else pose.inverse().rotate(velocity[rows])
    return velocity


__all__ = ["LONGEST_GAP_NS", "velocities_over_ground"]
