"""The simulated street: the same seed gives the same bytes, and what sensors say is where the world is."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from perception.errors import UserError
from perception.geometry.rig import load_rig
from perception.messages import Detections3D, Image, Odometry, PointCloud, SegmentationMask, host
from perception.messages.codec import content, encode
from perception.simulation.drive import Drive
from perception.simulation.scene import CAR, CLASSES, Motion

RIG = load_rig(Path(__file__).parents[2] / "calibration" / "simulated_car")
SECOND_NS = 1_000_000_000


def drive(seed: int = 1, seconds: float = 1.0, speed_mps: float = 8.0) -> list[tuple[str, object]]:
    return list(Drive(RIG, seed, 0, Motion(speed_mps=speed_mps)).messages(seconds))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_street() -> None:
    def contents(seed: int) -> list[bytes]:
        return [bytes(content(encode(m).to_bytes())) for _, m in islice(Drive(RIG, seed, 0).messages(), 60)]

    assert contents(1) == contents(1)
    assert contents(1) != contents(2)


def test_stamps_never_go_back_and_every_sensor_keeps_its_rate() -> None:
    messages = drive(seconds=2.0)
    stamps = [m.header.t_sensor_ns for _, m in messages]  # type: ignore[attr-defined]
    assert stamps == sorted(stamps)
    counts = {kind: sum(isinstance(m, kind) for _, m in messages) for kind in (PointCloud, Image, Odometry)}
    assert counts[PointCloud] == 20
    assert counts[Image] == pytest.approx(20, abs=1)  # two cameras of 5 Hz
    assert counts[Odometry] == pytest.approx(100, abs=2)


def test_a_standing_lidar_sees_the_road_at_its_height() -> None:
    cloud = next(m for _, m in drive(speed_mps=0.0) if isinstance(m, PointCloud))
    assert cloud.ring is not None
    lowest = host(cloud.xyz_m)[host(cloud.ring) == 0]
    mount = RIG.base_link_from("lidar")
    # ring 0 looks 25 degrees down from 1.9 m: it meets a flat road at 1.9 / tan(25 degrees) = 4.07 m
    flat = np.hypot(lowest[:, 0], lowest[:, 1])
    on_road = np.abs(mount.apply(lowest.astype(float))[:, 2]) < 0.05
    assert on_road.sum() > 300
    assert np.median(flat[on_road]) == pytest.approx(1.9 / np.tan(np.radians(25.0)), abs=0.05)


def test_points_have_times_of_their_turn_and_rings_of_their_beam() -> None:
    cloud = next(m for _, m in drive() if isinstance(m, PointCloud))
    assert cloud.t_offset_ns is not None
    assert cloud.ring is not None
    offsets = host(cloud.t_offset_ns)
    assert offsets.max() <= 0
    assert offsets.min() == pytest.approx(-100_000_000, abs=1_000_000)
    xyz = host(cloud.xyz_m).astype(float)
    elevation = np.degrees(np.arctan2(xyz[:, 2], np.hypot(xyz[:, 0], xyz[:, 1])))
    np.testing.assert_allclose(elevation, np.linspace(-25, 8, 32)[host(cloud.ring)], atol=0.01)


def test_true_boxes_hold_the_points_of_their_objects_and_masks_show_them() -> None:
    messages = drive(seconds=1.0, speed_mps=0.0)
    cloud = [m for _, m in messages if isinstance(m, PointCloud)][-1]
    truth = [m for _, m in messages if isinstance(m, Detections3D)][-1]
    assert cloud.header.t_sensor_ns == truth.header.t_sensor_ns
    assert len(host(truth.score)) >= 5
    base_link = RIG.base_link_from("lidar").apply(host(cloud.xyz_m).astype(float))
    for center, size, yaw in zip(host(truth.center_m), host(truth.size_lwh_m), host(truth.yaw_rad), strict=True):
        c, s = np.cos(yaw), np.sin(yaw)
        local = (base_link - center) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        assert (np.abs(local) < size / 2 + 1.3).all(axis=1).sum() >= 5  # moving ones: within a turn's way
    masks = [m for topic, m in messages if topic == "truth/cam_front/mask" and isinstance(m, SegmentationMask)]
    assert masks[-1].classes == CLASSES
    assert set(np.unique(host(masks[-1].label))) <= set(range(len(CLASSES)))
    assert (host(masks[-1].label) == CAR).any()


def test_odometry_is_the_integral_of_its_own_velocity() -> None:
    ego = [m for _, m in drive(seconds=3.0) if isinstance(m, Odometry)]
    for before, after in pairwise(ego):
        seconds = (after.header.t_sensor_ns - before.header.t_sensor_ns) * 1e-9
        way = np.linalg.norm(np.subtract(after.translation_m, before.translation_m))
        assert way == pytest.approx(np.linalg.norm(before.velocity_mps) * seconds, rel=1e-3)


def test_a_sensor_that_this_world_does_not_have_is_refused() -> None:
    imu = replace(RIG.sensors["ego"], name="imu", kind="imu")
    with pytest.raises(UserError, match="no imu"):
        Drive(replace(RIG, sensors={**RIG.sensors, "imu": imu}), 1, 0)
