"""A map of points in a hash of cells, and the registration of a sweep on it.

Source: Vizzo et al., "KISS-ICP: In Defense of Point-to-Point ICP", RA-L 2023: a few points a cell, a Geman-McClure
kernel, a threshold that follows how far the prediction was off. Differs: where the map is a plane, distances along it
hardly count (as in Segal et al., "Generalized-ICP", RSS 2009), since the rings of a few beams on a road look alike
wherever one is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError

Float: TypeAlias = NDArray[np.float64]
EMPTY = np.int64(-(1 << 62))
ALONG_PLANE, PLANE_RATIO = 0.001, 0.1
"""What a distance along a plane counts, and how thin a plane is: its smallest variance per its middle one."""
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
        for di in range(-1, 2):
            for dj in range(-1, 2):
                for dk in range(-1, 2):
                    place = _slot(keys, _key(x + di * cell, y + dj * cell, z + dk * cell, cell))
                    for m in range(counts[place]):
                        d0, d1, d2 = cells[place, m, 0] - x, cells[place, m, 1] - y, cells[place, m, 2] - z
                        squared = d0 * d0 + d1 * d1 + d2 * d2
                        if squared < distance[n]:
                            distance[n] = squared
                            found[n] = cells[place, m]
    return found, distance


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _information(keys: Any, counts: Any, cells: Any, points: Any, cell: float, along: float) -> Any:
    """Return (N, 3, 3): how much a distance in each direction tells, of the map around each point.

    On a plane, the distance from it counts in full and what lies along it by `along`; at a pole likewise; on a single
    ring of a sweep, only the height counts. Elsewhere all directions do.
    """
    information = np.zeros((len(points), 3, 3))
    for n in range(len(points)):
        x, y, z = points[n]
        total, mean, square = 0, np.zeros(3), np.zeros((3, 3))
        for di in range(-1, 2):
            for dj in range(-1, 2):
                for dk in range(-1, 2):
                    place = _slot(keys, _key(x + di * cell, y + dj * cell, z + dk * cell, cell))
                    for m in range(counts[place]):
                        near = cells[place, m] - points[n]
                        if near[0] * near[0] + near[1] * near[1] + near[2] * near[2] < cell * cell:
                            total += 1
                            for a in range(3):
                                mean[a] += near[a]
                                for b in range(3):
                                    square[a, b] += near[a] * near[b]
        information[n] = np.eye(3)
        if total < 5:
            continue
        mean /= total
        values, vectors = np.linalg.eigh(square / total - np.outer(mean, mean))
        if values[1] < PLANE_RATIO * values[2]:
            line = vectors[:, 2].copy()
            if abs(line[2]) > UPRIGHT:
                information[n] = np.eye(3) - (1.0 - along) * np.outer(line, line)
            else:  # one ring on a road or a wall: where it lies is the sensor's doing, but for its height
                information[n] = along * np.eye(3)
                information[n, 2, 2] = 1.0
        elif values[0] < PLANE_RATIO * values[1]:
            normal = vectors[:, 0].copy()
            information[n] = along * np.eye(3) + (1.0 - along) * np.outer(normal, normal)
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
        return np.asarray(_information(self._keys, self._counts, self._cells, _rows(points), self.cell_m, ALONG_PLANE))

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
    """

    pose: Float
    matched: float
    error_m: float
    iterations: int


def register(
    points: Float, point_map: PointMap, guess: Float, max_distance_m: float, kernel_m: float, max_iterations: int = 100
) -> Registration:
    """Lay points on a map, from a guess of the pose.

    Args:
        points: (N, 3) in the sweep's frame.
        point_map: what they lie on.
        guess: (4, 4) map_from_sweep.
        max_distance_m: farther neighbours do not count.
        kernel_m: scale of the Geman-McClure kernel.
        max_iterations: at most so many steps; it ends when a step is below 0.1 mm and 0.1 mrad.
    """
    pose = guess.copy()
    moved = points @ pose[:3, :3].T + pose[:3, 3]
    matched, error, step_number = 0.0, float("nan"), 0
    for step_number in range(1, max_iterations + 1):
        target, distance = point_map.nearest(moved)
        use = distance < max_distance_m
        if step_number % RENEW == 1:
            information = point_map.information(target)
        if use.sum() < 6:
            return Registration(guess, float(use.mean()) if len(use) else 0.0, float("nan"), step_number)
        step = _step(moved[use], target[use], information[use], kernel_m)
        moved = moved @ step[:3, :3].T + step[:3, 3]
        pose = step @ pose
        matched, error = float(use.mean()), float(distance[use].mean())
        turned = np.arccos(np.clip((np.trace(step[:3, :3]) - 1) / 2, -1, 1))
        if np.linalg.norm(step[:3, 3]) < 1e-4 and turned < 1e-4:
            break
    return Registration(pose, matched, error, step_number)


def _step(source: Float, target: Float, information: Float, kernel_m: float) -> Float:
    """Return the small motion (4, 4) that one Gauss-Newton step on weighted distances gives."""
    residual = source - target
    weight = (kernel_m / (kernel_m + (residual**2).sum(axis=1))) ** 2
    jacobian = np.zeros((len(source), 3, 6))
    jacobian[:, :, :3] = np.eye(3)
    x, y, z = source.T
    jacobian[:, 0, 4], jacobian[:, 0, 5] = z, -y
    jacobian[:, 1, 3], jacobian[:, 1, 5] = -z, x
    jacobian[:, 2, 3], jacobian[:, 2, 4] = y, -x
    weighted = np.swapaxes(jacobian, 1, 2) @ (information * weight[:, None, None])  # (N, 6, 3)
    normal = (weighted @ jacobian).sum(axis=0)
    right = -(weighted @ residual[:, :, None]).sum(axis=0)[:, 0]
    return exponential(np.linalg.solve(normal + 1e-9 * np.eye(6), right))


def exponential(twist: Float) -> Float:
    """Return the rigid motion (4, 4) of a twist: translation, then rotation vector (6,)."""
    angle = float(np.linalg.norm(twist[3:]))
    skew = np.array([[0, -twist[5], twist[4]], [twist[5], 0, -twist[3]], [-twist[4], twist[3], 0]])
    near = angle < 1e-8
    a = 1.0 if near else np.sin(angle) / angle
    b = 0.5 if near else (1 - np.cos(angle)) / angle**2
    c = 1 / 6 if near else (angle - np.sin(angle)) / angle**3
    motion = np.eye(4)
    motion[:3, :3] += a * skew + b * skew @ skew
    motion[:3, 3] = (np.eye(3) + b * skew + c * skew @ skew) @ twist[:3]
    return motion


def logarithm(motion: Float) -> Float:
    """Return the twist (6,) whose exponential a rigid motion is; turns below half a turn."""
    rotation = motion[:3, :3]
    angle = float(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
    axis = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    vector = axis * (0.5 if angle < 1e-8 else angle / (2 * np.sin(angle)))
    skew = np.array([[0, -vector[2], vector[1]], [vector[2], 0, -vector[0]], [-vector[1], vector[0], 0]])
    near = angle < 1e-8
    b = 0.5 if near else (1 - np.cos(angle)) / angle**2
    c = 1 / 6 if near else (angle - np.sin(angle)) / angle**3
    left = np.eye(3) + b * skew + c * skew @ skew
    return np.concatenate((np.linalg.solve(left, motion[:3, 3]), vector))


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


__all__ = ["PointMap", "Registration", "exponential", "logarithm", "register", "thinned"]
