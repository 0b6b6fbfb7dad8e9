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
    kept = np.flatnonzero(sound(center_m, size_lwh_m, yaw_rad) & (score >= score_min))
    center, yaw, velocity = boxes_in_frame(center_m, yaw_rad, velocity_mps, frame_from_boxes, 0.0)
    ground, sure = np.empty((len(kept), 5)), np.empty(len(kept))
    for k in range(len(kept)):
        j = kept[k]
        ground[k, 0], ground[k, 1], ground[k, 4] = center[j, 0], center[j, 1], yaw[j]
        ground[k, 2], ground[k, 3], sure[k] = size_lwh_m[j, 0], size_lwh_m[j, 1], score[j]
    kept = kept[apart(ground, sure, overlap_max)]
    places, sizes, speeds = np.empty((len(kept), 3)), np.empty((len(kept), 3)), np.empty((len(kept), 2))
    for k in range(len(kept)):
        places[k], sizes[k], speeds[k] = center[kept[k]], size_lwh_m[kept[k]], velocity[kept[k]]
    return kept, places, sizes, yaw[kept], speeds


__all__ = ["admitted"]
