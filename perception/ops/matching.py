"""Who is whom: one-to-one matching of rows and columns by cost, and overlap of boxes in images.

`assign` gives the best matching (Hungarian method), `assign_greedily` takes the cheapest pair first. Both leave
unmatched what costs more than `most`.

Source: Crouse, "On implementing 2D rectangular assignment algorithms", IEEE Transactions on Aerospace and Electronic
Systems 52(4), 2016 (shortest augmenting paths).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError

Float = NDArray[np.float64]
Index = NDArray[np.int64]
UNMATCHED = -1


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def best_columns(cost: Any) -> Any:
    """Return the column of each row, at least total cost; there are at least as many columns as rows."""
    rows, columns = cost.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    column_of_row, row_of_column = np.full(rows, -1), np.full(columns, -1)
    path = np.empty(columns, np.int64)
    shortest = np.empty(columns)
    for start in range(rows):
        shortest[:] = np.inf
        rows_seen, columns_seen = np.zeros(rows, np.bool_), np.zeros(columns, np.bool_)
        row, length, sink = start, 0.0, -1
        while sink < 0:
            rows_seen[row] = True
            nearest, least = -1, np.inf
            for column in range(columns):
                if columns_seen[column]:
                    continue
                through = length + cost[row, column] - row_price[row] - column_price[column]
                if through < shortest[column]:
                    path[column], shortest[column] = row, through
                if shortest[column] < least or (shortest[column] == least and row_of_column[column] < 0):
                    nearest, least = column, shortest[column]
            length = least
            columns_seen[nearest] = True
            if row_of_column[nearest] < 0:
                sink = nearest
            else:
                row = row_of_column[nearest]
        row_price[start] += length
        for other in range(rows):
            if rows_seen[other] and other != start:
                row_price[other] += length - shortest[column_of_row[other]]
        for column in range(columns):
            if columns_seen[column]:
                column_price[column] -= length - shortest[column]
        column = sink
        while True:  # turn the path around
            row = path[column]
            row_of_column[column] = row
            column_of_row[row], column = column, column_of_row[row]
            if row == start:
                break
    return column_of_row


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _group(parent: Any, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def match_pairs(row: Index, column: Index, cost: Float, rows: int, columns: int, most: float) -> Index:
    """Return the column of each row (rows,), UNMATCHED where none: the best matching among the given pairs.

    A pair that is not given cannot match; leaving a row unmatched costs `most`. Pairs fall into groups that touch no
    other, each solved on its own, so that a street of a thousand objects costs little more than its crowded corners.
    """
    found = np.full(rows, -1)
    parent = np.arange(rows + columns)
    for k in range(len(row)):
        parent[_group(parent, row[k])] = _group(parent, rows + column[k])
    group = np.empty(len(row))  # floats, as all else that is sorted: one kind of sort is compiled
    for k in range(len(row)):
        group[k] = _group(parent, row[k])
    order = np.argsort(group, kind="mergesort")
    place = np.full(rows + columns, -1)
    begin = 0
    while begin < len(order):
        end = begin + 1
        while end < len(order) and group[order[end]] == group[order[begin]]:
            end += 1
        if end == begin + 1:
            k = order[begin]
            if cost[k] < most:
                found[row[k]] = column[k]
            begin = end
            continue
        members_row, members_column = np.empty(end - begin, np.int64), np.empty(end - begin, np.int64)
        count_row, count_column = 0, 0
        for k in order[begin:end]:
            if place[row[k]] < 0:
                place[row[k]], members_row[count_row] = count_row, row[k]
                count_row += 1
            if place[rows + column[k]] < 0:
                place[rows + column[k]], members_column[count_column] = count_column, column[k]
                count_column += 1
        flipped = count_row > count_column
        block = np.full((min(count_row, count_column), max(count_row, count_column)), most)
        for k in order[begin:end]:
            i, j = place[row[k]], place[rows + column[k]]
            if flipped:
                i, j = j, i
            block[i, j] = min(block[i, j], cost[k])
        best = best_columns(block)
        for i in range(len(best)):
            if block[i, best[i]] < most:
                r, c = (best[i], i) if flipped else (i, best[i])
                found[members_row[r]] = members_column[c]
        begin = end
    return found


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def match_pairs_greedily(row: Index, column: Index, cost: Float, rows: int, columns: int, most: float) -> Index:
    """Return the column of each row (rows,), UNMATCHED where none: the cheapest pair first."""
    found, taken = np.full(rows, -1), np.zeros(columns, np.bool_)
    for k in np.argsort(cost, kind="mergesort"):
        if cost[k] >= most:
            break
        if found[row[k]] < 0 and not taken[column[k]]:
            found[row[k]], taken[column[k]] = column[k], True
    return found


def assign(cost: NDArray[Any], most: float = np.inf) -> Index:
    """Return the column of each row of a cost matrix (N, M), UNMATCHED where none.

    As many pairs below `most` as there can be, and of those matchings the one of least total cost.

    Raises:
        ShapeError: the costs are no matrix, or not numbers.
    """
    values = _costs(cost)
    allowed = (values <= most) & np.isfinite(values)
    if not allowed.any():
        return np.full(len(values), UNMATCHED)
    row, column = np.nonzero(allowed)
    found = values[allowed]
    span = float(found.max() - found.min()) + 1.0
    never = float(found.max()) + span * (min(values.shape) + 1)  # one more pair is worth any detour of the others
    return np.asarray(match_pairs(row, column, found, *values.shape, never))


def assign_greedily(cost: NDArray[Any], most: float = np.inf) -> Index:
    """Return the column of each row of a cost matrix (N, M), UNMATCHED where none, the cheapest pair first.

    Raises:
        ShapeError: the costs are no matrix, or not numbers.
    """
    values = _costs(cost)
    row, column = np.nonzero((values <= most) & np.isfinite(values))
    return np.asarray(match_pairs_greedily(row, column, values[row, column], *values.shape, np.inf))


def _costs(cost: NDArray[Any]) -> Float:
    values = np.asarray(cost, np.float64)
    if values.ndim != 2 or np.isnan(values).any():
        raise ShapeError(f"costs of shape {values.shape} with {int(np.isnan(values).sum())} NaN; expected (N, M)")
    return values


def iou_2d(a: NDArray[Any], b: NDArray[Any]) -> Float:
    """Return intersection over union (N, M) of image boxes (N, 4) and (M, 4): left, top, right, bottom."""
    shared = shared_area_2d(a, b)
    union = _area(a)[:, None] + _area(b)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def shared_area_2d(a: NDArray[Any], b: NDArray[Any]) -> Float:
    """Return the area (N, M) that image boxes (N, 4) and (M, 4) share: left, top, right, bottom."""
    left_top = np.maximum(a[:, None, :2], b[None, :, :2])
    right_bottom = np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    size = np.clip(np.asarray(right_bottom - left_top, np.float64), 0.0, None)
    return np.asarray(size[..., 0] * size[..., 1])


def _area(boxes: NDArray[Any]) -> Float:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), np.float64)


__all__ = [
    "UNMATCHED", "assign", "assign_greedily", "best_columns", "iou_2d", "match_pairs", "match_pairs_greedily",
    "shared_area_2d",
]  # fmt: skip
