"""nuScenes: the real keyframe against its own labels, and the official tables with hand-worked numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from perception.errors import LogError
from perception.geometry.boxes import Boxes
from perception.logs.open_log import open_log
from perception.messages import Detections3D, Image, Odometry, PointCloud, host

CAMERAS = ("cam_front", "cam_front_left", "cam_front_right", "cam_back", "cam_back_left", "cam_back_right")


def test_the_boxes_of_the_real_keyframe_hold_as_many_points_as_its_labels_say(data_folder: Path) -> None:
    log = open_log(data_folder / "nuscenes_keyframe")
    cloud, boxes = _cloud_and_boxes(log)
    info = json.loads((data_folder / "nuscenes_keyframe" / "info.json").read_text())
    instances = info["data_list"][0]["instances"]
    labelled = [entry for entry in instances if entry["bbox_label_3d"] >= 0 and entry["bbox_3d_isvalid"]]
    inside = boxes.contain(cloud).sum(axis=0 if boxes.contain(cloud).shape[0] == len(cloud) else 1)
    close = np.abs(inside - [entry["num_lidar_pts"] for entry in labelled]) <= 1
    assert len(labelled) == len(close)
    assert close.mean() > 0.9  # the data set's own count: 65 of 69


def test_points_of_labelled_boxes_project_inside_their_boxes_in_the_pictures(data_folder: Path) -> None:
    log = open_log(data_folder / "nuscenes_keyframe")
    cloud, boxes = _cloud_and_boxes(log)
    inside = boxes.contain(cloud)
    inside = inside.T if inside.shape[0] == len(cloud) else inside
    assert log.rig is not None
    seen = 0
    for camera in CAMERAS:
        optical_from_base_link = log.rig.base_link_from(f"{camera}_optical").inverse()
        model = log.rig.camera(camera)
        corners = optical_from_base_link.apply(boxes.corners().reshape(-1, 3)).reshape(-1, 8, 3)
        for box in np.flatnonzero((corners[..., 2] > 0.5).all(axis=1) & (inside.sum(axis=1) >= 5)):
            frame, _ = model.project(corners[box], inside=False)
            low, high = frame.min(axis=0) - 2, frame.max(axis=0) + 2
            if (low < 0).any() or (high > (model.width_px, model.height_px)).any():
                continue
            pixels, valid = model.project(optical_from_base_link.apply(cloud[inside[box]]))
            assert valid.all()
            assert ((pixels >= low) & (pixels <= high)).all()
            seen += 1
    assert seen >= 20


def test_every_camera_of_the_real_keyframe_sees_thousands_of_points(data_folder: Path) -> None:
    log = open_log(data_folder / "nuscenes_keyframe")
    cloud, _ = _cloud_and_boxes(log)
    assert log.rig is not None
    for camera in CAMERAS:
        _, valid = log.rig.camera(camera).project(log.rig.base_link_from(f"{camera}_optical").inverse().apply(cloud))
        assert 2_500 < valid.sum() < 5_500  # 3,067 to 4,826 by the data's own check, which moves the car as well
    images = {topic: m for topic, m in log.messages() if isinstance(m, Image)}
    assert {(m.height_px, m.width_px) for m in images.values()} == {(900, 1600)}


def _cloud_and_boxes(log: Any) -> tuple[np.ndarray, Boxes]:
    messages = [message for _, message in log.messages()]
    sweep = next(m for m in messages if isinstance(m, PointCloud))
    truth = next(m for m in messages if isinstance(m, Detections3D))
    assert sweep.intensity_scale == 255.0
    cloud = log.rig.base_link_from("lidar").apply(host(sweep.xyz_m).astype(np.float64))
    center, size, yaw = (host(v).astype(np.float64) for v in (truth.center_m, truth.size_lwh_m, truth.yaw_rad))
    return cloud, Boxes(center, size, yaw)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    return write_tables(tmp_path)


def write_tables(tmp_path: Path) -> Path:
    """Two keyframes in the official tables: the car drives 5 m along its x, which points to global y."""
    version = tmp_path / "v1.0-mini"
    version.mkdir()
    (tmp_path / "samples").mkdir()
    half = 0.5**0.5
    north = [half, 0.0, 0.0, half]  # w, x, y, z: a quarter turn to the left
    sensors = [
        {"token": "s1", "channel": "LIDAR_TOP", "modality": "lidar"},
        {"token": "s2", "channel": "CAM_FRONT", "modality": "camera"},
        {"token": "s3", "channel": "RADAR_FRONT", "modality": "radar"},
    ]
    intrinsics = [[100.0, 0, 31.5], [0, 100.0, 23.5], [0, 0, 1]]
    optical = [0.5, -0.5, 0.5, -0.5]
    calibrated = [
        {"token": "c1", "sensor_token": "s1", "translation": [1, 0, 1.8], "rotation": north, "camera_intrinsic": []},
        {"token": "c2", "sensor_token": "s2", "translation": [1.7, 0, 1.5], "rotation": optical,
         "camera_intrinsic": intrinsics},
        {"token": "c3", "sensor_token": "s3", "translation": [3, 0, 0.5], "rotation": north, "camera_intrinsic": []},
    ]  # fmt: skip
    poses, frames = [], []
    for number in range(2):
        stamp = 1_500_000 + 500_000 * number
        poses.append(
            {"token": f"e{number}", "timestamp": stamp, "translation": [100.0, 5.0 * number, 0.0], "rotation": north}
        )
        for kind, file in (("c1", f"samples/{number}.pcd.bin"), ("c2", f"samples/{number}.jpg"), ("c3", "samples/r")):
            frames.append(
                {"token": f"{kind}{number}", "sample_token": f"k{number}", "ego_pose_token": f"e{number}",
                 "calibrated_sensor_token": kind, "timestamp": stamp, "filename": file, "is_key_frame": True}
            )  # fmt: skip
        np.array([[1, 2, 3, 200, 7]], "<f4").tofile(tmp_path / f"samples/{number}.pcd.bin")
        PillowImage.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / f"samples/{number}.jpg")
    frames.append(frames[0] | {"token": "sweep", "is_key_frame": False})
    annotation = {"token": "a", "sample_token": "k1", "instance_token": "i", "translation": [98.0, 15.0, 1.0],
                  "size": [2.0, 4.0, 1.5], "rotation": north, "num_lidar_pts": 9}  # fmt: skip
    content: dict[str, Any] = {
        "sensor": sensors, "calibrated_sensor": calibrated, "ego_pose": poses, "sample_data": frames,
        "sample": [{"token": "k0"}, {"token": "k1"}], "sample_annotation": [annotation],
        "instance": [{"token": "i", "category_token": "g"}], "category": [{"token": "g", "name": "vehicle.car"}],
    }  # fmt: skip
    for name, rows in content.items():
        (version / f"{name}.json").write_text(json.dumps(rows))
    return tmp_path


def test_tables_give_sensors_motion_and_truth_in_base_link(tables: Path) -> None:
    log = open_log(tables)
    assert log.FORMAT == "nuscenes_tables"
    assert log.counts() == {"cam_front/image": 2, "ego": 2, "lidar/points": 2, "truth/objects": 2}
    ego = [m for _, m in log.messages() if isinstance(m, Odometry)]
    np.testing.assert_allclose([m.translation_m for m in ego], [[0, 0, 0], [5, 0, 0]], atol=1e-9)
    truth = [m for _, m in log.messages() if isinstance(m, Detections3D)][1]
    assert truth.classes == ("vehicle.car",)
    # global (98, 15) from (100, 5) is 10 m ahead and 2 m to the left of a car that looks along global y
    np.testing.assert_allclose(host(truth.center_m), [[10.0, 2.0, 1.0]], atol=1e-5)
    np.testing.assert_allclose(host(truth.size_lwh_m), [[4.0, 2.0, 1.5]])
    np.testing.assert_allclose(host(truth.yaw_rad), [0.0], atol=1e-6)
    assert [m.header.t_sensor_ns for m in ego] == [1_500_000_000, 2_000_000_000]


def test_a_turned_lidar_and_a_camera_stand_where_the_tables_put_them(tables: Path) -> None:
    rig = open_log(tables).rig
    assert rig is not None
    np.testing.assert_allclose(rig.base_link_from("lidar").apply(np.array([1.0, 0, 0])), [1, 1, 1.8], atol=1e-9)
    np.testing.assert_allclose(
        rig.base_link_from("cam_front_optical").rotate(np.array([0, 0, 1.0])), [1, 0, 0], atol=1e-9
    )
    assert (rig.camera("cam_front").width_px, rig.camera("cam_front").height_px) == (64, 48)


@pytest.mark.parametrize(
    ("table", "content", "said"),
    [
        ("ego_pose", "[]", "no row 'e0'"),
        ("sensor", "{", "not nuScenes' table"),
        ("sample_data", '[{"token": "x"}]', "not nuScenes' table"),
        ("calibrated_sensor", None, "cannot be read"),
    ],
)
def test_damaged_tables_are_one_clear_error(tables: Path, table: str, content: str | None, said: str) -> None:
    file = tables / "v1.0-mini" / f"{table}.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with pytest.raises(LogError, match=said):
        open_log(tables)


def test_two_versions_in_one_folder_are_not_guessed(tables: Path) -> None:
    shutil.copytree(tables / "v1.0-mini", tables / "v1.0-test")
    with pytest.raises(LogError, match="2 versions"):
        open_log(tables)


def test_a_missing_sweep_is_skipped_and_named(tables: Path) -> None:
    (tables / "samples" / "1.pcd.bin").unlink()
    log = open_log(tables)
    assert sum(topic == "lidar/points" for topic, _ in log.messages()) == 1
    assert any("1.pcd.bin" in reason for reason in log.skipped)
