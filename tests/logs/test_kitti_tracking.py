"""KITTI's tracking benchmark: its layout with hand-worked numbers, real labels and calibration, and damaged files."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from perception.errors import LogError
from perception.logs.open_log import open_log
from perception.messages import Odometry, PointCloud, TrackedObjects
from tests.logs.test_kitti_raw import METRES_PER_DEGREE, oxts

# x of the camera is right, y down, z ahead; both sensors at one place, the inertial unit too
CALIBRATION = """P2: 700 0 600 0 0 700 180 0 0 0 1 0
R_rect 1 0 0 0 1 0 0 0 1
Tr_velo_cam 0 -1 0 0 0 0 -1 0 1 0 0 0
Tr_imu_velo 1 0 0 0 0 1 0 0 0 0 1 0
"""


def row(frame: int, track: int, kind: str, ahead: float) -> str:
    """A row of a box 4 x 2 x 1.5 m, its bottom 1.73 m below the camera, whose length lies along z, straight ahead."""
    return f"{frame} {track} {kind} 0 0 0 1 2 3 4 1.5 2.0 4.0 0.0 1.73 {ahead} {-math.pi / 2}\n"


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    return write_benchmark(tmp_path)


def write_benchmark(tmp_path: Path) -> Path:
    """A sequence of three frames, 10 m/s to the north; the car ahead keeps its distance, the van stands."""
    root = tmp_path / "training"
    for folder in ("velodyne/0001", "image_02/0001", "oxts", "calib", "label_02"):
        (root / folder).mkdir(parents=True)
    for k in range(3):
        points = np.array([[20, 0, -1, 0.5], [20.5, 0.5, -0.5, 0.5], [5, 9, -1, 0.1]], "<f4")
        points.tofile(root / f"velodyne/0001/{k:06d}.bin")
        PillowImage.fromarray(np.full((375, 1242, 3), k, np.uint8)).save(root / f"image_02/0001/{k:06d}.png")
    lines = [oxts(k / METRES_PER_DEGREE, yaw=math.pi / 2) for k in range(3)]
    (root / "oxts/0001.txt").write_text("\n".join(lines) + "\n")
    (root / "calib/0001.txt").write_text(CALIBRATION)
    rows = [row(k, 7, "Car", 20) + row(k, 2, "Van", 40 - k) + row(k, -1, "DontCare", 0) for k in range(3)]
    (root / "label_02/0001.txt").write_text("".join(rows))
    return root


def test_a_sequence_has_its_sensors_its_way_and_its_tracks(benchmark: Path) -> None:
    log = open_log(benchmark)
    assert log.counts() == dict.fromkeys(
        ("cam_front/image", "ego", "gnss/gnss", "imu/imu", "lidar/points", "truth/objects"), 3
    )
    assert log.rig is not None
    assert log.rig.camera("cam_front").focal_px == (700, 700)
    assert "10 Hz assumed" in log.notes[0]
    clouds = [m for _, m in log.messages() if isinstance(m, PointCloud)]
    assert np.diff([m.header.t_sensor_ns for m in clouds]).tolist() == [100_000_000] * 2
    ego = [m for _, m in log.messages() if isinstance(m, Odometry)]
    np.testing.assert_allclose([m.translation_m for m in ego], [[0, 0, 0], [1, 0, 0], [2, 0, 0]], atol=1e-4)


def test_tracks_keep_their_ids_and_move_over_ground(benchmark: Path) -> None:
    truth = [m for _, m in open_log(benchmark).messages() if isinstance(m, TrackedObjects)]
    for objects in truth:
        car, van = objects.objects
        assert (car.id, van.id) == (8, 3)  # 0 is no track
        assert [thing.classes[0].label for thing in (car, van)] == ["car", "van"]
        np.testing.assert_allclose(car.center_m, [20, 0, 0.75], atol=1e-6)  # on the road, 1.73 m below the camera
        np.testing.assert_array_equal(car.size_lwh_m, [4, 2, 1.5])
        np.testing.assert_allclose(car.rotation_xyzw, [0, 0, 0, 1], atol=1e-9)  # looks ahead
        assert car.num_points == 2
        speeds = [thing.velocity_mps or (np.nan,) * 3 for thing in (car, van)]
        np.testing.assert_allclose(speeds, [[10, 0, 0], [0, 0, 0]], atol=1e-3)


def test_one_of_several_sequences_is_named_by_any_of_its_files(benchmark: Path) -> None:
    for old in (*benchmark.glob("*/0001"), *benchmark.glob("*/0001.txt")):
        new = old.with_name(old.name.replace("0001", "0004"))
        shutil.copytree(old, new) if old.is_dir() else shutil.copy(old, new)
    with pytest.raises(LogError, match=r"2 sequences of KITTI tracking \(0001 to 0004\); name one"):
        open_log(benchmark)
    for name in ("calib/0004.txt", "velodyne/0004", "label_02/0004.txt"):
        log = open_log(benchmark / name)
        assert log.FORMAT == "kitti_tracking"
        assert log.counts()["lidar/points"] == 3


def test_real_labels_and_calibrations_lie_where_the_picture_shows_them(data_folder: Path, tmp_path: Path) -> None:
    real = data_folder / "kitti_tracking_3d"
    for folder, source in (("calib", "calib"), ("label_02", "label")):
        (tmp_path / folder).mkdir()
        shutil.copy(real / source / "0012.txt", tmp_path / folder)
    log = open_log(tmp_path / "calib" / "0012.txt")
    rows = [line.split() for line in (real / "label/0012.txt").read_text().splitlines()]
    wanted = [words for words in rows if words[1] != "-1"]
    truth = [m for _, m in log.messages() if isinstance(m, TrackedObjects)]
    assert sum(len(m.objects) for m in truth) == len(wanted)
    assert {thing.id for m in truth for thing in m.objects} == {int(words[1]) + 1 for words in wanted}
    # By hand: the picture of a box's middle lies in the label's box of pixels.
    matrix = np.array((real / "calib/0012.txt").read_text().split("P2: ")[1].split("\n")[0].split(), float)
    first = next(m for m in truth if m.objects)
    thing, words = first.objects[0], wanted[0]
    assert log.rig is not None
    camera_from_base = camera_from_velodyne(real) @ log.rig.base_link_from("lidar").inverse().matrix
    camera = camera_from_base @ [*thing.center_m, 1.0]
    u, v, w = matrix.reshape(3, 4) @ camera
    left, top, right, bottom = map(float, words[6:10])
    assert left < u / w < right
    assert top < v / w < bottom


def camera_from_velodyne(real: Path) -> np.ndarray:
    values = {
        name: np.array(words.split(), float)
        for name, _, words in (line.partition(":") for line in (real / "calib/0012.txt").read_text().splitlines())
    }
    rectified, moved = np.eye(4), np.eye(4)
    rectified[:3, :3], moved[:3] = values["R0_rect"].reshape(3, 3), values["Tr_velo_to_cam"].reshape(3, 4)
    result: np.ndarray = rectified @ moved
    return result


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("label_02/0001.txt", "0 1 Car 0 0\n", "label_02/0001.txt:1: no row of KITTI tracking"),
        ("label_02/0001.txt", row(10**15, 1, "Car", 5), "no row of KITTI tracking"),
        ("label_02/0001.txt", row(0, 1, "Car", 5).replace("1.73", "nan"), "not finite"),
        ("oxts/0001.txt", "1 2 3\n", "oxts/0001.txt:1: 3 numbers"),
        ("calib/0001.txt", "Tr_velo_cam 1 2 3\n", "no calibration of a KITTI benchmark"),
        ("calib/0001.txt", "Tr_velo_cam 2 0 0 0 0 2 0 0 0 0 2 0\n", "a pose of the log is none"),
    ],
)
def test_a_damaged_file_is_one_clear_error(benchmark: Path, file: str, text: str, said: str) -> None:
    (benchmark / file).write_text(text)
    with pytest.raises(LogError, match=said):
        open_log(benchmark)


def test_a_cut_sweep_is_skipped_and_counted(benchmark: Path) -> None:
    sweep = benchmark / "velodyne/0001/000001.bin"
    sweep.write_bytes(sweep.read_bytes()[:-3])
    log = open_log(benchmark)
    assert sum(isinstance(m, PointCloud) for _, m in log.messages()) == 2
    assert any("not whole points" in reason for reason in log.skipped)
