"""A drive: the same seed gives the same bytes on any number of threads, and what sensors say is where the world is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.errors import UserError
from perception.geometry.rig import load_rig
from perception.messages import (
    EventPacket,
    Image,
    Imu,
    Message,
    Odometry,
    PaintedPoints,
    PointCloud,
    Pose3D,
    Recognition,
    SegmentationMask,
    TrackedObjects,
    host,
)  # fmt: skip
from perception.messages.codec import encode
from perception.simulation.classes import CAR, CLASSES
from perception.simulation.drive import Drive
from perception.simulation.motion import Motion
from perception.simulation.parallel import records
from perception.simulation.skeleton import ACTIONS, JOINTS

RIG = load_rig(Path(__file__).parents[2] / "calibration" / "simulated_car")
SECOND_NS = 1_000_000_000


@cache
def whole(seed: int = 1, seconds: float = 1.0) -> tuple[tuple[str, Message], ...]:
    """All sensors of the shipped rig."""
    return tuple(Drive(RIG, seed, 0).messages(seconds))


def some(sensors: tuple[str, ...], seconds: float = 1.0, speed_mps: float = 8.0) -> list[tuple[str, Message]]:
    return list(Drive(RIG, 1, 0, Motion(speed_mps=speed_mps), sensors=sensors).messages(seconds))


def test_the_same_seed_gives_the_same_bytes_on_one_or_two_processes_and_another_seed_another_street() -> None:
    first = [(topic, encode(message).to_bytes(), message.header.t_sensor_ns) for topic, message in whole()]
    assert list(records(Drive(RIG, 1, 0), 1.0, processes=2)) == first
    other = dict(Drive(RIG, 2, 0, sensors=("lidar", "cam_front", "event_cabin", "ego_left")).messages(0.25))
    for topic in ("lidar/points", "cam_front/image", "event_cabin/events", "truth/skeleton"):
        assert encode(other[topic]).to_bytes() not in {data for _, data, _ in first}


def test_a_sensor_says_the_same_whatever_else_is_on_the_rig() -> None:
    alone = [encode(m).to_bytes() for topic, m in some(("cam_left",), 0.3) if topic == "cam_left/image"]
    assert alone == [encode(m).to_bytes() for topic, m in whole() if topic == "cam_left/image"][: len(alone)]


def test_every_sensor_of_the_rig_keeps_its_rate_and_stamps_never_go_back() -> None:
    messages = whole()
    stamps = [message.header.t_sensor_ns for _, message in messages]
    assert stamps == sorted(stamps)
    counts = Counter(topic for topic, _ in messages)
    for name, sensor in RIG.sensors.items():
        topic = {"lidar": f"{name}/points", "camera": f"{name}/image", "event_camera": f"{name}/events",
                 "odometry": name}.get(sensor.kind, f"{name}/{sensor.kind}")  # fmt: skip
        assert counts[topic] == pytest.approx(sensor.rate_hz, abs=1)
    assert set(counts) == set(Drive.topics(RIG))
    assert all(isinstance(message, Drive.topics(RIG)[topic]) for topic, message in messages)


def test_without_truth_or_with_fewer_sensors_there_is_less() -> None:
    assert not any(topic.startswith("truth/") for topic in Drive.topics(RIG, with_truth=False))
    found = {topic for topic, _ in Drive(RIG, 1, 0, sensors=("ego", "imu"), with_truth=False).messages(0.1)}
    assert found == {"ego", "imu/imu"} == set(Drive.topics(RIG, ("ego", "imu"), with_truth=False))
    with pytest.raises(UserError, match="Did you mean 'cam_front'"):
        Drive(RIG, 1, 0, sensors=("cam_frond",))
    with pytest.raises(UserError, match="Did you mean 'rain'"):
        Drive(RIG, 1, 0, weather="rein")


def test_a_standing_lidar_sees_the_road_at_its_height() -> None:
    cloud = next(m for _, m in some(("lidar",), 0.1, speed_mps=0.0) if isinstance(m, PointCloud))
    assert cloud.ring is not None
    lowest = host(cloud.xyz_m)[host(cloud.ring) == 0]
    # ring 0 looks 25 degrees down from 1.9 m: it meets a flat road at 1.9 / tan(25 degrees) = 4.07 m
    flat = np.hypot(lowest[:, 0], lowest[:, 1])
    on_road = np.abs(RIG.base_link_from("lidar").apply(lowest.astype(float))[:, 2]) < 0.05
    assert on_road.sum() > 300
    assert np.median(flat[on_road]) == pytest.approx(1.9 / np.tan(np.radians(25.0)), abs=0.05)


def test_points_have_times_of_their_turn_and_rings_of_their_beam() -> None:
    cloud = next(m for _, m in whole() if isinstance(m, PointCloud))
    assert cloud.t_offset_ns is not None
    assert cloud.ring is not None
    offsets = host(cloud.t_offset_ns)
    assert offsets.max() <= 0
    assert offsets.min() == pytest.approx(-100_000_000, abs=1_000_000)
    xyz = host(cloud.xyz_m).astype(float)
    elevation = np.degrees(np.arctan2(xyz[:, 2], np.hypot(xyz[:, 0], xyz[:, 1])))
    np.testing.assert_allclose(elevation, np.linspace(-25, 8, 32)[host(cloud.ring)], atol=0.01)
    azimuth = np.degrees(np.arctan2(xyz[:, 1], xyz[:, 0]))
    # it turns clockwise from behind: ahead is half a turn, 50 ms, before the end
    ahead = np.abs(azimuth) < 1.0
    np.testing.assert_allclose(offsets[ahead], -50e6, atol=1e6)


def test_every_point_of_an_object_lies_in_its_true_box_at_the_instant_of_the_point() -> None:
    messages = whole()
    motion = Drive(RIG, 1, 0).world.motion
    cloud = [m for _, m in messages if isinstance(m, PointCloud)][-1]
    truth = [m for _, m in messages if isinstance(m, TrackedObjects)][-1]
    labels = [m for _, m in messages if isinstance(m, PaintedPoints)][-1]
    assert cloud.header.t_sensor_ns == truth.header.t_sensor_ns == labels.header.t_sensor_ns
    assert cloud.t_offset_ns is not None
    lag_s = host(cloud.t_offset_ns) * 1e-9
    place, turn = motion.poses(1.0 + lag_s)
    points = in_world(RIG.base_link_from("lidar").apply(host(cloud.xyz_m).astype(float)), place, turn)
    back = motion.world_from_base_link(1.0)
    seen = [thing for thing in truth.objects if thing.num_points >= 5]
    assert len(seen) >= 8
    for thing in seen:
        assert thing.velocity_mps is not None
        center = back.apply(np.array(thing.center_m)) + back.rotate(np.array(thing.velocity_mps)) * lag_s[:, None]
        yaw = back.yaw_rad() + 2 * np.arctan2(thing.rotation_xyzw[2], thing.rotation_xyzw[3])
        c, s = np.cos(yaw), np.sin(yaw)
        local = (points - center) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        inside = (np.abs(local) < np.array(thing.size_lwh_m) / 2 + 0.1).all(axis=1)
        kinds = [CLASSES.index(thing.classes[0].label), CLASSES.index("rider")]
        assert np.isin(host(labels.label)[inside], kinds).sum() >= 0.97 * thing.num_points
        assert thing.visibility is not None
        assert 0 < thing.visibility <= 1


def in_world(points: NDArray[np.float64], place: NDArray[np.float64], yaw: NDArray[np.float64]) -> NDArray[np.float64]:
    c, s = np.cos(yaw), np.sin(yaw)
    x, y, z = points.T
    return np.asarray(place + np.stack((c * x - s * y, s * x + c * y, z), axis=1))


def test_masks_instances_and_depths_show_the_same_objects() -> None:
    by_topic: dict[str, Message] = dict(whole())
    mask, instance, depth = (by_topic[f"truth/cam_front/{what}"] for what in ("mask", "instance", "depth"))
    assert isinstance(mask, SegmentationMask)
    assert isinstance(instance, Image)
    assert isinstance(depth, Image)
    assert mask.classes == CLASSES
    assert (host(mask.label) == CAR).any()
    truth = next(m for _, m in reversed(whole()) if isinstance(m, TrackedObjects))
    kinds = {thing.id: thing.classes[0].label for thing in truth.objects}
    ids = host(instance.data)
    for number in np.unique(ids[ids > 0]):
        if int(number) in kinds:
            shown = {CLASSES[label] for label in np.unique(host(mask.label)[ids == number])}
            assert shown <= {kinds[int(number)], "rider"}
    assert not host(depth.data)[host(mask.label) == CLASSES.index("sky")].any()
    road = host(mask.label) == CLASSES.index("road")
    assert (host(depth.data)[road] > 0).all()


def test_a_lidar_gives_what_its_rig_says_that_it_has() -> None:
    lidar = RIG.sensors["lidar"]
    assert lidar.lidar is not None
    bare = lidar.lidar.model_copy(
        update={"has_ring": False, "point_times": False, "has_intensity": False, "intensity_scale": 255}
    )
    rig = replace(RIG, sensors={"lidar": replace(lidar, lidar=bare)})
    cloud = dict(Drive(rig, 1, 0, with_truth=False).messages(0.1))["lidar/points"]
    assert isinstance(cloud, PointCloud)
    assert cloud.ring is cloud.t_offset_ns is cloud.intensity is cloud.elongation is None
    assert cloud.intensity_scale == 255


def test_odometry_drifts_slowly_from_the_truth_and_is_the_integral_of_its_velocity() -> None:
    messages = some(("ego",), 20.0)
    said = [m for topic, m in messages if topic == "ego" and isinstance(m, Odometry)]
    true = [m for topic, m in messages if topic == "truth/ego" and isinstance(m, Odometry)]
    assert said[0].translation_m == pytest.approx(true[0].translation_m)
    gone = np.linalg.norm(np.subtract(said[-1].translation_m, true[-1].translation_m))
    way = np.linalg.norm(np.subtract(true[-1].translation_m, true[0].translation_m))
    assert 1e-4 * way < gone < 0.02 * way
    for odometry, share in ((said, 0.02), (true, 1e-3)):
        for before, after in pairwise(odometry):
            seconds = (after.header.t_sensor_ns - before.header.t_sensor_ns) * 1e-9
            step = np.linalg.norm(np.subtract(after.translation_m, before.translation_m))
            mean = (before.velocity_mps[0] + after.velocity_mps[0]) / 2
            assert step == pytest.approx(mean * seconds, rel=share)


def test_an_imu_measures_gravity_and_the_turns_of_the_true_motion() -> None:
    messages = some(("ego", "imu"), 12.0)
    imu = [m for _, m in messages if isinstance(m, Imu)]
    force = np.mean([m.acceleration_mps2 for m in imu], axis=0)
    np.testing.assert_allclose(force, [0.0, 0.0, 9.80665], atol=0.25)
    true = [m for topic, m in messages if topic == "truth/ego" and isinstance(m, Odometry)]
    turned = np.cumsum([m.angular_velocity_radps[2] for m in imu]) * 0.01
    yaw = [2 * np.arctan2(m.rotation_xyzw[2], m.rotation_xyzw[3]) for m in true]
    assert np.abs(turned[::2][: len(yaw)] - np.array(yaw) + yaw[0]).max() < 0.06  # bias and noise over 12 s


def test_skeleton_and_action_are_of_the_same_person_and_instant() -> None:
    messages = whole()
    skeletons = [m for topic, m in messages if topic == "truth/skeleton" and isinstance(m, Pose3D)]
    assert skeletons[0].joint_names == JOINTS
    assert skeletons[0].header.frame_id == "ego_left_optical"
    assert skeletons[0].reference == "truth"
    actions = [m for _, m in messages if isinstance(m, Recognition)]
    assert {m.top[0].label for m in actions} <= set(ACTIONS)
    assert all(m.t_begin_ns <= m.t_end_ns == m.header.t_sensor_ns for m in actions)
    events = [m for _, m in messages if isinstance(m, EventPacket)]
    assert all((np.diff(host(m.t_ns)) >= 0).all() for m in events)
    for packet in events:
        times = host(packet.t_ns)
        assert packet.header.t_sensor_ns - 50_000_000 <= times[0] <= times[-1] <= packet.header.t_sensor_ns
