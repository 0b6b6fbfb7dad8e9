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

GIOU, MAHALANOBIS = 0, 1


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def pairs_of_family(tracks: Any, spread: Any, boxes: Any, noise: Any, reach: float, affinity: int, most: float) -> Any:
    """Return pairs (P,) of track and detection, and their cost (P,), all below `most`.

    Args:
        tracks: (N, 7) boxes x, y, z, length, width, height, yaw where the tracks are expected now.
        spread: (N, 4) variance of x, y, covariance of both, variance of z.
        boxes: (M, 7) of the detections.
        noise: (M, 2) variance of a detected position, along x or y, and z.
        reach: pairs further apart than this, along x or y, are left out.
        affinity: GIOU or MAHALANOBIS.
        most: highest cost.
    """
    order = np.argsort(boxes[:, 0])
    sorted_x, sorted_y = boxes[order, 0], boxes[order, 1]
    of_tracks, of_boxes, room = corners_from_above(tracks), corners_from_above(boxes), np.empty((2, 16, 2))
    row, column, cost = [np.int64(0) for _ in range(0)], [np.int64(0) for _ in range(0)], [0.0 for _ in range(0)]
    for i in range(len(tracks)):
        x, y = tracks[i, 0], tracks[i, 1]
        for k in range(np.searchsorted(sorted_x, x - reach), len(order)):
            if sorted_x[k] > x + reach:
                break
            if abs(sorted_y[k] - y) > reach:
                continue
            j = order[k]
            if affinity == GIOU:
                if giou_at_most(tracks[i], of_tracks[i], boxes[j], of_boxes[j]) <= 1 - most:
                    continue
                apart = 1 - giou_of_pair(tracks[i], of_tracks[i], boxes[j], of_boxes[j], room)
            else:
                dx, dy, dz = boxes[j, 0] - x, boxes[j, 1] - y, boxes[j, 2] - tracks[i, 2]
                xx, yy, xy = spread[i, 0] + noise[j, 0], spread[i, 1] + noise[j, 0], spread[i, 2]
                squared = (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / (xx * yy - xy * xy)
                apart = math.sqrt(squared + dz * dz / (spread[i, 3] + noise[j, 1]))
            if apart < most:
                row.append(np.int64(i))
                column.append(j)
                cost.append(apart)
    return np.array(row, np.int64), np.array(column, np.int64), np.array(cost, np.float64)


Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]

__all__ = ["GIOU", "MAHALANOBIS", "Pairs", "pairs_of_family"]
