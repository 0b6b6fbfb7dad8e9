"""Rays end on the first surface: checked against distance fields, which share no formula with the kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.geometry.cameras import Camera
from perception.geometry.rig_file import LidarFile
from perception.simulation.cabin import snapshot_of
from perception.simulation.parts import BOX, CAPSULE, CYLINDER, DISC, ELLIPSOID, Parts, joined, parts
from perception.simulation.raycast import GROUND, NOTHING, cast
from perception.simulation.rays import Tiles, camera_tiles, lidar_tiles
from perception.simulation.scene import Snapshot

Float = NDArray[np.float64]
FACING = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""world_from_optical of a camera that looks along x."""
CAMERA = Camera("plumb_bob", 44, 36, (30, 30), (21.5, 17.5))
ORIGIN = np.array([[0.0], [0.0], [1.6]])


def some_parts(seed: int, speed_mps: float = 0.0) -> Parts:
    """Sixty parts of all kinds with a volume, 3 to 40 m ahead."""
    random = np.random.default_rng(seed)

    def places() -> Float:
        return np.stack((random.uniform(3, 40, 15), random.uniform(-12, 12, 15), random.uniform(0.2, 3, 15)), axis=1)

    turn, velocity = random.uniform(-np.pi, np.pi, 15), random.uniform(-speed_mps, speed_mps, (4, 15, 3))
    boxes = parts(BOX, places(), random.uniform(0.05, 1.2, (15, 3)), np.stack((np.cos(turn), np.sin(turn)), axis=1),
                  (1, 1, 1), 0, velocity_mps=velocity[0])  # fmt: skip
    balls = parts(ELLIPSOID, places(), random.uniform(0.1, 1.5, (15, 3)), (0, 0), (1, 1, 1), 0,
                  velocity_mps=velocity[1])  # fmt: skip
    sizes = np.stack((random.uniform(0.05, 0.8, 15), random.uniform(0.1, 1.5, 15), np.zeros(15)), axis=1)
    posts = parts(CYLINDER, places(), sizes, (0, 0), (1, 1, 1), 0, velocity_mps=velocity[2])
    begin = places()
    radius = np.stack((random.uniform(0.03, 0.4, 15), np.zeros(15)), axis=1)
    bones = parts(CAPSULE, begin, begin + random.uniform(-1, 1, (15, 3)), radius, (1, 1, 1), 0,
                  velocity_mps=velocity[3])  # fmt: skip
    return joined(boxes, balls, posts, bones)


def field(row: Float, points: Float) -> Float:
    """How far points (N, 3) are outside a part, negative inside; of an ellipsoid only in its shortest radius."""
    kind, local = int(row[0]), points - row[1:4]
    if kind == ELLIPSOID:
        return np.asarray((np.linalg.norm(local / row[4:7], axis=1) - 1.0) * row[4:7].min())
    if kind == CAPSULE:
        along = row[4:7] - row[1:4]
        share = np.clip(local @ along / (along @ along), 0.0, 1.0)
        return np.asarray(np.linalg.norm(local - share[:, None] * along, axis=1) - row[7])
    if kind == BOX:
        (c, s), (x, y, z) = row[7:9], local.T
        beyond = np.abs(np.stack((c * x + s * y, c * y - s * x, z), axis=1)) - row[4:7]
    else:
        beyond = np.stack((np.hypot(local[:, 0], local[:, 1]) - row[4], np.abs(local[:, 2]) - row[5]), axis=1)
    return np.asarray(np.linalg.norm(np.maximum(beyond, 0.0), axis=1) + np.minimum(beyond.max(axis=1), 0.0))


@pytest.mark.parametrize("seed", range(2))
def test_every_ray_ends_on_the_first_surface_and_passes_through_nothing(seed: int) -> None:
    scene, rays = snapshot_of(some_parts(seed)), camera_tiles(CAMERA).turned(FACING)
    distance, hit = cast(scene, rays, ORIGIN, reach_m=100.0)
    ends = ORIGIN + rays.directions * np.where(np.isfinite(distance), distance, 0.0)
    assert {GROUND, NOTHING} < set(hit.tolist())
    assert len(set(hit.tolist())) > 12
    assert np.isinf(distance[hit == NOTHING]).all()
    np.testing.assert_allclose(ends[2, hit == GROUND], 0.0, atol=1e-9)
    before = np.linspace(0.0, 1.0 - 1e-6, 30) * np.minimum(distance, 60.0)[:, None]  # (N, 30)
    along = ORIGIN.T[:, None] + rays.directions.T[:, None] * before[:, :, None]
    for number, row in enumerate(scene.parts.rows):
        assert field(row, along.reshape(-1, 3)).min() > -1e-6
        on_it = hit == number
        if on_it.any():
            np.testing.assert_allclose(field(row, ends.T[on_it]), 0.0, atol=1e-6)


def test_a_disc_is_met_between_its_radii() -> None:
    wheel = parts(DISC, (5.0, 0.0, 1.6), (0.5, 0.2, 0.0), (0, 1), (1, 1, 1), 0)  # stands along y, faces x
    rays = camera_tiles(replace(CAMERA, focal_px=(80, 80))).turned(FACING)
    distance, hit = cast(snapshot_of(wheel), rays, ORIGIN, reach_m=100.0)
    away = 5.0 * np.hypot(rays.directions[1], rays.directions[2]) / rays.directions[0]
    inside, clear = (away > 0.2) & (away < 0.5), (np.abs(away - 0.2) > 1e-6) & (np.abs(away - 0.5) > 1e-6)
    assert 100 < inside.sum() < len(hit)
    assert ((hit == 0) == inside)[clear].all()
    np.testing.assert_allclose(distance[hit == 0] * rays.directions[0, hit == 0], 5.0)


def alone(rays: Tiles) -> Tiles:
    """The same rays, each in a tile of its own, all in one group that looks everywhere."""
    count = rays.directions.shape[1]
    everywhere = np.array([0.0, 0.0, 1.0, -1.0, 0.0])
    return replace(
        rays, starts=np.arange(count + 1), cones=np.tile(everywhere, (count, 1)), groups=np.array([0, count]),
        group_cones=everywhere[None], view_cone=everywhere,
    )  # fmt: skip


def test_tiles_save_work_and_change_nothing() -> None:
    scene = snapshot_of(some_parts(7))
    turning = lidar_tiles(LidarFile(rings=20, range_m=(1, 60), vertical_fov_deg=(-30, 20), columns=90))
    for rays in (camera_tiles(CAMERA).turned(FACING), turning):
        found, expected = (cast(scene, of, ORIGIN, reach_m=100.0) for of in (rays, alone(rays)))
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_a_part_that_moves_is_met_where_it_is_at_the_instant_of_the_ray() -> None:
    moving, rays = some_parts(4, speed_mps=9.0), camera_tiles(CAMERA).turned(FACING)
    count = rays.directions.shape[1]
    lags_s = np.where(np.arange(count) % 2 == 0, -0.02, 0.03)
    origins = ORIGIN + np.array([[8.0], [1.0], [0.0]]) * lags_s
    distance, hit = cast(snapshot_of(moving), rays, origins, reach_m=100.0, lags_s=lags_s, slack_m=1.0)
    for lag_s in (-0.02, 0.03):
        rows = moving.rows.copy()
        rows[:, 1:4] += moving.velocity_mps * lag_s
        rows[rows[:, 0] == CAPSULE, 4:7] += moving.velocity_mps[rows[:, 0] == CAPSULE] * lag_s
        then: Snapshot = snapshot_of(replace(moving, rows=rows, velocity_mps=np.zeros_like(moving.velocity_mps)))
        place = ORIGIN + np.array([[8.0], [1.0], [0.0]]) * lag_s
        expected, expected_hit = cast(then, rays, place, reach_m=100.0)
        np.testing.assert_array_equal(hit[lags_s == lag_s], expected_hit[lags_s == lag_s])
        np.testing.assert_allclose(distance[lags_s == lag_s], expected[lags_s == lag_s], rtol=1e-9)
