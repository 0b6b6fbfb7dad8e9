"""KITTI raw: the official layout with hand-worked numbers, the shared real drive, and files that are damaged."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from perception.errors import LogError
from perception.logs.kitti_calibration import LIDAR_HEIGHT_M
from perception.logs.open_log import open_log
from perception.messages import Gnss, Image, Imu, Odometry, PointCloud, host

DAY = "2011_09_26"
VELO_TO_CAM = (
    "R: 0 -1 0 0 0 -1 1 0 0\nT: 0 -0.08 -0.27\n"  # camera 0.27 m behind and 0.08 m below the Velodyne... turned
)
CAM_TO_CAM = (
    "calib_time: 09-Jan-2012 13:57:47\n"
    "R_rect_00: 1 0 0 0 1 0 0 0 1\n"
    "P_rect_02: 700 0 600 35 0 700 170 0 0 0 1 0\n"  # 35 / 700: camera 2 is 0.05 m left of camera 0
)
IMU_TO_VELO = "R: 1 0 0 0 1 0 0 0 1\nT: -0.8 0.3 -0.8\n"
METRES_PER_DEGREE = math.pi / 180 * 6_378_137.0


def oxts(latitude: float, *, yaw: float = 0.0, forward: float = 10.0) -> str:
    place = [latitude, 0.0, 100.0, 0.0, 0.0, yaw]
    velocity = [forward, 0.0, forward, 0.0, 0.0]  # north, east, forward, left, up
    acceleration, turning = [0.1, 0.2, 9.8] * 2, [0.0] * 6
    return " ".join(map(str, [*place, *velocity, *acceleration, *turning, 0.05, 0.01, 4, 5, 6, 6, 6]))


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return write_drive(tmp_path)


def write_drive(tmp_path: Path) -> Path:
    """Three frames in the official layout."""
    day = tmp_path / DAY
    path = day / f"{DAY}_drive_0001_sync"
    stamps = [f"2011-09-26 13:02:{25 + n}.964389445\n" for n in range(3)]
    for folder, names in (("velodyne_points", ("timestamps_start.txt", "timestamps_end.txt", "timestamps.txt")),
                          ("image_02", ("timestamps.txt",)), ("oxts", ("timestamps.txt",))):  # fmt: skip
        (path / folder / "data").mkdir(parents=True)
        for name in names:
            (path / folder / name).write_text("".join(stamps))
    for number in range(3):
        rows = np.array([[10.0, 1.0, -1.0, 0.5], [20.0, 0.0, 0.0, 0.25]], "<f4")
        rows.tofile(path / f"velodyne_points/data/{number:010d}.bin")
        PillowImage.fromarray(np.full((370, 1226, 3), number, np.uint8)).save(path / f"image_02/data/{number:010d}.png")
        moved = number * 10 / METRES_PER_DEGREE  # ten metres north a second; yaw 90 degrees is north
        (path / f"oxts/data/{number:010d}.txt").write_text(oxts(moved, yaw=math.pi / 2))
    (day / "calib_velo_to_cam.txt").write_text(VELO_TO_CAM)
    (day / "calib_cam_to_cam.txt").write_text(CAM_TO_CAM)
    (day / "calib_imu_to_velo.txt").write_text(IMU_TO_VELO)
    return path


def test_stamps_keep_all_nine_decimals(drive: Path) -> None:
    first = next(message for topic, message in open_log(drive).messages() if topic == "lidar/points")
    assert first.header.t_sensor_ns == 1_317_042_145_964_389_445  # date -ud '2011-09-26 13:02:25' +%s
    assert first.header.clock == "log"


def test_every_sensor_of_the_official_layout_is_read(drive: Path) -> None:
    log = open_log(drive)
    assert set(log.topics().values()) == {Image, Odometry, Gnss, Imu, PointCloud}
    assert set(log.counts().values()) == {3}
    assert log.notes == []
    cloud = next(message for topic, message in log.messages() if topic == "lidar/points")
    assert isinstance(cloud, PointCloud)
    assert cloud.intensity is not None
    np.testing.assert_array_equal(host(cloud.xyz_m), [[10, 1, -1], [20, 0, 0]])
    np.testing.assert_array_equal(host(cloud.intensity), [0.5, 0.25])


def test_ten_metres_north_while_looking_north_are_ten_metres_ahead(drive: Path) -> None:
    ego = [message for _, message in open_log(drive).messages() if isinstance(message, Odometry)]
    np.testing.assert_allclose([m.translation_m for m in ego], [[0, 0, 0], [10, 0, 0], [20, 0, 0]], atol=1e-3)
    np.testing.assert_allclose([m.rotation_xyzw for m in ego], [[0, 0, 0, 1]] * 3, atol=1e-9)
    np.testing.assert_allclose(ego[1].velocity_mps, [10, 0, 0], atol=1e-9)


def test_a_camera_stands_where_its_projection_puts_it(drive: Path) -> None:
    rig = open_log(drive).rig
    assert rig is not None
    np.testing.assert_allclose(rig.base_link_from("lidar").translation_m, [0, 0, LIDAR_HEIGHT_M])
    # a point 10 m ahead, 1 m left and 1 m below the Velodyne; camera 0 sees it at x -1, y 1 - 0.08, z 10 - 0.27
    point = rig.base_link_from("lidar").apply(np.array([[10.0, 1.0, -1.0]]))
    pixels, valid = rig.camera("cam_front").project(rig.base_link_from("cam_front_optical").inverse().apply(point))
    assert valid.all()
    u, v = 600 + 700 * (-1.0 + 0.05) / 9.73, 170 + 700 * (1.0 - 0.08) / 9.73
    np.testing.assert_allclose(pixels, [[u, v]], atol=1e-6)


def test_without_times_a_rate_is_assumed_and_said(drive: Path) -> None:
    for listing in drive.glob("*/timestamps*.txt"):
        listing.unlink()
    log = open_log(drive, assume_rate_hz=5)
    stamps = [m.header.t_sensor_ns for topic, m in log.messages() if topic == "lidar/points"]
    assert np.diff(stamps).tolist() == [200_000_000, 200_000_000]
    assert {m.header.clock for _, m in log.messages()} == {"assumed"}
    assert "5 Hz assumed" in log.notes[0]


def test_a_cut_file_is_skipped_and_named_and_the_others_come(drive: Path) -> None:
    cloud = drive / "velodyne_points/data/0000000001.bin"
    cloud.write_bytes(cloud.read_bytes()[:-3])
    picture = drive / "image_02/data/0000000002.png"
    picture.write_bytes(picture.read_bytes()[:200])
    log = open_log(drive)
    topics = [topic for topic, _ in log.messages()]
    assert (topics.count("lidar/points"), topics.count("cam_front/image")) == (2, 2)
    assert sorted(log.skipped.values()) == [1, 1]
    assert any("0000000001.bin" in reason for reason in log.skipped)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("velodyne_points/timestamps_end.txt", "yesterday\n", "no time"),
        ("velodyne_points/timestamps_end.txt", "2011-09-26 13:02:25.9\n", "no time for 0000000001.bin"),
        ("../calib_velo_to_cam.txt", "R: 1 0 0 0 1 0 0 0\nT: 0 0 0\n", "rotation of 9"),
        ("../calib_velo_to_cam.txt", "R: 1 0 0 0 1 0 0 0 5\nT: 0 0 0\n", "orthonormal"),
        ("../calib_cam_to_cam.txt", "P_rect_02: 1 2 three\n", "no number"),
        ("oxts/data/0000000000.txt", "49.0 8.4\n", "30 finite"),
    ],
)
def test_damaged_times_and_calibration_are_one_clear_error(drive: Path, file: str, content: str, said: str) -> None:
    (drive / file).write_text(content)
    with pytest.raises(LogError, match=said):
        open_log(drive)


def test_a_drive_without_calibration_still_has_its_points(drive: Path) -> None:
    for name in ("calib_velo_to_cam.txt", "calib_cam_to_cam.txt", "calib_imu_to_velo.txt"):
        (drive.parent / name).unlink()
    log = open_log(drive)
    assert log.rig is not None
    assert set(log.rig.sensors) == {"lidar"}
    assert "no calibration" in log.notes[0]


def test_points_of_the_real_drive_project_as_its_own_matrices_say(data_folder: Path) -> None:
    folder = data_folder / "kitti_raw_seq"
    log = open_log(folder)
    assert log.counts() == {"cam_front/image": 10, "lidar/points": 10}
    assert log.rig is not None
    cloud = next(m for _, m in log.messages() if isinstance(m, PointCloud))
    xyz = host(cloud.xyz_m).astype(np.float64)
    text = next(folder.glob("calib_*.txt")).read_text()
    rows = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    matrix = {name: np.array(values.split(), float) for name, values in rows.items()}
    rectified, velo = np.eye(4), np.eye(4)
    rectified[:3, :3], velo[:3] = matrix["R_rect_00"].reshape(3, 3), matrix["T_velo_to_cam"].reshape(3, 4)
    image = matrix["P_rect_02"].reshape(3, 4) @ rectified @ velo @ np.column_stack([xyz, np.ones(len(xyz))]).T
    optical = log.rig.transform("cam_front_optical", "lidar").apply(xyz)
    pixels, valid = log.rig.camera("cam_front").project(optical)
    assert valid.sum() > 15_000
    np.testing.assert_allclose(pixels[valid], (image[:2] / image[2]).T[valid], atol=0.02)


def test_the_car_ahead_in_the_real_drive_is_where_the_data_set_says(data_folder: Path) -> None:
    cloud = next(m for _, m in open_log(data_folder / "kitti_raw_seq").messages() if isinstance(m, PointCloud))
    assert cloud.intensity is not None
    x, y, z = host(cloud.xyz_m).T
    lane = (np.abs(y) <= 2.0) & (z >= -1.5) & (z <= -0.9) & (x >= 2) & (host(cloud.intensity) >= 0.1)
    assert x[lane].min() == pytest.approx(7.97, abs=0.01)  # "nearest ego-lane return 7.97 m (frame 0)"
