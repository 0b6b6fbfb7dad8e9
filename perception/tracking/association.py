"""Which detection is which track: pairs near each other, their cost, and the matching.

The cost of a pair is 1 minus the generalised overlap of the boxes (0 to 2), or the Mahalanobis distance of the centres.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from perception.ops.boxes_3d import corners_from_above, giou_at_most, giou_of_pair
from perception.ops.boxes_bev import first_not_below
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
    rows, columns = np.empty(len(tracks), np.int64), np.empty(len(seen.label), np.int64)
    for family in range(len(classes)):
        row_count, column_count = 0, 0
        for k in range(len(tracks)):
            if classes[tracks[k].label].family == family:
                rows[row_count] = k
                row_count += 1
        for j in range(len(seen.label)):
            if classes[seen.label[j]].family == family:
                columns[column_count] = j
                column_count += 1
        if not row_count or not column_count:
            continue
        row, column, cost = _pairs(tracks, rows[:row_count], seen, columns[:column_count], classes, family, widen)
        most = classes[family].cost_max
        if classes[family].hungarian:
            found = match_pairs(row, column, cost, len(tracks), len(seen.label), most)
        else:
            found = match_pairs_greedily(row, column, cost, len(tracks), len(seen.label), most)
        for k in range(len(tracks)):
            match[k] = max(match[k], found[k])
    return match


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _pairs(tracks: Any, rows: Any, seen: Any, columns: Any, classes: Any, family: int, widen: float) -> Any:
    """Return pairs (P,) of some tracks and some detections of one family, and their cost (P,)."""
    one = classes[family]
    reach, most = one.reach_m, one.cost_max
    expected, found, along = np.empty((len(rows), 7)), np.empty((len(columns), 7)), np.empty(len(columns))
    for k in range(len(rows)):
        box_of(tracks[rows[k]], expected[k])
    for k in range(len(columns)):
        along[k] = seen.center_m[columns[k], 0]
    order = np.argsort(along, kind="mergesort")  # in all of this package, so that one kind of sort is compiled
    for k in range(len(columns)):
        j = columns[order[k]]
        for i in range(3):
            found[k, i], found[k, 3 + i] = seen.center_m[j, i], seen.size_lwh_m[j, i]
        found[k, 6], along[k] = seen.yaw_rad[j], seen.center_m[j, 0]
    of_tracks, of_boxes, room = corners_from_above(expected), corners_from_above(found), np.empty((2, 16, 2))
    pairs, costs, count = np.empty((64, 2), np.int64), np.empty(64), 0
    for i in range(len(rows)):
        x, y = expected[i, 0], expected[i, 1]
        for k in range(first_not_below(along, x - reach), len(along)):
            if along[k] > x + reach:
                break
            if abs(found[k, 1] - y) > reach:
                continue
            j = columns[order[k]]
            if one.affinity == GIOU:
                if giou_at_most(expected[i], of_tracks[i], found[k], of_boxes[k]) <= 1 - most:
                    continue
                apart = 1 - giou_of_pair(expected[i], of_tracks[i], found[k], of_boxes[k], room)
            else:
                kind = classes[seen.label[j]]
                apart = _mahalanobis(
                    tracks[rows[i]], expected[i], found[k], widen * kind.position_m, widen * kind.height_m
                )
            if apart < most:
                if count == len(costs):
                    pairs, costs = _twice(pairs, costs)
                pairs[count, 0], pairs[count, 1], costs[count] = rows[i], j, apart
                count += 1
    row, column, cost = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count)
    for k in range(count):
        row[k], column[k], cost[k] = pairs[k, 0], pairs[k, 1], costs[k]
    return row, column, cost


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _twice(pairs: Any, costs: Any) -> Any:
    """Return both with twice the room."""
    more, more_costs = np.empty((2 * len(pairs), 2), np.int64), np.empty(2 * len(costs))
    for k in range(len(costs)):
        more[k, 0], more[k, 1], more_costs[k] = pairs[k, 0], pairs[k, 1], costs[k]
    return more, more_costs


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _mahalanobis(track: Any, expected: Any, found: Any, position_m: float, height_m: float) -> float:
    """Return how far off a detection's centre is, given standard deviations of it along x or y, and along z."""
    dx, dy, dz = found[0] - expected[0], found[1] - expected[1], found[2] - expected[2]
    xx, yy, xy = track.cov[0, 0] + position_m**2, track.cov[1, 1] + position_m**2, track.cov[0, 1]
    squared = (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / (xx * yy - xy * xy)
    return math.sqrt(squared + dz * dz / (track.height[1] + height_m**2))


__all__ = ["GIOU", "MAHALANOBIS", "matched"]
