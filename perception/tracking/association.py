"""Which detection is which track: pairs near each other, their cost, and the matching.

The cost of a pair is 1 minus the generalised overlap of the boxes (0 to 2), or the Mahalanobis distance of the centres.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from perception.ops.boxes_3d import corners_from_above, giou_at_most, giou_of_pair
from perception.tracking.tracks import boxes_of

GIOU, MAHALANOBIS = 0, 1


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def pairs_of_family(
    tracks: Any, boxes: Any, label: Any, classes: Any, family: int, widen: float, reach: float, affinity: int,
    most: float,
) -> Any:  # fmt: skip
    """Return pairs (P,) of track and detection of one family, and their cost (P,), all below `most`.

    Args:
        tracks: rows of `track_type`, where they are expected now.
        boxes: (M, 7) of the detections: x, y, z, length, width, height, yaw.
        label: (M,) their classes.
        classes: rows of `class_table`.
        family: which.
        widen: how many times further than usual the detections scatter.
        reach: pairs further apart than this, along x or y, are left out.
        affinity: GIOU or MAHALANOBIS.
        most: highest cost.
    """
    rows = np.flatnonzero(_of_family(tracks["label"], classes, family))
    columns = np.flatnonzero(_of_family(label, classes, family))
    columns = columns[np.argsort(boxes[columns, 0])]
    expected, found = boxes_of(tracks)[rows], boxes[columns]
    of_tracks, of_boxes, room = corners_from_above(expected), corners_from_above(found), np.empty((2, 16, 2))
    along = found[:, 0].copy()
    row, column, cost = [np.int64(0) for _ in range(0)], [np.int64(0) for _ in range(0)], [0.0 for _ in range(0)]
    for i in range(len(rows)):
        track, x, y = tracks[rows[i]], expected[i, 0], expected[i, 1]
        for j in range(np.searchsorted(along, x - reach), len(along)):
            if along[j] > x + reach:
                break
            if abs(found[j, 1] - y) > reach:
                continue
            if affinity == GIOU:
                if giou_at_most(expected[i], of_tracks[i], found[j], of_boxes[j]) <= 1 - most:
                    continue
                apart = 1 - giou_of_pair(expected[i], of_tracks[i], found[j], of_boxes[j], room)
            else:
                kind = classes[label[columns[j]]]
                apart = _mahalanobis(track, found[j] - expected[i], widen * kind.position_m, widen * kind.height_m)
            if apart < most:
                row.append(rows[i])
                column.append(columns[j])
                cost.append(apart)
    return np.array(row, np.int64), np.array(column, np.int64), np.array(cost, np.float64)


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _of_family(label: Any, classes: Any, family: int) -> Any:
    """Return which labels (N,) are of a family."""
    found = np.empty(len(label), np.bool_)
    for k in range(len(label)):
        found[k] = classes[label[k]].family == family
    return found


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _mahalanobis(track: Any, off: Any, position_m: float, height_m: float) -> float:
    """Return how far off a detection's centre is, given standard deviations of it along x or y, and along z."""
    xx, yy, xy = track.cov[0, 0] + position_m**2, track.cov[1, 1] + position_m**2, track.cov[0, 1]
    squared = (yy * off[0] * off[0] - 2 * xy * off[0] * off[1] + xx * off[1] * off[1]) / (xx * yy - xy * xy)
    return math.sqrt(squared + off[2] * off[2] / (track.height[1] + height_m**2))


Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]

__all__ = ["GIOU", "MAHALANOBIS", "Pairs", "pairs_of_family"]
