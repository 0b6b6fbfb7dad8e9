"""Odometry from sweeps alone, against made-up streets whose motion is known and on real sweeps."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.errors import ShapeError
from perception.logs.open_log import open_log
from perception.messages import Header, Odometry, PointCloud
from perception.nodes.lidar_odometry import LidarOdometry, LidarOdometryConfig
from perception.ops.point_map import PointMap, exponential, logarithm, thinned


def street(seed: int = 0) -> NDArray[np.float64]:
    """Points of a road, house fronts with bays on both sides, poles and parked cars, 120 m long."""
    random = np.random.default_rng(seed)
    road = np.column_stack((random.uniform(-20, 120, 12000), random.uniform(-8, 8, 12000), np.zeros(12000)))
    fronts = []
    for side in (-8.0, 8.0):
        x = random.uniform(-20, 120, 9000)
        fronts.append(np.column_stack((x, side + 0.8 * np.sign(np.sin(x / 3.1)), random.uniform(0, 6, 9000))))
    poles = [
        np.column_stack((np.full(150, x), np.full(150, y), random.uniform(0, 5, 150)))
        for x, y in zip(random.uniform(-20, 120, 40), random.choice([-6.0, 6.0], 40), strict=True)
    ]
    return np.vstack([road, *fronts, *poles])


def sweep_at(world: NDArray[np.float64], pose: NDArray[np.float64], t_ns: int, seed: int) -> PointCloud:
    """What a sensor at `base_link` sees within 40 m, a third of the points, with 1 cm of noise."""
    random = np.random.default_rng(seed)
    seen = (world - pose[:3, 3]) @ pose[:3, :3]
    seen = seen[(np.linalg.norm(seen, axis=1) < 40) & (random.random(len(seen)) < 0.33)]
    xyz = (seen + random.normal(0, 0.01, seen.shape)).astype(np.float32)
    return PointCloud(header=Header(frame_id="base_link", t_sensor_ns=t_ns), xyz_m=xyz)


def drive(speed_mps: float, turn_radps: float, count: int) -> list[NDArray[np.float64]]:
    step = exponential(np.array([speed_mps * 0.1, 0, 0, 0, 0, turn_radps * 0.1]))
    poses = [np.eye(4)]
    for _ in range(count - 1):
        poses.append(poses[-1] @ step)
    return poses


def driven(node: LidarOdometry, poses: list[NDArray[np.float64]], start: int = 0) -> list[Odometry]:
    world = street()
    return [node.on_sweep(sweep_at(world, pose, (start + k) * 100_000_000 + 10**9, k)) for k, pose in enumerate(poses)]


@pytest.mark.parametrize(("speed_mps", "turn_radps"), [(0.0, 0.0), (8.0, 0.0), (12.0, 0.1)])
def test_the_way_of_a_vehicle_is_found_within_a_hundredth(speed_mps: float, turn_radps: float) -> None:
    poses = drive(speed_mps, turn_radps, 20)
    found = driven(LidarOdometry(LidarOdometryConfig(min_range_m=0.5)), poses)
    last = found[-1]
    assert np.linalg.norm(np.array(last.translation_m) - poses[-1][:3, 3]) < 0.01 * 1.9 * speed_mps + 0.03
    assert last.velocity_mps[0] == pytest.approx(speed_mps, abs=0.15)
    assert last.angular_velocity_radps[2] == pytest.approx(turn_radps, abs=0.02)
    assert last.header.frame_id == "odom"
    assert not last.header.degraded


def test_a_pause_begins_a_new_map_where_the_vehicle_is_and_says_so() -> None:
    node = LidarOdometry(LidarOdometryConfig(min_range_m=0.5))
    poses = drive(8.0, 0.0, 10)
    before = driven(node, poses[:5])
    after = driven(node, poses[5:], start=100)
    assert "begins anew after" in after[0].header.degraded[0]
    assert after[0].translation_m == pytest.approx(before[-1].translation_m)
    assert not after[1].header.degraded


def test_a_sweep_of_another_place_keeps_the_prediction_and_says_so() -> None:
    node = LidarOdometry(LidarOdometryConfig(min_range_m=0.5))
    poses = drive(8.0, 0.0, 6)
    driven(node, poses)
    random = np.random.default_rng(1)
    nowhere = PointCloud(
        header=Header(frame_id="base_link", t_sensor_ns=10**9 + 600_000_000),
        xyz_m=(random.uniform(-30, 30, (3000, 3)) + np.array([0.0, 0.0, 60.0])).astype(np.float32),
    )
    lost = node.on_sweep(nowhere)
    assert "found again" in lost.header.degraded[0]
    assert lost.translation_m[0] == pytest.approx(6 * 0.8, abs=0.1)


def test_sweeps_without_points_in_range_are_refused() -> None:
    nothing = PointCloud(header=Header(frame_id="base_link", t_sensor_ns=1), xyz_m=np.full((5, 3), np.nan, np.float32))
    with pytest.raises(ShapeError, match="no motion to tell"):
        LidarOdometry().on_sweep(nothing)


def test_real_sweeps_of_kitti_tell_a_steady_slow_drive(data_folder: Path) -> None:
    log = open_log(data_folder / "kitti_raw_seq")
    node = LidarOdometry(LidarOdometryConfig(), log.rig)
    found = [node.on_sweep(m) for _, m in log.messages(topics=["lidar/points"]) if isinstance(m, PointCloud)]
    x = np.array([odometry.translation_m[0] for odometry in found])
    # No truth is known; by the car ahead and the pictures the vehicle rolls on slowly and straight.
    assert (np.diff(x) > 0.05).all()
    assert 1.5 < x[-1] < 3.0
    assert abs(found[-1].translation_m[1]) < 0.1
    assert not any(odometry.header.degraded for odometry in found)


@given(st.lists(st.floats(-1.5, 1.5), min_size=6, max_size=6))
@settings(max_examples=50, deadline=None)
def test_a_motion_is_the_exponential_of_its_logarithm(values: list[float]) -> None:
    motion = exponential(np.array(values))
    np.testing.assert_allclose(exponential(logarithm(motion)), motion, atol=1e-8)


def test_the_nearest_point_of_a_map_is_that_of_a_search_through_all() -> None:
    random = np.random.default_rng(0)
    points, queries = random.uniform(-5, 5, (400, 3)), random.uniform(-5, 5, (100, 3))
    held = PointMap(cell_m=2.0, points_per_cell=1000)
    held.add(points)
    kept = held.points()
    nearest, distance = held.nearest(queries)
    apart = np.linalg.norm(queries[:, None] - kept[None], axis=2)
    within = apart.min(axis=1) < 2.0  # a cell around is searched
    np.testing.assert_allclose(distance[within], apart.min(axis=1)[within])
    np.testing.assert_allclose(nearest[within], kept[apart.argmin(axis=1)][within])


def test_a_map_grows_forgets_and_thins() -> None:
    held = PointMap(cell_m=1.0, points_per_cell=4)
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(40), np.arange(20), indexing="ij"), -1).reshape(-1, 3) + 0.5
    held.add(grid.astype(float))
    assert len(held) == len(grid)  # a point a cell, over several enlargements
    held.add(grid.astype(float))
    assert len(held) == len(grid)  # the same points are too near
    held.forget_beyond(np.zeros(3), 10.0)
    assert len(held) == int((np.linalg.norm(grid, axis=1) <= 10).sum())
    assert len(thinned(grid.astype(float), 2.0)) == 20 * 20 * 10
