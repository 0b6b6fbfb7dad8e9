"""A map of points in a hash of cells, and the registration of a sweep on it.

Source: Vizzo et al., "KISS-ICP: In Defense of Point-to-Point ICP", RA-L 2023: a few points a cell, a Geman-McClure
kernel, a threshold that follows how far the prediction was off. Differs: what a distance counts depends on its
direction (as in Segal et al., "Generalized-ICP", RSS 2009). The rings of a few beams look alike wherever one is, so
distances along a plane hardly count, and where the map is no plane and no pole, all of them little. Rings on what one
drives towards wander up or down on it: a sweep that is held where rings were tilts, and the vehicle seems to climb.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError
from perception.ops.rigid_motion import exponential

Float: TypeAlias = NDArray[np.float64]
EMPTY = np.int64(-(1 << 62))
ALONG, PLANE_RATIO = 0.001, 0.1
"""What a distance along a plane counts, and how thin a plane is: its smallest variance per its middle one."""
RING, SCATTERED = 0.1, 0.05
"""What the height of a lone ring counts, and any distance where points lie neither in a plane nor in a line."""
MIN_NEIGHBOURS = 5
"""Fewer map points around one tell nothing."""
UPRIGHT = 0.7
"""Vertical part of the direction of a pole; other lines are rings."""
RENEW = 5
"""Iterations after which directions are looked at anew."""
_OFFSET, _BITS = 1 << 20, 21


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _key(x: float, y: float, z: float, cell: float) -> Any:
    i = np.int64(np.floor(x / cell)) + _OFFSET
    j = np.int64(np.floor(y / cell)) + _OFFSET
    k = np.int64(np.floor(z / cell)) + _OFFSET
    return (i << (2 * _BITS)) | (j << _BITS) | k


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _slot(keys: Any, key: Any) -> Any:
    """Return where a key is, or would be, in a table of a power of two places with a free one."""
    mask = len(keys) - 1
    place = (key * np.int64(-7046029254386353131)) >> 20 & mask
    while keys[place] != EMPTY and keys[place] != key:
        place = (place + 1) & mask
    return place


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _add(keys: Any, counts: Any, cells: Any, points: Any, cell: float, spacing: float) -> int:
    """Add points to their cells, those too near another left out; return how many cells are new."""
    fresh = 0
    for n in range(len(points)):
        place = _slot(keys, _key(points[n, 0], points[n, 1], points[n, 2], cell))
        if keys[place] == EMPTY:
            keys[place] = _key(points[n, 0], points[n, 1], points[n, 2], cell)
            fresh += 1
        count = counts[place]
        if count == cells.shape[1]:
            continue
        near = False
        for m in range(count):
            d0, d1 = cells[place, m, 0] - points[n, 0], cells[place, m, 1] - points[n, 1]
            d2 = cells[place, m, 2] - points[n, 2]
            if d0 * d0 + d1 * d1 + d2 * d2 < spacing * spacing:
                near = True
                break
        if not near:
            cells[place, count] = points[n]
            counts[place] += 1
    return fresh


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _nearest(keys: Any, counts: Any, cells: Any, points: Any, cell: float) -> Any:
    """Return the nearest map point (N, 3) of each point among its cell and the 26 around, and the squared distance."""
    found = np.zeros_like(points)
    distance = np.full(len(points), np.inf)
    for n in range(len(points)):
        x, y, z = points[n]
        inside = x / cell - np.floor(x / cell), y / cell - np.floor(y / cell), z / cell - np.floor(z / cell)
        for visit in range(27):
            turn = (visit + 13) % 27  # the point's own cell first: what it holds rules out most of the others
            di, dj, dk = turn // 9 - 1, turn // 3 % 3 - 1, turn % 3 - 1
            away = _outside(di, inside[0]) + _outside(dj, inside[1]) + _outside(dk, inside[2])
            if away * cell * cell >= distance[n]:
                continue
            place = _slot(keys, _key(x + di * cell, y + dj * cell, z + dk * cell, cell))
            for m in range(counts[place]):
                d0, d1, d2 = cells[place, m, 0] - x, cells[place, m, 1] - y, cells[place, m, 2] - z
                squared = d0 * d0 + d1 * d1 + d2 * d2
                if squared < distance[n]:
                    distance[n] = squared
                    found[n] = cells[place, m]
    return found, distance


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _outside(step: int, inside: float) -> float:
    """Return the square of the way to the cell before, beside or after, in cells."""
    way = 0.0 if step == 0 else inside if step < 0 else 1.0 - inside
    return way * way


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _spread(keys: Any, counts: Any, cells: Any, point: Any, cell: float, square: Any) -> int:
    """Fill the covariance (3, 3) of the map points within a cell's edge around a point; return how many they are."""
    x, y, z = point
    total, x1, y1, z1, xx, xy, xz, yy, yz, zz = 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for turn in range(27):
        di, dj, dk = turn // 9 - 1, turn // 3 % 3 - 1, turn % 3 - 1
        place = _slot(keys, _key(x + di * cell, y + dj * cell, z + dk * cell, cell))
        for m in range(counts[place]):
            d0, d1, d2 = cells[place, m, 0] - x, cells[place, m, 1] - y, cells[place, m, 2] - z
            if d0 * d0 + d1 * d1 + d2 * d2 < cell * cell:
                total += 1
                x1, y1, z1 = x1 + d0, y1 + d1, z1 + d2
                xx, xy, xz = xx + d0 * d0, xy + d0 * d1, xz + d0 * d2
                yy, yz, zz = yy + d1 * d1, yz + d1 * d2, zz + d2 * d2
    if total:
        square[0, 0], square[1, 1], square[2, 2] = xx - x1 * x1 / total, yy - y1 * y1 / total, zz - z1 * z1 / total
        square[0, 1] = square[1, 0] = xy - x1 * y1 / total
        square[0, 2] = square[2, 0] = xz - x1 * z1 / total
        square[1, 2] = square[2, 1] = yz - y1 * z1 / total
        square /= total
    return total


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _information(keys: Any, counts: Any, cells: Any, points: Any, cell: float) -> Any:
    """Return (N, 3, 3): how much a distance in each direction tells, of the map around each point.

    On a plane, the distance from it counts in full and what lies along it hardly; at a pole likewise. Of a lone ring
    only the height counts, and little: where it lies is the sensor's doing, and on what is upright its height is, too.
    """
    information = np.zeros((len(points), 3, 3))
    square = np.zeros((3, 3))
    for n in range(len(points)):
        information[n] = ALONG * np.eye(3)
        if _spread(keys, counts, cells, points[n], cell, square) < MIN_NEIGHBOURS:
            continue
        values, vectors = np.linalg.eigh(square)
        if values[1] < PLANE_RATIO * values[2]:
            line = vectors[:, 2].copy()
            if abs(line[2]) > UPRIGHT:
                information[n] = np.eye(3) - (1.0 - ALONG) * np.outer(line, line)
            else:
                information[n, 2, 2] = RING
        elif values[0] < PLANE_RATIO * values[1]:
            normal = vectors[:, 0].copy()
            information[n] += (1.0 - ALONG) * np.outer(normal, normal)
        else:
            information[n] = SCATTERED * np.eye(3)
    return information


class PointMap:
    """Points around the vehicle, a few in each cell.

    Args:
        cell_m: edge of a cell.
        points_per_cell: at most so many, spread evenly.
    """

    def __init__(self, cell_m: float = 1.0, points_per_cell: int = 20) -> None:
        self.cell_m, self.points_per_cell = cell_m, points_per_cell
        self._spacing_m = cell_m / points_per_cell ** (1 / 2)
        self._used = 0
        self._allocate(1 << 14)

    def _allocate(self, capacity: int) -> None:
        self._keys = np.full(capacity, EMPTY, np.int64)
        self._counts = np.zeros(capacity, np.int32)
        self._cells = np.zeros((capacity, self.points_per_cell, 3))

    def __len__(self) -> int:
        return int(self._counts.sum())

    def points(self) -> Float:
        """Return all points (N, 3)."""
        held = np.arange(self.points_per_cell)[None] < self._counts[:, None]
        return self._cells[held]

    def add(self, points: Float) -> None:
        """Add points (N, 3), in the map's frame; those that crowd others are left out."""
        self._make_room(len(points))
        self._used += _add(self._keys, self._counts, self._cells, _rows(points), self.cell_m, self._spacing_m)

    def _make_room(self, more: int) -> None:
        if 2 * (self._used + more) <= len(self._keys):
            return
        kept = self.points()
        self._allocate(1 << int(np.ceil(np.log2(4 * (self._used + more)))))
        self._used = _add(self._keys, self._counts, self._cells, kept, self.cell_m, 0.0)

    def forget_beyond(self, center: Float, radius_m: float) -> None:
        """Drop what is farther than a radius from a point."""
        kept = self.points()
        kept = kept[((kept - center) ** 2).sum(axis=1) <= radius_m**2]
        self._allocate(len(self._keys))
        self._used = _add(self._keys, self._counts, self._cells, kept, self.cell_m, 0.0)

    def nearest(self, points: Float) -> tuple[Float, Float]:
        """Return the nearest map point (N, 3) within about a cell of each, and its distance (N,), infinite for none."""
        found, squared = _nearest(self._keys, self._counts, self._cells, _rows(points), self.cell_m)
        return found, np.sqrt(squared)

    def information(self, points: Float) -> Float:
        """Return (N, 3, 3) how much a distance from each map point tells, by direction: on a plane, that from it."""
        return np.asarray(_information(self._keys, self._counts, self._cells, _rows(points), self.cell_m))

    def deviation(self, points: Float) -> Float:
        """Return how far each point (N, 3) is from the map in the directions that tell: from a plane, not along it."""
        target, distance = self.nearest(points)
        apart = points - target
        squared = np.einsum("ni,nij,nj->n", apart, self.information(target), apart)
        return np.where(np.isfinite(distance), np.sqrt(squared), np.inf)


@dataclass(frozen=True, eq=False)
class Registration:
    """Where a sweep lies on a map.

    Attributes:
        pose: (4, 4) map_from_sweep.
        matched: share of the points that found a neighbour within the threshold.
        error_m: the mean distance of those.
        iterations: steps taken.
        information: (N, 3, 3) what distances of each point counted.
    """

    pose: Float
    matched: float
    error_m: float
    iterations: int
    information: Float


def register(
    points: Float, point_map: PointMap, guess: Float, max_distance_m: float, kernel_m: float,
    max_iterations: int = 100, information: Float | None = None,
) -> Registration:  # fmt: skip
    """Lay points on a map, from a guess of the pose.

    Args:
        points: (N, 3) in the sweep's frame.
        point_map: what they lie on.
        guess: (4, 4) map_from_sweep.
        max_distance_m: farther neighbours do not count.
        kernel_m: scale of the Geman-McClure kernel.
        max_iterations: at most so many steps; it ends when a step is below 0.1 mm and 0.1 mrad.
        information: (N, 3, 3) of an earlier registration of nearly the same points, which saves the time.
    """
    pose = guess.copy()
    moved = points @ pose[:3, :3].T + pose[:3, 3]
    matched, error, step_number = 0.0, float("nan"), 0
    for step_number in range(1, max_iterations + 1):
        target, distance = point_map.nearest(moved)
        use = distance < max_distance_m
        if information is None or step_number % RENEW == 0:
            information = point_map.information(target)
        if use.sum() < 6:
            share = float(use.mean()) if len(use) else 0.0
            return Registration(guess, share, float("nan"), step_number, information)
        normal, right = _equations(moved, target, use, information, kernel_m)
        step = exponential(np.linalg.solve(normal + 1e-9 * np.eye(6), right))
        moved = moved @ step[:3, :3].T + step[:3, 3]
        pose = step @ pose
        matched, error = float(use.mean()), float(distance[use].mean())
        turned = np.arccos(np.clip((np.trace(step[:3, :3]) - 1) / 2, -1, 1))
        if np.linalg.norm(step[:3, 3]) < 1e-4 and turned < 1e-4:
            break
    assert information is not None
    return Registration(pose, matched, error, step_number, information)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _equations(source: Any, target: Any, use: Any, information: Any, kernel_m: float) -> Any:
    """Return the normal equations (6, 6) and (6,) of a Gauss-Newton step on weighted distances."""
    normal, right, jacobian = np.zeros((6, 6)), np.zeros(6), np.zeros((3, 6))
    jacobian[0, 0] = jacobian[1, 1] = jacobian[2, 2] = 1.0
    for n in range(len(source)):
        if not use[n]:
            continue
        x, y, z = source[n]
        jacobian[0, 4], jacobian[0, 5], jacobian[1, 3] = z, -y, -z
        jacobian[1, 5], jacobian[2, 3], jacobian[2, 4] = x, y, -x
        residual = source[n] - target[n]
        weight = (kernel_m / (kernel_m + (residual * residual).sum())) ** 2
        for a in range(6):
            for c in range(3):
                row = 0.0
                for b in range(3):
                    row += weight * jacobian[b, a] * information[n, b, c]
                right[a] -= row * residual[c]
                for d in range(6):
                    normal[a, d] += row * jacobian[c, d]
    return normal, right


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _first_of_cells(points: Any, cell: float) -> Any:
    capacity = 1
    while capacity < 4 * len(points) + 16:
        capacity *= 2
    keys = np.full(capacity, EMPTY, np.int64)
    kept = np.empty(len(points), np.int64)
    count = 0
    for n in range(len(points)):
        key = _key(points[n, 0], points[n, 1], points[n, 2], cell)
        place = _slot(keys, key)
        if keys[place] == EMPTY:
            keys[place] = key
            kept[count] = n
            count += 1
    return kept[:count]


def thinned(points: Float, cell_m: float) -> NDArray[np.int64]:
    """Return the index of the first point in each cell, in the order of the points."""
    return np.asarray(_first_of_cells(_rows(points), cell_m))


def _rows(points: Float) -> Float:
    rows = np.ascontiguousarray(points, np.float64)
    if rows.ndim != 2 or rows.shape[1] != 3:
        raise ShapeError(f"points have shape {rows.shape}; expected (N, 3)")
    return rows


__all__ = ["PointMap", "Registration", "register", "thinned"]
