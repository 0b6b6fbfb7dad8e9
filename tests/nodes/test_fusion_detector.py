"""The fusion node with a network that shows what it is given: cameras and LiDAR that are lost, short histories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.errors import ContractError
from perception.geometry.rig import load_rig
from perception.messages import Header, Image, ModelId, Odometry, PointCloud, host
from perception.networks.card import find_card
from perception.networks.deepinteraction import DEEPINTERACTION_COMPACT, Detections
from perception.nodes.fusion_detector import NO_EGO_MOTION, FusionDetector, FusionDetectorConfig
from perception.runtime.node import NodeSetup

RIG = load_rig(Path(__file__).parents[2] / "calibration" / "simulated_car")
CARD = find_card("deepinteraction_compact")
CAMERAS = ("cam_front", "cam_rear")
MS = 1_000_000


class Seen:
    """A network that keeps what it is given, and finds one box, 8 m ahead of the LiDAR (its y is forward)."""

    config = DEEPINTERACTION_COMPACT

    def detect(
        self, images: Tensor, clouds: Sequence[NDArray[np.float32]], projections: Tensor, poses: Tensor, *more: Any
    ) -> list[Detections]:
        self.images, self.points, self.projections, self.poses = images, clouds[0], projections[0], poses[0]
        box = torch.tensor([[0.0, 8.0, -1.0, 2.0, 4.0, 1.5, -torch.pi / 2, 0.0, 5.0]])
        return [Detections(box, torch.tensor([0.9]), torch.tensor([0]))]


def node_of(ego: Any = None, **settings: Any) -> tuple[FusionDetector, Seen]:
    network: Any = Seen()
    config = FusionDetectorConfig(weights="filled:deepinteraction_compact", **settings)
    model = ModelId(id="seen", engine="none", trained=True)
    node = FusionDetector(config, CARD, network, lambda *_: {}, model, cameras=CAMERAS)
    node.rig = RIG
    node.ego = SimpleNamespace(at=ego or (lambda t_ns: None))  # type: ignore[assignment]
    return node, network


def sweep(t_ns: int, xyz: Sequence[Sequence[float]] = ((10.0, 2.0, -1.0),)) -> PointCloud:
    points = np.array(xyz, np.float32)
    intensity = np.full(len(points), 0.5, np.float32)
    return PointCloud(header=Header(frame_id="lidar", t_sensor_ns=t_ns), xyz_m=points, intensity=intensity)


def picture(camera: str, t_ns: int) -> Image:
    sensor = RIG.sensors[camera]
    assert sensor.camera is not None
    size = (sensor.camera.height_px, sensor.camera.width_px)
    header = Header(frame_id=sensor.frame, t_sensor_ns=t_ns, sensors={camera: "ok"})
    return Image(
        header=header, encoding="rgb8", height_px=size[0], width_px=size[1], data=np.zeros((*size, 3), np.uint8)
    )


def driving(t_ns: int) -> Odometry:
    """Ten metres a second along x."""
    header = Header(frame_id="odom", t_sensor_ns=t_ns)
    return Odometry(header=header, translation_m=(t_ns * 1e-8, 0.0, 0.0), rotation_xyzw=(0, 0, 0, 1))


def test_points_and_boxes_are_moved_between_the_sensor_and_the_frame_of_the_card() -> None:
    node, seen = node_of(driving, sweeps=2)
    found = node.on_scene(sweep(0), [picture(camera, 0) for camera in CAMERAS])
    np.testing.assert_allclose(seen.points, [[-2.0, 10.0, -1.0, 127.5, 0.0]], atol=1e-4)  # x right, y forward; byte
    lidar = RIG.base_link_from("lidar").translation_m
    np.testing.assert_allclose(host(found.center_m), [[lidar[0] + 8, lidar[1], lidar[2] - 0.25]], atol=1e-5)
    np.testing.assert_allclose(host(found.size_lwh_m), [[4.0, 2.0, 1.5]])
    assert found.velocity_mps is not None
    np.testing.assert_allclose(host(found.velocity_mps), [[5.0, 0.0]], atol=1e-6)
    assert found.header.degraded == ()


def test_of_one_sweep_no_velocity_is_told() -> None:
    node, _ = node_of(driving)
    assert CARD.points.sweeps == 1
    assert node.on_scene(sweep(0), [picture("cam_front", 0)]).velocity_mps is None


def test_a_point_ahead_projects_to_where_the_camera_sees_it() -> None:
    node, seen = node_of(driving)
    node.on_scene(sweep(0), [picture("cam_front", 0)])
    camera = RIG.sensors["cam_front"].camera
    assert camera is not None
    x, y, z, one = *seen.points[0, :3], 1.0
    u, v, depth, _ = (seen.projections[0] @ torch.tensor([x, y, z, one], dtype=torch.float32)).tolist()
    optical = RIG.transform(RIG.sensors["cam_front"].frame, "lidar").apply(np.array([[10.0, 2.0, -1.0]]))
    (expected,), _ = camera.project(optical)
    scale = np.divide(DEEPINTERACTION_COMPACT.image_size[::-1], (camera.width_px, camera.height_px))
    np.testing.assert_allclose(np.array([u, v]) / depth, expected * scale, atol=0.5)


def test_a_camera_that_is_lost_or_broken_is_left_out_and_named() -> None:
    node, seen = node_of(driving)
    broken = picture("cam_rear", 0)
    found = node.on_scene(sweep(0), [picture("cam_front", 0), Image(
        header=broken.header, encoding="jpeg", height_px=10, width_px=10, data=np.zeros(20, np.uint8))])  # fmt: skip
    assert seen.images.shape[1] == 1
    assert found.header.sensors["cam_rear"] == "lost"
    assert any("cam_rear left out" in reason for reason in found.header.degraded)
    found = node.on_scene(sweep(100 * MS), [])
    assert seen.images.shape[1] == 0
    assert {"without cam_front", "without cam_rear"} <= set(found.header.degraded)


def test_a_picture_of_another_instant_is_posed_where_the_camera_was() -> None:
    node, seen = node_of(driving)
    node.on_scene(sweep(100 * MS), [picture("cam_front", 100 * MS)])
    at_once = seen.poses[0].clone()
    node.on_scene(sweep(200 * MS), [picture("cam_front", 150 * MS)])
    # 50 ms earlier the car was half a metre further back: y of the card's frame is forward
    np.testing.assert_allclose((seen.poses[0] - at_once)[:3, 3].numpy(), [0.0, -0.5, 0.0], atol=1e-5)


def test_past_sweeps_are_moved_by_ego_motion_and_a_short_history_is_told() -> None:
    node, seen = node_of(driving, sweeps=3)
    for number in range(4):  # a wall 20 m ahead of the first place comes nearer by half a metre a sweep
        found = node.on_scene(sweep(number * 50 * MS, [[20.0 - number / 2, 0.0, 0.0]]), [])
        told = [text for text in found.header.adaptations if "sweeps" in text]
        assert told == ([f"{number + 1} of 3 sweeps"] if number < 2 else [])
    np.testing.assert_allclose(seen.points[:, 1], [18.5] * 3, atol=1e-4)
    np.testing.assert_allclose(seen.points[:, 4], [0.0, 0.05, 0.1], atol=1e-6)
    node.reset("seek")
    node.on_scene(sweep(400 * MS), [])
    assert len(seen.points) == 1


def test_points_that_were_measured_earlier_are_moved_to_the_stamp() -> None:
    node, seen = node_of(driving)
    cloud = sweep(500 * MS, [[20.0, 0.0, 0.0], [20.0, 1.0, 0.0]])
    late = msgspec.structs.replace(cloud, t_offset_ns=np.array([-100 * MS, 0], np.int32))
    node.on_scene(late, [])
    # a tenth of a second at ten metres a second: the first has come nearer by a metre; y of the card is forward
    np.testing.assert_allclose(seen.points[:, :2], [[0.0, 19.0], [-1.0, 20.0]], atol=1e-4)
    node.on_scene(msgspec.structs.replace(late, deskewed_to_ns=500 * MS), [])
    np.testing.assert_allclose(seen.points[:, 1], [20.0, 20.0], atol=1e-4)


def test_without_ego_motion_one_sweep_stands_alone_and_says_so() -> None:
    node, seen = node_of(sweeps=3)
    for number in range(2):
        found = node.on_scene(sweep(number * 50 * MS), [])
    assert len(seen.points) == 1
    assert NO_EGO_MOTION in found.header.degraded


def test_without_a_sweep_there_is_no_output_by_default() -> None:
    node, _ = node_of(driving)
    assert all(node.on_pictures(picture("cam_front", number * 100 * MS)) is None for number in range(20))


def test_a_lost_lidar_degrades_by_setting_to_boxes_of_whole_rounds_of_pictures() -> None:
    node, seen = node_of(driving, without_lidar="degrade", lidar_lost_after_ms=300)
    node.on_scene(sweep(0), [])
    found = [
        (number, result)
        for number in range(1, 7)
        for camera in CAMERAS
        if (result := node.on_pictures(picture(camera, number * 100 * MS))) is not None
    ]
    assert [number for number, _ in found] == [4, 5, 6]  # from 300 ms on, one for each round
    header = found[0][1].header
    assert header.sensors["lidar"] == "lost"
    assert "without lidar" in header.degraded
    assert (header.t_sensor_ns, header.frame_id) == (400 * MS, "base_link")
    assert seen.points.shape == (0, 5)
    assert seen.images.shape[1] == 2
    assert node.on_scene(sweep(700 * MS), []).header.sensors.get("lidar") is None  # it is back
    assert node.on_pictures(picture("cam_front", 800 * MS)) is None


def test_a_round_without_one_camera_ends_when_the_next_begins() -> None:
    node, seen = node_of(driving, without_lidar="degrade", lidar_lost_after_ms=10)
    node.on_scene(sweep(0), [])
    assert node.on_pictures(picture("cam_front", 100 * MS)) is None
    found = node.on_pictures(picture("cam_front", 200 * MS))
    assert found is not None
    assert found.header.t_sensor_ns == 100 * MS
    assert found.header.sensors["cam_rear"] == "lost"
    assert seen.images.shape[1] == 1


def test_degrading_without_pictures_is_refused_with_the_reason() -> None:
    config = FusionDetectorConfig(weights="filled:deepinteraction_compact", without_lidar="degrade")
    setup = NodeSetup("fusion", RIG, {"sweep": ("lidar/points",), "images": ()}, ())
    with pytest.raises(ContractError, match="pictures"):
        FusionDetector.create(config, setup)
