"""Argoverse 2: logs in exactly the published schema, written by pyarrow, with hand-worked numbers, and damage."""

from __future__ import annotations

import math
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from perception.errors import LogError, NotInstalledError
from perception.logs.argoverse import AXLE_M, CAMERAS
from perception.logs.feather import LARGEST_BYTES, read_feather
from perception.logs.open_log import open_log
from perception.messages import Image, Odometry, PointCloud, TrackedObjects, host

pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra 'argoverse'")
feather = pytest.importorskip("pyarrow.feather")

T0, STEP = 315_966_265_259_836_000, 100_000_000
POSE = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")
IDENTITY = (1.0, 0.0, 0.0, 0.0)
OPTICAL = (0.5, -0.5, 0.5, -0.5)
"""A camera's frame (x right, y down, z ahead) in one with x ahead, y left, z up."""
UUIDS = ("1046f12a-152a-4e82-b61b-75468bcda8ae", "f53345d4-b540-45f4-8d55-777b54252dad")


POINTS = {"x": [20, 20.5, 3], "y": [0, 0.5, 9], "z": [0.5, 0.5, -0.25]}
Columns = Mapping[str, tuple[str, Any]]


def write(path: Path, columns: Columns) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {name: pyarrow.array(values, pyarrow.type_for_alias(kind)) for name, (kind, values) in columns.items()}
    feather.write_feather(pyarrow.table(fields), str(path), compression="lz4")


def poses(rows: Sequence[tuple[float, ...]]) -> Columns:
    return {name: ("float64", [row[k] for row in rows]) for k, name in enumerate(POSE)}


@pytest.fixture
def log_folder(tmp_path: Path) -> Path:
    """Two sweeps 0.1 s apart, the vehicle at 10 m/s to the city's north; one box keeps its distance, one stands."""
    path = tmp_path / "7fab2350-7eaf-3b7e-a39d-6937a4c1bede"
    sensors = ["ring_front_center", "stereo_front_left", "up_lidar", "down_lidar"]
    places = [
        (*OPTICAL, 1.6, 0.0, 1.4), (*OPTICAL, 1.6, 0.25, 1.2), (*IDENTITY, 1.35, 0.0, 1.64),
        (0.0, 1.0, 0.0, 0.0, 1.35, 0.0, 1.5),
    ]  # fmt: skip
    mounted: Columns = {"sensor_name": ("string", sensors), **poses(places)}
    write(path / "calibration/egovehicle_SE3_sensor.feather", mounted)
    cameras = sensors[:2]
    numbers = {"fx_px": 1776.0, "fy_px": 1776.0, "cx_px": 778.0, "cy_px": 1013.0, "k1": -0.24, "k2": -0.21, "k3": 0.3}
    intrinsics = {name: ("float64", [value] * 2) for name, value in numbers.items()}
    sizes = {"height_px": ("uint16", [2048] * 2), "width_px": ("uint16", [1550] * 2)}
    write(path / "calibration/intrinsics.feather", {"sensor_name": ("string", cameras), **intrinsics, **sizes})
    north = math.sqrt(0.5)  # a turn by 90 degrees: x of the vehicle is y of the city
    way = [(north, 0.0, 0.0, north, 5000.0, 2000.0 + k, 60.0) for k in range(3)]
    stamps = [T0 + k * STEP for k in range(3)]
    write(path / "city_SE3_egovehicle.feather", {"timestamp_ns": ("int64", stamps), **poses(way)})
    for k in range(2):
        write(path / f"sensors/lidar/{stamps[k]}.feather", {
            **{axis: ("halffloat", np.array(values, np.float16)) for axis, values in POINTS.items()},
            "intensity": ("uint8", [10, 255, 0]),
            "laser_number": ("uint8", [31, 63, 0]), "offset_ns": ("int32", [2_654_000, 50_000_000, 101_000_000]),
        })  # fmt: skip
        for camera in cameras:
            folder = path / "sensors/cameras" / camera
            folder.mkdir(parents=True, exist_ok=True)
            PillowImage.new("RGB", (155, 204), (k, 0, 0)).save(folder / f"{stamps[k] + 5_000_000}.jpg")
    boxes = [
        (*IDENTITY, 20.0, 0.0, 0.5),
        (*IDENTITY, 40.0, 3.0, 0.5),
        (*IDENTITY, 20.0, 0.0, 0.5),
        (*IDENTITY, 39.0, 3.0, 0.5),
    ]
    write(path / "annotations.feather", {
        "timestamp_ns": ("int64", [stamps[0]] * 2 + [stamps[1]] * 2), "track_uuid": ("string", [*UUIDS, *UUIDS]),
        "category": ("string", ["REGULAR_VEHICLE", "BOLLARD"] * 2), "length_m": ("float64", [4.0, 0.3] * 2),
        "width_m": ("float64", [2.0, 0.3] * 2), "height_m": ("float64", [1.5, 1.0] * 2), **poses(boxes),
        "num_interior_pts": ("int64", [2, 0, 2, 0]),
    })  # fmt: skip
    return path


def test_every_sensor_of_a_log_is_read(log_folder: Path) -> None:
    log = open_log(log_folder)
    assert log.FORMAT == "argoverse2"
    assert log.counts() == {
        "cam_front/image": 2, "cam_stereo_left/image": 2, "ego": 3, "lidar/points": 2, "truth/objects": 2,
    }  # fmt: skip
    stamps = [m.header.t_sensor_ns for _, m in log.messages()]
    assert stamps == sorted(stamps)
    picture = next(m for _, m in log.messages() if isinstance(m, Image))
    assert (picture.header.frame_id, picture.width_px) == ("cam_front_optical", 155)
    assert log.skipped == {}


def test_a_sweep_stands_in_its_lidar_at_the_instant_that_its_points_were_moved_to(log_folder: Path) -> None:
    log = open_log(log_folder)
    cloud = next(m for _, m in log.messages() if isinstance(m, PointCloud))
    assert (cloud.header.t_sensor_ns, cloud.deskewed_to_ns) == (T0, T0)
    np.testing.assert_allclose(host(cloud.xyz_m)[0], [20 - 1.35, 0, 0.5 - 1.64], atol=1e-6)
    assert cloud.ring is not None
    assert cloud.intensity is not None
    assert host(cloud.ring).tolist() == [31, 63, 0]
    assert (host(cloud.intensity).tolist(), cloud.intensity_scale) == ([10, 255, 0], 255)
    assert log.rig is not None
    on_road = log.rig.base_link_from("lidar").apply(host(cloud.xyz_m).astype(float))
    np.testing.assert_allclose(on_road[0], [20, 0, 0.5 + AXLE_M], atol=1e-6)  # the axle is so high above the road


def test_a_camera_sees_a_point_where_its_numbers_put_it(log_folder: Path) -> None:
    rig = open_log(log_folder).rig
    assert rig is not None
    # 10 m ahead of the camera, 1 m to the left, 2 m below: 177.6 px left of the middle and 355.2 below it
    point = rig.base_link_from("lidar").apply(np.array([[1.6 + 10 - 1.35, 1.0, 1.4 - 2 - 1.64]]))
    optical = rig.base_link_from("cam_front_optical").inverse().apply(point)
    pixels, seen = rig.camera("cam_front").project(optical)
    assert seen.all()
    np.testing.assert_allclose(pixels, [[778 - 177.6, 1013 + 355.2]], atol=1e-6)  # k1 to k3 are the lens', not applied
    assert set(CAMERAS.values()) >= {"cam_front", "cam_stereo_left"}


def test_the_vehicle_drives_ahead_and_tracks_move_over_ground(log_folder: Path) -> None:
    messages = [m for _, m in open_log(log_folder).messages()]
    ego = [m for m in messages if isinstance(m, Odometry)]
    np.testing.assert_allclose([m.translation_m for m in ego], [[0, 0, 0], [1, 0, 0], [2, 0, 0]], atol=1e-9)
    np.testing.assert_allclose([m.velocity_mps for m in ego], [[10, 0, 0]] * 3, atol=1e-9)
    for truth in (m for m in messages if isinstance(m, TrackedObjects)):
        car, bollard = truth.objects
        assert (car.id, bollard.id) == (1, 2)
        assert (car.classes[0].label, bollard.classes[0].label) == ("car", "bollard")
        np.testing.assert_allclose(car.center_m, [20, 0, 0.5 + AXLE_M], atol=1e-9)
        assert (car.size_lwh_m, car.num_points) == ((4.0, 2.0, 1.5), 2)
        speeds = [thing.velocity_mps or (np.nan,) * 3 for thing in (car, bollard)]
        np.testing.assert_allclose(speeds, [[10, 0, 0], [0, 0, 0]], atol=1e-9)


def test_a_log_of_the_test_split_has_no_truth_and_one_without_poses_no_way(log_folder: Path) -> None:
    (log_folder / "annotations.feather").unlink()
    (log_folder / "city_SE3_egovehicle.feather").unlink()
    log = open_log(log_folder)
    assert set(log.topics()) == {"cam_front/image", "cam_stereo_left/image", "lidar/points"}
    assert "no ego motion" in log.notes[0]


def test_without_pyarrow_the_command_is_said(log_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(NotInstalledError, match=r"pip install 'perception-runtime\[argoverse\]'"):
        open_log(log_folder)


@pytest.mark.parametrize("name", ["calibration/egovehicle_SE3_sensor.feather", "city_SE3_egovehicle.feather"])
def test_a_damaged_file_of_the_whole_log_is_one_clear_error(log_folder: Path, name: str) -> None:
    data = (log_folder / name).read_bytes()
    for damaged in (b"", b"ARROW1\0\0", data[: len(data) // 3], b"PAR1" + data[4:]):
        (log_folder / name).write_bytes(damaged)
        with pytest.raises(LogError, match="Feather file"):
            open_log(log_folder)
    write(log_folder / name, {"other": ("int64", [1])})
    with pytest.raises(LogError, match="has no column"):
        open_log(log_folder)


def test_a_damaged_sweep_is_skipped_and_counted(log_folder: Path) -> None:
    first, second = sorted((log_folder / "sensors/lidar").iterdir())
    first.write_bytes(first.read_bytes()[:-900])
    log = open_log(log_folder)
    assert [m.header.t_sensor_ns for _, m in log.messages() if isinstance(m, PointCloud)] == [int(second.stem)]
    assert log.skipped.total() == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_give_columns_or_one_clear_error(log_folder: Path, places: list[tuple[int, int]]) -> None:
    source = log_folder / "annotations.feather"
    data = bytearray(source.read_bytes())
    for place, change in places:
        data[place % len(data)] ^= change
    damaged = log_folder / "damaged.feather"
    damaged.write_bytes(data)
    try:
        columns = read_feather(damaged, ("timestamp_ns", "track_uuid", "tx_m"))
    except LogError:
        return
    assert len({len(values) for values in columns.values()}) == 1


BOMB = """
import resource, sys
from pathlib import Path
from perception.errors import LogError
from perception.logs.feather import read_feather
import pyarrow
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
try:
    read_feather(Path(sys.argv[1]), ("x",))
except LogError as error:
    print(error)
"""


def test_a_few_kilobytes_that_unfold_to_gigabytes_are_refused_before_they_do(tmp_path: Path) -> None:
    rows = LARGEST_BYTES // 8 + 1
    bomb = tmp_path / "bomb.feather"
    feather.write_feather(pyarrow.table({"x": np.zeros(rows, np.int64)}), str(bomb), compression="zstd", chunksize=rows)
    assert bomb.stat().st_size < 1 << 20
    said = subprocess.run(
        [sys.executable, "-c", BOMB.format(limit=(1 << 30) + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
         str(bomb)], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "MiB of columns" in said.stdout
