"""Odometry from sweeps alone, against made-up streets whose motion is known and on real sweeps."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from perception.errors import ShapeError
from perception.geometry.rig import load_rig
from perception.geometry.transforms import Transform
from perception.logs.open_log import open_log
from perception.messages import Header, Image, Odometry, PointCloud, host
from perception.nodes.lidar_odometry import LidarOdometry, LidarOdometryConfig
from perception.ops.point_map import PointMap, thinned
from perception.ops.rigid_motion import exponential, logarithm
from perception.simulation.drive import Drive

RIG = load_rig(Path(__file__).parents[2] / "calibration" / "simulated_car")


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


def place_of(odometry: Odometry) -> tuple[Any, Any]:
    return odometry.translation_m, odometry.rotation_xyzw


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


def test_a_simulated_drive_of_a_few_beams_drifts_neither_ahead_nor_up() -> None:
    drive = Drive(RIG, 1, 0, sensors=("lidar",), with_truth=False)
    node = LidarOdometry(rig=RIG)
    found, truth = [], []
    for _, message in drive.messages(1.5):
        if isinstance(message, PointCloud):
            found.append(Transform.from_quaternion(*place_of(node.on_sweep(message))))
            truth.append(drive.world.motion.world_from_base_link(message.header.t_sensor_ns * 1e-9))
    assert len(found) == 15
    for ours, true in zip(found, truth, strict=True):
        apart = (truth[0].inverse() @ true).inverse() @ found[0].inverse() @ ours
        # Ranges have 1.5 cm of noise; the first sweeps, 0.8 m each, are skewed by a speed that nobody told.
        assert np.linalg.norm(apart.translation_m) < 0.03
        assert np.degrees(np.arccos(apart.rotation[2, 2])) < 0.1
    assert np.linalg.norm(truth[-1].translation_m - truth[0].translation_m) > 11


def test_the_poses_that_come_with_a_real_recording_are_met(data_folder: Path) -> None:
    folder = data_folder / "ouster_pcap"
    log = open_log(folder / "OS-1-128_v2.3.0_1024x10_lb_n3.pcap")
    assert log.rig is not None
    node = LidarOdometry(rig=log.rig)
    found = [
        Transform.from_quaternion(*place_of(node.on_sweep(m))) for _, m in log.messages() if isinstance(m, PointCloud)
    ]
    rows = np.loadtxt(folder / "OS-1-128_v2.3.0_1024x10_lb_n3_poses_kitti.txt").reshape(-1, 3, 4)
    assert len(found) == len(rows) == 3
    lidar = log.rig.base_link_from("lidar")
    for ours, row in zip(found, rows, strict=True):
        apart = Transform.from_matrix(row, tolerance=1e-3).inverse() @ lidar.inverse() @ ours @ lidar
        # The ranges of this profile have steps of 8 mm, and the poses, by the maker's own odometry, no stated accuracy.
        assert np.linalg.norm(apart.translation_m) < 0.04
        assert np.degrees(2 * np.arccos(min(1.0, apart.rotation_xyzw[3]))) < 0.2
    assert found[-1].translation_m[0] == pytest.approx(0.498, abs=0.03)


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


def camera_motion(before: Any, after: Any, points: NDArray[np.float64], camera: Any) -> NDArray[np.float64]:
    """Return the motion (4, 4) of a camera between two grey pictures: corners that are followed, each with the depth
    of the LiDAR points (N, 3) around it in the first, placed in the second by perspective-n-point."""
    focal, center = np.array(camera.focal_px), np.array(camera.center_px)
    points = points[points[:, 2] > 1]
    pixels = points[:, :2] / points[:, 2:] * focal + center
    corners = cv2.goodFeaturesToTrack(before, 3000, 0.005, 5)
    followed, _, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None, winSize=(15, 15))
    back, _, _ = cv2.calcOpticalFlowPyrLK(after, before, followed, None, winSize=(15, 15))
    corners, followed, back = corners[:, 0], followed[:, 0], back[:, 0]
    apart, index = cKDTree(pixels).query(corners, 3)
    depth = points[index, 2]
    good = (np.linalg.norm(corners - back, axis=1) < 0.3) & (apart[:, -1] < 5)
    good &= np.ptp(depth, axis=1) < 0.03 * depth[:, 0]
    known = np.column_stack(((corners - center) / focal, np.ones(len(corners)))) * depth.mean(axis=1)[:, None]
    matrix = np.array([[focal[0], 0, center[0]], [0, focal[1], center[1]], [0, 0, 1.0]])
    _, turn, way, inside = cv2.solvePnPRansac(
        known[good], followed[good], matrix, None, reprojectionError=1.0, iterationsCount=500
    )
    assert len(inside) > 200
    inside = inside[:, 0]
    turn, way = cv2.solvePnPRefineLM(known[good][inside], followed[good][inside], matrix, None, turn, way)
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = cv2.Rodrigues(turn)[0], way[:, 0]
    return np.asarray(np.linalg.inv(motion))


def test_real_sweeps_of_kitti_move_as_the_camera_beside_them_sees_it(data_folder: Path) -> None:
    log = open_log(data_folder / "kitti_raw_seq")
    rig = log.rig
    assert rig is not None
    sweeps = [m for _, m in log.messages() if isinstance(m, PointCloud)]
    images = [m for _, m in log.messages() if isinstance(m, Image)]
    grey = [cv2.cvtColor(host(image.data), cv2.COLOR_RGB2GRAY) for image in images]
    optical, base = rig.transform("cam_front_optical", "lidar"), rig.base_link_from("cam_front_optical").matrix
    seen = np.eye(4)
    for k in range(len(sweeps) - 1):
        points = optical.apply(host(sweeps[k].xyz_m).astype(np.float64))
        step = camera_motion(grey[k], grey[k + 1], points, rig.camera("cam_front"))
        seen = seen @ base @ step @ np.linalg.inv(base)
    node = LidarOdometry(rig=rig)
    found = [node.on_sweep(sweep) for sweep in sweeps]
    assert seen[0, 3] == pytest.approx(2.17, abs=0.03)
    # 0.2 m ahead at a time; the camera's own scale hangs on depths that are known within a few per cent each.
    np.testing.assert_allclose(found[-1].translation_m, seen[:3, 3], atol=0.03)
    turned = Transform.from_quaternion(*place_of(found[-1])).rotation.T @ seen[:3, :3]
    assert np.degrees(np.arccos(np.clip((np.trace(turned) - 1) / 2, -1, 1))) < 0.3
    x = np.array([odometry.translation_m[0] for odometry in found])
    assert (np.diff(x) > 0.2).all()  # a steady drive
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
