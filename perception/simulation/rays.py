"""The rays of a sensor, in tiles of neighbours, made once per camera or LiDAR."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.geometry.cameras import Camera
from perception.geometry.rig_file import LidarFile
from perception.simulation.intersections import jit

Float: TypeAlias = NDArray[np.float64]

TILE, GROUP = 8, 4
"""Pixels on each side of a tile, tiles on each side of a group."""
COLUMN_TILE, RING_TILE = 8, 8


@dataclass(frozen=True, eq=False)
class Tiles:
    """N rays, tile after tile, tiles in groups.

    Attributes:
        directions: (3, N) unit.
        starts: (T + 1,) tile i holds the rays starts[i] to starts[i + 1], at most 64.
        cones: (T, 5) axis, cosine and sine of the half angle.
        groups: (G + 1,) group g holds the tiles groups[g] to groups[g + 1].
        group_cones: (G, 5).
        view_cone: (5,) around all rays.
        places: (N,) where each ray stands in the sensor's own order (pixels row by row; columns of rings).
    """

    directions: Float
    starts: NDArray[np.int64]
    cones: Float
    groups: NDArray[np.int64]
    group_cones: Float
    view_cone: Float
    places: NDArray[np.int64]

    @cached_property
    def in_order(self) -> NDArray[np.int64]:
        """(N,) the rays in the sensor's own order."""
        return np.argsort(self.places)

    def turned(self, rotation: Float) -> Tiles:
        """Return the same rays in another frame."""
        turn = np.ascontiguousarray(rotation)
        directions = np.empty_like(self.directions)
        _turn(self.directions, turn, directions)
        cones, group_cones, view_cone = (
            np.concatenate((of[..., :3] @ turn.T, of[..., 3:]), axis=-1)
            for of in (self.cones, self.group_cones, self.view_cone)
        )
        return replace(self, directions=directions, cones=cones, group_cones=group_cones, view_cone=view_cone)


@jit
def _turn(vectors: Any, rotation: Any, turned: Any) -> None:
    xs, ys, zs = vectors[0], vectors[1], vectors[2]
    for k in range(3):
        a, b, c, row = rotation[k, 0], rotation[k, 1], rotation[k, 2], turned[k]
        for i in range(len(row)):
            row[i] = a * xs[i] + b * ys[i] + c * zs[i]


def tiles_of(directions: Float, group: NDArray[np.int64], tile: NDArray[np.int64], valid: NDArray[np.bool_]) -> Tiles:
    """Sort rays (N, 3) into groups and tiles by their numbers (N,); those that are not valid are left out."""
    places = np.flatnonzero(valid)
    places = places[np.lexsort((tile[places], group[places]))]
    rays, groups, tiles = directions[places], group[places], tile[places]
    starts = _starts((np.diff(groups) != 0) | (np.diff(tiles) != 0), len(places))
    group_starts = _starts(np.diff(groups) != 0, len(places))
    return Tiles(
        directions=np.ascontiguousarray(rays.T), starts=starts, cones=_cones(rays, starts),
        groups=np.searchsorted(starts, group_starts), group_cones=_cones(rays, group_starts),
        view_cone=_cones(rays, np.array([0, len(rays)]))[0], places=places,
    )  # fmt: skip


def _starts(changes: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    return np.concatenate(([0], np.flatnonzero(changes) + 1, [count])).astype(np.int64)


def _cones(rays: Float, starts: NDArray[np.int64]) -> Float:
    """Return a cone (T, 5) around each run of rays."""
    sums = np.add.reduceat(rays, starts[:-1], axis=0)
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    axes = sums / np.maximum(length, 1e-12)
    cosines = np.einsum("ij,ij->i", rays, np.repeat(axes, np.diff(starts), axis=0))
    half = np.arccos(np.clip(np.minimum.reduceat(cosines, starts[:-1]), -1.0, 1.0)) + 2e-3
    half = np.where(length[:, 0] < 1e-6, np.pi, np.minimum(half, np.pi))
    return np.concatenate((axes, np.cos(half)[:, None], np.sin(half)[:, None]), axis=1)


@lru_cache(maxsize=64)
def camera_tiles(camera: Camera) -> Tiles:
    """Return the rays of a camera's pixels, in its optical frame; pixels without a ray are left out."""
    v, u = np.mgrid[: camera.height_px, : camera.width_px]
    rays, valid = camera.unproject(np.stack((u.reshape(-1), v.reshape(-1)), axis=1))
    if camera.max_angle_rad is not None:
        valid &= rays[:, 2] >= np.cos(camera.max_angle_rad)
    many, side = camera.width_px, TILE * GROUP
    group, tile = (v // side) * many + u // side, (v // TILE) * many + u // TILE
    return tiles_of(rays, group.reshape(-1), tile.reshape(-1), valid)


@lru_cache(maxsize=64)
def camera_slopes(camera: Camera) -> tuple[Float, float]:
    """Return how many pixels right and down a point goes when its unit ray changes by a small vector.

    (H * W, 2, 3) pixels per radian, and the largest of their lengths.
    """
    v, u = np.mgrid[: camera.height_px, : camera.width_px].astype(np.float64)
    rays, _ = camera.unproject(np.stack((u.reshape(-1), v.reshape(-1)), axis=1))
    right, _ = camera.unproject(np.stack((u.reshape(-1) + 0.5, v.reshape(-1)), axis=1))
    down, _ = camera.unproject(np.stack((u.reshape(-1), v.reshape(-1) + 0.5), axis=1))
    steps = np.stack((right - rays, down - rays), axis=1) * 2  # (N, 2, 3): ray per pixel
    gram = np.einsum("nik,njk->nij", steps, steps)
    determinant = gram[:, 0, 0] * gram[:, 1, 1] - gram[:, 0, 1] ** 2
    inverse = (
        np.stack((gram[:, 1, 1], -gram[:, 0, 1], -gram[:, 0, 1], gram[:, 0, 0]), axis=1).reshape(-1, 2, 2)
        / np.maximum(determinant, 1e-18)[:, None, None]
    )
    slopes: Float = np.where(determinant[:, None, None] > 1e-15, inverse @ steps, 0.0)
    return slopes, float(np.linalg.norm(slopes, axis=2).max())


def beam_elevations_rad(lidar: LidarFile) -> Float:
    """Return the elevation of every ring (R,), ring 0 first: the beam table, or evenly spaced."""
    low, high = lidar.vertical_fov_deg
    table = np.linspace(low, high, lidar.rings) if lidar.beams_deg is None else np.array(lidar.beams_deg)
    return np.radians(table)


@lru_cache(maxsize=16)
def lidar_tiles(lidar: LidarFile) -> Tiles:
    """Return the rays of one turn, in the sensor's frame: clockwise seen from above, from behind to behind.

    The own order is column after column, ring 0 first.
    """
    azimuth = np.pi - 2 * np.pi * (np.arange(lidar.columns) + 0.5) / lidar.columns
    across, up = np.meshgrid(azimuth, beam_elevations_rad(lidar), indexing="ij")
    rays = np.stack((np.cos(up) * np.cos(across), np.cos(up) * np.sin(across), np.sin(up)), axis=-1).reshape(-1, 3)
    left, right = np.radians(lidar.horizontal_fov_deg)
    valid = ((across >= left - 1e-9) & (across <= right + 1e-9)).reshape(-1)
    column, ring = np.mgrid[: lidar.columns, : lidar.rings]
    group, tile = column // (COLUMN_TILE * GROUP), (column // COLUMN_TILE) * lidar.rings + ring // RING_TILE
    return tiles_of(rays, group.reshape(-1), tile.reshape(-1), valid)


__all__ = ["Tiles", "beam_elevations_rad", "camera_slopes", "camera_tiles", "lidar_tiles", "tiles_of"]
