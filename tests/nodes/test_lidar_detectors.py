"""The LiDAR nodes: what the network is given of a rig's cloud, by hand and in the simulated street."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from perception.errors import ShapeError
from perception.geometry.rig import load_rig
from perception.geometry.transforms import Transform
from perception.messages import Detections3D, Header, ModelId, Odometry, PaintedPoints, PointCloud, host
from perception.networks.card import Card, find_card
from perception.networks.layers.boxes import Boxes3D
from perception.nodes.lidar_detector import LidarDetector, LidarDetectorConfig
from perception.nodes.lidar_sweeps_detector import LidarSweepsDetector
from perception.simulation.classes import BUILDING, FENCE, WALL
from perception.simulation.drive import Drive
from perception.simulation.parts import BOX

RIG = load_rig(Path(__file__).parents[2] / "calibration" / "simulated_car")
LIDAR_M = (1.2, 0.0, 1.9)


class Seen:
    """A network that keeps what it is given, and finds one box ahead."""

    def __init__(self) -> None:
        self.points: NDArray[np.float32] = np.zeros((0, 5), np.float32)

    def detect(self, points: torch.Tensor, run: Any) -> Boxes3D:
        self.points = points.numpy().copy()
        center, size = torch.tensor([[10.0, 1.0, 0.5]]), torch.tensor([[4.0, 2.0, 1.5]])
        velocity = torch.tensor([[3.0, 0.0]])
        return Boxes3D(center, size, torch.zeros(1), torch.tensor([0.9]), torch.zeros(1, dtype=torch.long), velocity)


def node_of(card: Card, kind: type[LidarDetector] = LidarDetector, ego: Any = None) -> tuple[LidarDetector, Seen]:
    network = Seen()
    node = kind(LidarDetectorConfig(weights=f"filled:{card.name}"), card, network, lambda *_: {},
                ModelId(id="seen", engine="none", trained=True))  # fmt: skip
    node.rig = RIG
    if ego is not None:
        node.ego = SimpleNamespace(at=ego)  # type: ignore[attr-defined]
    return node, network


def sweep(xyz: Any, t_ns: int = 0, **more: Any) -> PointCloud:
    return PointCloud(header=Header(frame_id="lidar", t_sensor_ns=t_ns), xyz_m=np.array(xyz, np.float32), **more)


def test_points_and_boxes_are_moved_between_the_sensor_and_the_frame_of_the_card() -> None:
    node, seen = node_of(find_card("dsvt_pillar_waymo"))
    found = node.on_sweep(sweep([[5.0, 1.0, -1.0]], intensity=np.array([0.5], np.float32)))
    np.testing.assert_allclose(seen.points, [[6.2, 1.0, 0.9, np.tanh(0.5), 0.0]], atol=1e-6)
    np.testing.assert_allclose(host(found.center_m), [[10.0, 1.0, 0.5]])
    assert found.header.frame_id == "base_link"
    assert "elongation is not measured: 0 in its place" in found.header.adaptations


def test_a_card_with_y_forward_gets_and_gives_turned_axes() -> None:
    node, seen = node_of(find_card("dsvt_nuscenes"))
    found = node.on_sweep(sweep([[5.0, 1.0, -1.0]], intensity=np.array([0.5], np.float32)))
    # x right, y forward: a point 5 m ahead and 1 m to the left of the sensor; full scale is 255
    np.testing.assert_allclose(seen.points, [[-1.0, 5.0, -1.0, 127.5, 0.0]], atol=1e-5)
    # the box at (10 right, 1 forward) of the sensor moves 3 m/s to the right
    np.testing.assert_allclose(host(found.center_m), [[1.0 + LIDAR_M[0], -10.0, 0.5 + LIDAR_M[2]]], atol=1e-5)
    np.testing.assert_allclose(velocity(found), [[0.0, -3.0]], atol=1e-6)
    np.testing.assert_allclose(host(found.yaw_rad), [-np.pi / 2], atol=1e-6)
    assert any("one sweep of 10" in text for text in found.header.adaptations)


@pytest.mark.parametrize("xyz", [np.zeros((0, 3)), np.full((4, 3), np.nan)], ids=["no point", "no finite point"])
def test_a_sweep_without_a_usable_point_is_one_counted_drop(xyz: Any) -> None:
    node, _ = node_of(find_card("dsvt_compact"))
    with pytest.raises(ShapeError, match="point"):
        node.on_sweep(sweep(xyz))


def velocity(found: Detections3D) -> NDArray[Any]:
    assert found.velocity_mps is not None
    return host(found.velocity_mps)


def driving(t_ns: int) -> Odometry:
    """Ten metres a second along x."""
    header = Header(frame_id="odom", t_sensor_ns=t_ns)
    return Odometry(
        header=header, translation_m=(t_ns * 1e-8, 0.0, 0.0), rotation_xyzw=(0, 0, 0, 1), velocity_mps=(10.0, 0.0, 0.0)
    )


def test_past_sweeps_are_moved_by_ego_motion_and_numbered() -> None:
    node, seen = node_of(find_card("flatformer_waymo_3f"), LidarSweepsDetector, driving)
    for number in range(4):
        # the same wall, 20 m ahead of the first place, comes nearer by 1 m a sweep
        cloud = sweep([[20.0 - number, 2.0, 0.0]], number * 100_000_000, intensity=np.zeros(1, np.float32))
        found = node.on_sweep(cloud)
    np.testing.assert_allclose(seen.points[:, :3], [[17.0 + LIDAR_M[0], 2.0, LIDAR_M[2]]] * 3, atol=1e-5)
    np.testing.assert_array_equal(seen.points[:, 4], [0, -1, -2])
    assert not any("sweeps" in text for text in found.header.adaptations)
    node.reset("seek")
    found = node.on_sweep(sweep([[16.0, 2.0, 0.0]], 400_000_000, intensity=np.zeros(1, np.float32)))
    assert len(seen.points) == 1
    assert "1 of 3 sweeps" in found.header.adaptations


def test_the_time_lag_of_past_sweeps_is_in_seconds() -> None:
    node, seen = node_of(find_card("dsvt_nuscenes"), LidarSweepsDetector, driving)
    for number in range(3):
        node.on_sweep(sweep([[20.0, 2.0, 0.0]], number * 50_000_000, intensity=np.zeros(1, np.float32)))
    np.testing.assert_allclose(seen.points[:, 4], [0.0, 0.05, 0.1], atol=1e-6)


def test_without_ego_motion_one_sweep_stands_alone_and_says_so() -> None:
    node, seen = node_of(find_card("flatformer_waymo_3f"), LidarSweepsDetector, lambda t_ns: None)
    for number in range(2):
        found = node.on_sweep(sweep([[20.0, 2.0, 0.0]], number * 100_000_000))
    assert len(seen.points) == 1
    assert any("no ego motion" in text for text in found.header.adaptations)


def test_a_moving_lidar_is_deskewed_by_the_times_of_its_points() -> None:
    drive = Drive(RIG, 5, 0, sensors=("lidar",))
    card = find_card("dsvt_compact")
    wide = card.model_copy(update={"input": card.points})
    motion = drive.world.motion

    def ego(t_ns: int) -> Odometry:
        pose = motion.world_from_base_link(t_ns * 1e-9)
        return Odometry(
            header=Header(frame_id="odom", t_sensor_ns=t_ns), translation_m=tuple(pose.translation_m.tolist()),
            rotation_xyzw=tuple(pose.rotation_xyzw.tolist()),
        )  # fmt: skip

    clouds = dict(list(drive.messages(1.5))[-4:])
    cloud, truth = clouds["lidar/points"], clouds["truth/lidar/painted"]
    assert isinstance(cloud, PointCloud)
    assert isinstance(truth, PaintedPoints)
    assert cloud.intensity is not None
    assert cloud.t_offset_ns is not None
    still = np.isin(host(truth.label), (BUILDING, WALL, FENCE))
    cloud = msgspec.structs.replace(
        cloud, xyz_m=host(cloud.xyz_m)[still], intensity=host(cloud.intensity)[still], ring=None,
        t_offset_ns=host(cloud.t_offset_ns)[still],
    )  # fmt: skip
    scene = drive.world.street(cloud.header.t_sensor_ns).parts
    apart = {}
    for kind in (LidarDetector, LidarSweepsDetector):
        node, seen = node_of(wide, kind, ego)
        node.on_sweep(cloud)
        world = motion.world_from_base_link(cloud.header.t_sensor_ns * 1e-9).apply(seen.points[:, :3].astype(float))
        apart[kind] = _distance_to_surfaces(world, scene.rows[(scene.rows[:, 0] == BOX) & (scene.thing < 0)])
    # range noise is 2 cm; without deskew a point of the turn's beginning is 0.8 m off
    assert np.percentile(apart[LidarSweepsDetector], 95) < 0.06
    assert np.percentile(apart[LidarDetector], 95) > 0.12


def _distance_to_surfaces(world: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far points are from the nearest face of a box."""
    nearest = np.full(len(world), np.inf)
    for box in boxes:
        turn = Transform.from_yaw(box[1:4], float(np.arctan2(box[8], box[7]))).inverse()
        local = np.abs(turn.apply(world)) - box[4:7]
        outside = np.linalg.norm(np.maximum(local, 0), axis=1)
        nearest = np.minimum(nearest, np.where((local < 0).all(axis=1), -local.max(axis=1), outside))
    return nearest


def test_what_was_near_the_car_when_measured_is_left_out_of_past_sweeps_only() -> None:
    # 3 m from the vehicle's origin, and 1 m from where the car is 0.2 s later: on the car's roof, not on the road
    for card, near, far in (
        ("flatformer_waymo_3f", (1.0, 2.0, 0.0), (4.0, 0.0, 0.0)),
        ("dsvt_nuscenes", (0.9, -0.9, 0), (0.9, 1.1, 0)),
    ):
        node, seen = node_of(find_card(card), LidarSweepsDetector, driving)
        cloud = [near, far]
        node.on_sweep(sweep(cloud, 0, intensity=np.zeros(2, np.float32)))
        assert len(seen.points) == 2
        node.on_sweep(sweep(cloud, 200_000_000, intensity=np.zeros(2, np.float32)))
        assert len(seen.points) == 3  # both of now, and one of the past
