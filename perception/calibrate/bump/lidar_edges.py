"""Lines that a LiDAR and a camera both see: outlines beside things, their upper ends, and where they stand on the road.

Levinson & Thrun, "Automatic online calibration of cameras and lasers", RSS 2013, take all jumps of depth. Here only
those count whose place is the same from both sensors, as an unseen bias of centimetres is what is looked for:

    sides   half a step beyond the last point of a surface that does not slant away: on average, the outline
    tops    the same between rings, above both sensors: below, a camera sees another end of a roof than the LiDAR does
    feet    where an upright face, seen by two rings or more, meets the road
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.bump.sweep import Sweep
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]
Index: TypeAlias = NDArray[np.int64]

JUMP_M = 0.7
JUMP_SHARE = 0.07
NEAREST_M = 2.0
FARTHEST_M = 45.0
SLANT_M = 0.12
"""Depth by which neighbours on the near surface may differ."""
ABOVE_SENSORS_M = 2.3
ROAD_M = 0.12
GROUND_M = 0.3
RING_GAP_RAD = np.radians(0.08)
JITTER_RAD = 0.1
"""How far back the next point of a turn may be."""
COLUMN_RAD = np.radians(0.4)
ALONG = 0.002
"""How far the second point lies from the first, over their distance: the direction in which to look."""


@dataclass(frozen=True, eq=False)
class SceneLines:
    """Points of lines in one sweep, in `base_link` at each point's own instant.

    Attributes:
        base_m: (E, 3).
        further_m: (E, 3) a little further across the line: the direction in which it is looked for.
        t_ns: (E,).
        kind: (E,) 0 and 1 sides, 2 tops, 3 feet: what may be wrong together.
        half_rad: (E,) how far to either side the line may be, as the sensor's steps leave open; 0 where it measured it.
    """

    base_m: Float
    further_m: Float
    t_ns: Index
    kind: Index
    half_rad: Float

    @classmethod
    def together(cls, lines: Sequence[SceneLines]) -> SceneLines:
        """Join lines."""
        names = ("base_m", "further_m", "t_ns", "kind", "half_rad")
        return cls(*(np.concatenate([getattr(line, name) for line in lines]) for name in names))

    def chosen(self, which: NDArray[np.bool_]) -> SceneLines:
        """Return some of them."""
        return SceneLines(
            self.base_m[which], self.further_m[which], self.t_ns[which], self.kind[which], self.half_rad[which]
        )

    def moved(self, by: Transform) -> SceneLines:
        """Return them elsewhere."""
        return SceneLines(by.apply(self.base_m), by.apply(self.further_m), self.t_ns, self.kind, self.half_rad)


KINDS = 4


def scene_lines(sweep: Sweep, base_link_from_lidar: Transform) -> SceneLines:
    """Return the lines of a sweep."""
    grid = _Grid.of(sweep, base_link_from_lidar)
    return SceneLines.together([_sides(grid), _tops(grid), _feet(grid)])


@dataclass(frozen=True, eq=False)
class _Grid:
    """A sweep by ring and column; missing points are NaN in `depth`."""

    depth: Float
    azimuth: Float
    elevation: Float
    base_m: Float
    t_ns: Index
    lidar: Transform

    @classmethod
    def of(cls, sweep: Sweep, base_link_from_lidar: Transform) -> _Grid:
        xyz = sweep.xyz_m
        azimuth, flat = np.arctan2(xyz[:, 1], xyz[:, 0]), np.hypot(xyz[:, 0], xyz[:, 1])
        rows = rings_of(sweep)
        rows = rows - rows.min()
        step = _column_step(rows, azimuth)
        columns = np.floor((azimuth + np.pi) / step).astype(np.int64)
        point = np.full((int(rows.max()) + 1, int(np.ceil(2 * np.pi / step)) + 1), -1)
        point[rows, columns] = np.arange(len(rows))
        left, right = np.roll(point, 1, axis=1), np.roll(point, -1, axis=1)
        # firings are not exactly a column apart: an empty cell takes the point beside it
        point = np.where(point >= 0, point, np.where(left >= 0, left, right))
        there = point >= 0

        def spread(values: Float) -> Float:
            return np.where(there.reshape(*there.shape, *(1,) * (values.ndim - 1)), values[point], np.nan)

        return cls(
            spread(np.linalg.norm(xyz, axis=1)), spread(azimuth), spread(np.arctan2(xyz[:, 2], flat)),
            spread(base_link_from_lidar.apply(xyz)), sweep.point_t_ns[point], base_link_from_lidar,
        )  # fmt: skip

    def lines(
        self, row: Index, column: Index, azimuth: Float, elevation: Float, across: Float, kind: int, half_rad: Float
    ) -> SceneLines:
        """Return points at directions of the sensor and the depth of a cell; `across` (E, 2) azimuth, elevation."""
        depth = self.depth[row, column]
        here = _point(azimuth, elevation, depth)
        further = _point(azimuth + ALONG * across[:, 0], elevation + ALONG * across[:, 1], depth)
        stamps, kinds = self.t_ns[row, column], np.full(len(row), kind)
        return SceneLines(self.lidar.apply(here), self.lidar.apply(further), stamps, kinds, half_rad)


def rings_of(sweep: Sweep) -> Index:
    """Return the ring of each point; where the sensor does not tell, from elevations, or else from the order of points.

    Beams that do not leave from one point have no gaps between their elevations; files of such sensors (KITTI) hold one
    turn of a beam after the other.
    """
    if sweep.ring is not None:
        return sweep.ring
    azimuth = np.arctan2(sweep.xyz_m[:, 1], sweep.xyz_m[:, 0])
    elevation = np.arctan2(sweep.xyz_m[:, 2], np.hypot(sweep.xyz_m[:, 0], sweep.xyz_m[:, 1]))
    order = np.argsort(elevation)
    new = np.diff(elevation[order], prepend=elevation[order[:1]]) > RING_GAP_RAD
    ring = np.empty(len(order), np.int64)
    ring[order] = np.cumsum(new)
    if np.bincount(ring).max() <= 0.5 * len(ring):
        return ring
    turned = np.cumsum((np.diff(azimuth, prepend=azimuth[:1]) + JITTER_RAD) % (2 * np.pi) - JITTER_RAD)
    turns = np.floor((turned + JITTER_RAD) / (2 * np.pi)).astype(np.int64)
    return turns.max() - turns if np.corrcoef(turns, elevation)[0, 1] < 0 else turns


def _column_step(rows: Index, azimuth: Float) -> float:
    order = np.lexsort((azimuth, rows))
    step = np.diff(azimuth[order])[np.diff(rows[order]) == 0]
    return float(np.median(step[step > 1e-5])) if len(step) else COLUMN_RAD


def _sides(grid: _Grid) -> SceneLines:
    """Find jumps along each ring, seen from the near side: outwards to the left and to the right."""
    found = []
    with np.errstate(invalid="ignore"):
        for out in (1, -1):
            far = np.roll(grid.depth, -out, axis=1)
            before = np.roll(grid.depth, out, axis=1)
            step = np.roll(grid.azimuth, -out, axis=1) - grid.azimuth
            usable = _jumps(grid.depth, far) & (np.abs(before - grid.depth) < SLANT_M) & (np.abs(step) < 0.1)
            usable &= grid.base_m[..., 2] > ROAD_M
            row, column = np.nonzero(usable)
            across = np.column_stack((np.ones(len(row)), np.zeros(len(row))))
            half = step[row, column] / 2
            azimuth, elevation = grid.azimuth[row, column] + half, grid.elevation[row, column]
            found.append(grid.lines(row, column, azimuth, elevation, across, int(out > 0), np.abs(half)))
    return SceneLines.together(found)


def _tops(grid: _Grid) -> SceneLines:
    """Find jumps to the next ring above, on upright faces above both sensors."""
    with np.errstate(invalid="ignore"):
        near, far, below = grid.depth[1:-1], grid.depth[2:], grid.depth[:-2]
        step = grid.elevation[2:] - grid.elevation[1:-1]
        usable = _jumps(near, far) & (np.abs(below - near) < SLANT_M) & (step < np.radians(2.5))
        usable &= grid.base_m[1:-1, :, 2] > ABOVE_SENSORS_M
    row, column = np.nonzero(usable)
    across = np.column_stack((np.zeros(len(row)), np.ones(len(row))))
    half = step[row, column] / 2
    elevation = grid.elevation[row + 1, column] + half
    return grid.lines(row + 1, column, grid.azimuth[row + 1, column], elevation, across, 2, half)


def _feet(grid: _Grid) -> SceneLines:
    """Find where an upright face stands on the road: a ring on the road, then two on the face."""
    road, first, second = grid.base_m[:-2], grid.base_m[1:-1], grid.base_m[2:]
    with np.errstate(invalid="ignore"):
        reach = [np.hypot(part[..., 0] - grid.lidar.translation_m[0], part[..., 1] - grid.lidar.translation_m[1])
                 for part in (road, first, second)]  # fmt: skip
        lift = first[..., 2] - road[..., 2]
        usable = (np.abs(road[..., 2]) < GROUND_M) & (lift > ROAD_M) & (lift < 1.5)
        usable &= (second[..., 2] > first[..., 2] + 0.08) & (np.abs(reach[2] - reach[1]) < 0.08)
        usable &= (
            (reach[1] > reach[0] + 0.15) & (reach[1] < reach[0] + 1.5) & (reach[1] > NEAREST_M) & (reach[1] < 30.0)
        )
    row, column = np.nonzero(usable)
    foot = (first[row, column] + second[row, column]) / 2
    foot[:, 2] = road[row, column, 2]  # a pavement is higher than the road
    higher = foot + np.outer(ALONG * reach[1][row, column], (0.0, 0.0, 1.0))
    return SceneLines(foot, higher, grid.t_ns[row + 1, column], np.full(len(row), 3), np.zeros(len(row)))


def _jumps(near: Float, far: Float) -> NDArray[np.bool_]:
    return np.asarray((far - near > np.maximum(JUMP_M, JUMP_SHARE * near)) & (near > NEAREST_M) & (near < FARTHEST_M))


def _point(azimuth: Float, elevation: Float, depth: Float) -> Float:
    flat = depth * np.cos(elevation)
    return np.stack((flat * np.cos(azimuth), flat * np.sin(azimuth), depth * np.sin(elevation)), axis=1)


__all__ = ["SceneLines", "rings_of", "scene_lines"]
