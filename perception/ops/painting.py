"""Which LiDAR points a camera cannot see although they fall into its picture: those behind nearer ones."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

UNKNOWN = 255
"""Label of a point that no camera sees."""
CELL_PX = 8
BEHIND_M = 1.0
BEHIND_SHARE = 0.05


def hidden_points(pixels: NDArray[Any], depth_m: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return True for points that lie well behind another point of the same small part of the picture.

    A LiDAR looks over the things that a lower camera looks at: what it sees behind them must not get their class. A
    point is hidden when it is farther than the nearest point in its cell of 8 x 8 pixels by a metre and 5 %, and a
    second such point confirms it.

    Args:
        pixels: (N, 2) column and row, inside the picture.
        depth_m: (N,) along the optical axis, positive.
        shape: height and width of the picture.
    """
    rows, columns = shape[0] // CELL_PX + 1, shape[1] // CELL_PX + 1
    return np.asarray(_hidden(np.asarray(pixels, np.float64), np.asarray(depth_m, np.float64), rows, columns))


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _hidden(pixels: NDArray[Any], depth: NDArray[Any], rows: int, columns: int) -> NDArray[np.bool_]:
    nearest, second = np.full((rows, columns), np.inf), np.full((rows, columns), np.inf)
    for i in range(len(depth)):
        r, c = int((pixels[i, 1] + 0.5) // CELL_PX), int((pixels[i, 0] + 0.5) // CELL_PX)
        if depth[i] < nearest[r, c]:
            second[r, c] = nearest[r, c]
            nearest[r, c] = depth[i]
        elif depth[i] < second[r, c]:
            second[r, c] = depth[i]
    hidden = np.zeros(len(depth), np.bool_)
    for i in range(len(depth)):
        r, c = int((pixels[i, 1] + 0.5) // CELL_PX), int((pixels[i, 0] + 0.5) // CELL_PX)
        confirmed = second[r, c]
        hidden[i] = depth[i] > confirmed * (1 + BEHIND_SHARE) + BEHIND_M
    return hidden


__all__ = ["UNKNOWN", "hidden_points"]
