"""Points and cells projected into views, compiled for the host: what `interaction_geometry` does in tensors on a GPU.

The arithmetic is that of `project` in the same order and in float32, so that a point falls into the same cell.
"""

from __future__ import annotations

from typing import TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.int64]

MIN_DEPTH, HALF, ONE, TWO = np.float32(1e-5), np.float32(0.5), np.float32(1.0), np.float32(2.0)


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _seen_at(
    x: np.float32, y: np.float32, z: np.float32, matrix: Floats, width: np.float32, height: np.float32
) -> tuple[np.float32, np.float32, np.float32, bool]:
    """Return u / width, v / height, depth, and whether it is in front and strictly inside."""
    a = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]
    b = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]
    depth = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
    away = max(depth, MIN_DEPTH)
    u, v = a / away / width, b / away / height
    seen = depth > MIN_DEPTH and abs((u - HALF) * TWO) < ONE and abs((v - HALF) * TWO) < ONE
    return u, v, depth, seen


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def depth_maps(points: Floats, matrices: Floats, image: tuple[int, int], size: tuple[int, int]) -> Floats:
    """Write the depths of points (N, 3 or more) into a map of each view (V, 4, 4); the last on a pixel stays.

    Returns:
        (V, *size) metres, 0 where no point fell.
    """
    height, width = np.float32(image[0]), np.float32(image[1])
    rows, columns = np.float32(size[0]), np.float32(size[1])
    maps = np.zeros((len(matrices), size[0], size[1]), np.float32)
    for view in range(len(matrices)):
        for index in range(len(points)):
            x, y, z = points[index, 0], points[index, 1], points[index, 2]
            u, v, depth, seen = _seen_at(x, y, z, matrices[view], width, height)
            if seen:
                maps[view, min(int(v * rows), size[0] - 1), min(int(u * columns), size[1] - 1)] = depth
    return maps


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def cells_in_views(
    x: Floats, y: Floats, z: Floats, matrices: Floats, cameras: Floats, image: tuple[int, int], radii: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return where the column of each cell lies in each view, on average over its heights, and which it sees.

    Args:
        x: (C,) centres of the cells, metres.
        y: (R,)
        z: (Z,) heights.
        matrices: (V, 4, 4) to (u * depth, v * depth, depth, 1).
        cameras: (V, 2) x and y of the cameras, metres.
        image: height and width, pixels.
        radii: start and end, metres.

    Returns:
        (V, R, C, 2) column and distance from the camera, -1 to 1, and (V, R, C) whether any height is seen.
    """
    height, width = np.float32(image[0]), np.float32(image[1])
    places = np.empty((len(matrices), len(y), len(x), 2), np.float32)
    seen_cells = np.zeros((len(matrices), len(y), len(x)), np.bool_)
    for view in range(len(matrices)):
        for row in range(len(y)):
            for column in range(len(x)):
                total, any_seen = np.float32(0), False
                for level in range(len(z)):
                    u, _, _, seen = _seen_at(x[column], y[row], z[level], matrices[view], width, height)
                    total += TWO * u - ONE
                    any_seen |= seen
                off_x, off_y = x[column] - cameras[view, 0], y[row] - cameras[view, 1]
                radius = (np.sqrt(off_x * off_x + off_y * off_y) - radii[0]) / (radii[1] - radii[0])
                places[view, row, column, 0] = total / np.float32(len(z))
                places[view, row, column, 1] = min(max(TWO * radius - ONE, -ONE), ONE)
                seen_cells[view, row, column] = any_seen
    return places, seen_cells


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def samples_of_pillars(
    points: Floats, counts: Ints, sample: Ints, matrices: Floats, image: tuple[int, int], size: tuple[int, int]
) -> tuple[Ints, Floats, Ints]:
    """Return the image cells around every point of every pillar in every view that sees it.

    Args:
        points: (N, T, 3 or more) of each pillar.
        counts: (N,) of them that are given.
        sample: (N,) whose views see the pillar.
        matrices: (B, V, 4, 4).
        image: height and width, pixels.
        size: height and width of a view's map, cells.

    Returns:
        (K, 4) the cells, (view * height + row) * width + column over the views of all samples, (K, 4) their bilinear
        weights, 0 beyond the border, and (N,) how many of K each pillar has; in the order pillar, point, view.
    """
    height, width, views = np.float32(image[0]), np.float32(image[1]), matrices.shape[1]
    found = np.zeros(len(points), np.int64)
    for pillar in range(len(points)):
        for slot in range(counts[pillar]):
            x, y, z = points[pillar, slot, 0], points[pillar, slot, 1], points[pillar, slot, 2]
            for view in range(views):
                found[pillar] += _seen_at(x, y, z, matrices[sample[pillar], view], width, height)[3]
    cells, weights = np.empty((found.sum(), 4), np.int64), np.empty((found.sum(), 4), np.float32)
    at = 0
    for pillar in range(len(points)):
        for slot in range(counts[pillar]):
            x, y, z = points[pillar, slot, 0], points[pillar, slot, 1], points[pillar, slot, 2]
            for view in range(views):
                u, v, _, seen = _seen_at(x, y, z, matrices[sample[pillar], view], width, height)
                if seen:
                    _corners(u, v, sample[pillar] * views + view, size, cells[at], weights[at])
                    at += 1
    return cells, weights, found


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _corners(u: np.float32, v: np.float32, view: int, size: tuple[int, int], cells: Ints, weights: Floats) -> None:
    height, width = size
    x, y = u * np.float32(width) - HALF, v * np.float32(height) - HALF
    left, top = np.floor(x), np.floor(y)
    for corner in range(4):
        row, column = int(top) + corner // 2, int(left) + corner % 2
        row_weight = y - top if corner // 2 else ONE - (y - top)
        column_weight = x - left if corner % 2 else ONE - (x - left)
        inside = 0 <= row < height and 0 <= column < width
        weights[corner] = row_weight * column_weight if inside else np.float32(0)
        row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
        cells[corner] = (view * height + row) * width + column


__all__ = ["cells_in_views", "depth_maps", "samples_of_pillars"]
