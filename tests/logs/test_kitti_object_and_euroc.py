from pathlib import Path

import numpy as np
import pytest

from perception.errors import LogError
from perception.geometry.boxes import Boxes
from perception.logs.open_log import open_log
from perception.messages import Detections3D, Image, Imu, Odometry, PaintedPoints, PointCloud
from perception.messages.array import host


def test_every_labelled_object_of_kitti_holds_points_of_its_sweep(data_folder: Path) -> None:
    log = open_log(data_folder / "kitti_object")
    rig = log.rig
    assert rig is not None
    clouds: list[PointCloud] = []
    boxes: list[Detections3D] = []
    for _, message in log.messages():
        clouds += [message] if isinstance(message, PointCloud) else []
        boxes += [message] if isinstance(message, Detections3D) else []
    assert len(clouds) == len(boxes) == 3
    for cloud, labelled in zip(clouds, boxes, strict=True):
        xyz = rig.base_link_from("lidar").apply(host(cloud.xyz_m).astype(np.float64))
        found = Boxes(
            host(labelled.center_m).astype(float),
            host(labelled.size_lwh_m).astype(float),
            host(labelled.yaw_rad).astype(float),
        )
        counts = found.contain(xyz).sum(axis=1)
        assert (counts >= 9).all(), counts  # 9 to 1351 by an independent count


def test_labelled_cars_lie_inside_the_picture(data_folder: Path) -> None:
    log = open_log(data_folder / "kitti_object")
    rig = log.rig
    assert rig is not None
    first = next(m for _, m in log.messages(topics=["truth/objects"]) if isinstance(m, Detections3D))
    camera = rig.camera("cam_front")
    optical = rig.transform("cam_front_optical", "base_link").apply(host(first.center_m).astype(np.float64))
    pixels, visible = camera.project(optical)
    assert visible.all()
    assert ((pixels >= 0) & (pixels < (camera.width_px, camera.height_px))).all()


def semantic_sequence(folder: Path) -> Path:
    for name in ("velodyne", "labels"):
        (folder / name).mkdir(parents=True)
    points = np.array([[1, 2, 3, 0.5], [4, 5, 6, 0.1]], np.float32)
    for k in range(2):
        (folder / "velodyne" / f"{k:06d}.bin").write_bytes(points.tobytes())
        (folder / "labels" / f"{k:06d}.label").write_bytes(np.array([10 | (7 << 16), 0], np.uint32).tobytes())
    # The camera's z is ahead, x right, y down: a vehicle that drives 2 m ahead moves along the camera's z.
    camera_from_velodyne = "0 -1 0 0 0 0 -1 0 1 0 0 0"
    (folder / "calib.txt").write_text(f"P2: 700 0 600 0 0 700 180 0 0 0 1 0\nTr: {camera_from_velodyne}\n")
    (folder / "times.txt").write_text("0.0\n0.1\n")
    (folder / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n1 0 0 0 0 1 0 0 0 0 1 2\n")
    return folder


def test_semantickitti_gives_classes_and_the_vehicle_s_way(tmp_path: Path) -> None:
    log = open_log(semantic_sequence(tmp_path / "00"))
    painted = [m for _, m in log.messages() if isinstance(m, PaintedPoints)]
    assert [painted[0].classes[k] if k < 255 else None for k in host(painted[0].label)] == ["car", None]
    poses = [m for _, m in log.messages() if isinstance(m, Odometry)]
    assert poses[1].translation_m == pytest.approx((2.0, 0.0, 0.0), abs=1e-9)
    assert log.span().end_ns - log.span().start_ns == 100_000_000


def test_labels_of_another_length_are_skipped_and_counted(tmp_path: Path) -> None:
    folder = semantic_sequence(tmp_path / "00")
    (folder / "labels" / "000001.label").write_bytes(b"\0" * 4)
    log = open_log(folder)
    assert sum(isinstance(m, PaintedPoints) for _, m in log.messages()) == 1
    assert any("expected four a point" in reason for reason in log.skipped)
    (folder / "poses.txt").write_text("1 0 0\n")
    with pytest.raises(LogError, match="expected twelve numbers a line"):
        open_log(folder)


def test_euroc_has_its_cameras_where_its_files_say(data_folder: Path) -> None:
    log = open_log(data_folder / "euroc_micro")
    assert log.counts() == {"cam0/image": 8, "cam1/image": 8, "imu/imu": 81}
    rig = log.rig
    assert rig is not None
    # By hand from the two sensor.yaml: the baseline of the pair is 11 cm.
    moved = rig.transform("cam0_optical", "cam1_optical").translation_m
    assert np.linalg.norm(moved) == pytest.approx(0.110, abs=0.001)
    assert rig.camera("cam0").focal_px == pytest.approx((458.654, 457.296))
    stamps = [m.header.t_sensor_ns for _, m in log.messages(topics=["cam0/image"])]
    assert stamps[0] == 1403715273262142976
    first = next(m for _, m in log.messages(topics=["imu/imu"]))
    assert isinstance(first, Imu)
    assert np.linalg.norm(first.acceleration_mps2) == pytest.approx(9.8, abs=0.1)
    picture = next(m for _, m in log.messages(topics=["cam1/image"]))
    assert isinstance(picture, Image)
    assert (picture.encoding, picture.width_px, picture.height_px) == ("mono8", 752, 480)
