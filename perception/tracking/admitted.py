"""Which of a detector's boxes a tracker takes, and where they are in its frame."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from perception.ops.box_frames import boxes_in_frame
from perception.ops.boxes_bev import apart
from perception.tracking.tracks import sound


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def admitted(
    center_m: Any, size_lwh_m: Any, yaw_rad: Any, velocity_mps: Any, score: Any, frame_from_boxes: Any,
    score_min: float, overlap_max: float,
) -> Any:  # fmt: skip
    """Return the boxes that are sound, sure enough and in a place of their own, in another frame.

    Args:
        center_m: (N, 3).
        size_lwh_m: (N, 3).
        yaw_rad: (N,).
        velocity_mps: (N, 2), NaN where it is not known.
        score: (N,).
        frame_from_boxes: (3, 4) or (4, 4).
        score_min: boxes below are left out.
        overlap_max: of two that share more than this part of the smaller one's ground, the surer one stays.

    Returns:
        (M,) which they are, (M, 3) centres, (M, 3) sizes, (M,) yaws, (M, 2) velocities.
    """
    good = sound(center_m, size_lwh_m, yaw_rad)
    center, yaw, velocity = boxes_in_frame(center_m, yaw_rad, velocity_mps, frame_from_boxes, 0.0)
    kept, count = np.empty(len(score), np.int64), 0
    for j in range(len(score)):
        if good[j] and score[j] >= score_min:
            kept[count] = j
            count += 1
    ground, sure = np.empty((count, 5)), np.empty(count)
    for k in range(count):
        j = kept[k]
        ground[k, 0], ground[k, 1], ground[k, 4] = center[j, 0], center[j, 1], yaw[j]
        ground[k, 2], ground[k, 3], sure[k] = size_lwh_m[j, 0], size_lwh_m[j, 1], score[j]
    alone, count = apart(ground, sure, overlap_max), 0
    places, sizes = np.empty((len(sure), 3)), np.empty((len(sure), 3))
    turns, speeds = np.empty(len(sure)), np.empty((len(sure), 2))
    for k in range(len(sure)):
        if not alone[k]:
            continue
        j = kept[k]
        kept[count], turns[count] = j, yaw[j]
        speeds[count, 0], speeds[count, 1] = velocity[j, 0], velocity[j, 1]
        for i in range(3):
            places[count, i], sizes[count, i] = center[j, i], size_lwh_m[j, i]
        count += 1
    return kept[:count], places[:count], sizes[:count], turns[:count], speeds[:count]


__all__ = ["admitted"]
