"""Which detection is which track: pairs near each other, their cost, and the matching.

The cost of a pair is 1 minus the generalised overlap of the boxes (0 to 2), or the Mahalanobis distance of the centres.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from perception.ops.boxes_3d import corners_from_above, giou_at_most, giou_of_pair
from perception.ops.matching import UNMATCHED, match_pairs, match_pairs_greedily
from perception.tracking.tracks import box_of

GIOU, MAHALANOBIS = 0, 1


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def matched(tracks: Any, seen: Any, classes: Any, widen: float) -> Any:
    """Return the detection of each track (N,), UNMATCHED where none.

    Args:
        tracks: rows of `track_type`, where they are expected now.
        seen: the detections, see `passes.Seen`.
        classes: rows of `class_table`; a family matches as its first class says.
        widen: how many times further than usual the detections scatter.
    """
    match = np.full(len(tracks), UNMATCHED)
    for family in range(len(classes)):
        if classes[family].family != family:
            continue
        rows = np.flatnonzero(_of_family(tracks["label"], classes, family))
        columns = np.flatnonzero(_of_family(seen.label, classes, family))
        if not len(rows) or not len(columns):
            continue
        row, column, cost = _pairs(tracks, rows, seen, columns, classes, family, widen)
        most = classes[family].cost_max
        if classes[family].hungarian:
            found = match_pairs(row, column, cost, len(tracks), len(seen.label), most)
        else:
            found = match_pairs_greedily(row, column, cost, len(tracks), len(seen.label), most)
        match = np.maximum(match, found)
    return match


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _pairs(tracks: Any, rows: Any, seen: Any, columns: Any, classes: Any, family: int, widen: float) -> Any:
    """Return pairs (P,) of some tracks and some detections of one family, and their cost (P,)."""
    one = classes[family]
    reach, most = one.reach_m, one.cost_max
    columns = columns[np.argsort(seen.center_m[columns, 0])]
    expected, found = np.empty((len(rows), 7)), np.empty((len(columns), 7))
    for k in range(len(rows)):
        box_of(tracks[rows[k]], expected[k])
    for k in range(len(columns)):
        j = columns[k]
        found[k, :3], found[k, 3:6], found[k, 6] = seen.center_m[j], seen.size_lwh_m[j], seen.yaw_rad[j]
    of_tracks, of_boxes, room = corners_from_above(expected), corners_from_above(found), np.empty((2, 16, 2))
    along = found[:, 0].copy()
    row, column, cost = [np.int64(0) for _ in range(0)], [np.int64(0) for _ in range(0)], [0.0 for _ in range(0)]
    for i in range(len(rows)):
        x, y = expected[i, 0], expected[i, 1]
        for j in range(np.searchsorted(along, x - reach), len(along)):
            if along[j] > x + reach:
                break
            if abs(found[j, 1] - y) > reach:
                continue
            if one.affinity == GIOU:
                if giou_at_most(expected[i], of_tracks[i], found[j], of_boxes[j]) <= 1 - most:
                    continue
                apart = 1 - giou_of_pair(expected[i], of_tracks[i], found[j], of_boxes[j], room)
            else:
                kind = classes[seen.label[columns[j]]]
                off = found[j] - expected[i]
                apart = _mahalanobis(tracks[rows[i]], off, widen * kind.position_m, widen * kind.height_m)
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


__all__ = ["GIOU", "MAHALANOBIS", "matched"]
