"""Logs of every format with flipped bytes, cuts, doubled and missing parts: a count or one clear error, memory bounded.

The event formats have their own such tests (`events/test_damage.py`), and so has Argoverse (`test_argoverse.py`).
"""

from __future__ import annotations

import bz2
import contextlib
import resource
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import psutil
import pytest
import zstandard
from PIL import Image as PillowImage

from perception.errors import GeometryError, LogError, UserError
from perception.logs.indexed_log import read_picture
from perception.logs.mcap_writer import McapWriter
from perception.logs.open_log import open_log
from perception.messages.codec import encode
from tests.logs.test_kitti_object_and_euroc import semantic_sequence
from tests.logs.test_kitti_raw import write_drive
from tests.logs.test_kitti_tracking import write_benchmark
from tests.logs.test_lidar_captures import capture, ethernet, velodyne_packet
from tests.logs.test_log_tools import messages
from tests.logs.test_nuscenes import write_tables

ROUNDS = 12
ROOM_BYTES = 1 << 30
"""What reading may take beside what the process has already; damage of a few kilobytes may claim any size."""


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + ROOM_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def write_euroc(root: Path) -> Path:
    folder = root / "mav0"
    for name in ("cam0/data", "imu0", "state_groundtruth_estimate0"):
        (folder / name).mkdir(parents=True)
    stamps = [1_403_715_273_262_142_976 + k * 50_000_000 for k in range(3)]
    (folder / "cam0/sensor.yaml").write_text(
        "%YAML:1.0\nT_BS:\n  data: [1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1]\nintrinsics: [458, 457, 367, 248]\n"
        "resolution: [752, 480]\ndistortion_model: radial-tangential\ndistortion_coefficients: [-0.2, 0.07, 0, 0]\n"
    )
    (folder / "cam0/data.csv").write_text("#t,file\n" + "".join(f"{t},{t}.png\n" for t in stamps))
    (folder / "imu0/data.csv").write_text("#t,w,a\n" + "".join(f"{t},0,0,0.1,0,0,9.8\n" for t in stamps))
    states = "".join(f"{t},1,2,3,1,0,0,0,0.1,0,0\n" for t in stamps)
    (folder / "state_groundtruth_estimate0/data.csv").write_text("#t,p,q,v\n" + states)
    for t in stamps:
        PillowImage.fromarray(np.zeros((48, 75), np.uint8)).save(folder / f"cam0/data/{t}.png")
    return root


def write_capture(root: Path) -> Path:
    packets = [(1 + k, ethernet(velodyne_packet(k * 6000 % 36000, 5000))) for k in range(12)]
    (root / "sweep.pcap").write_bytes(capture(packets))
    return root / "sweep.pcap"


def write_recording(root: Path) -> Path:
    with McapWriter(root / "drive.mcap") as writer:
        for topic, message in messages():
            writer.write(topic, encode(message).to_bytes(), message.header.t_sensor_ns)
    return root / "drive.mcap"


def write_foxglove(root: Path) -> Path:
    from perception.logs.foxglove_export import export_foxglove

    export_foxglove(open_log(write_recording(root)), root / "view.mcap")
    (root / "drive.mcap").unlink()
    return root / "view.mcap"


def write_ros2(root: Path) -> Path:
    pytest.importorskip("rosbags", reason="ROS bags need the extra 'ros'")
    from perception.logs.ros.export import export_ros2

    export_ros2(open_log(write_recording(root)), root / "bag")
    (root / "drive.mcap").unlink()
    return root / "bag"


def write_semantic(root: Path) -> Path:
    return semantic_sequence(root / "00")


FORMATS: dict[str, Callable[[Path], Path]] = {
    "kitti_raw": write_drive, "kitti_tracking": write_benchmark, "semantic_kitti": write_semantic,
    "euroc": write_euroc, "nuscenes": write_tables, "pcap": write_capture, "mcap": write_recording,
    "foxglove": write_foxglove, "ros2": write_ros2,
}  # fmt: skip


def damage(data: bytes, random: np.random.Generator) -> bytes:
    """Return bytes with one of the faults that disks, links and hands make."""
    if not data:
        return b"\xff"
    place, other = sorted(random.integers(0, len(data) + 1, 2).tolist())
    kind = int(random.integers(0, 6))
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + data[other:]
    if kind == 2:
        return data[:other] + data[place:]
    if kind == 3:
        return data[:place] + bytes(other - place) + data[other:]
    out = bytearray(data)
    for _ in range(int(random.integers(1, 12))):
        at = int(random.integers(0, len(out)))
        out[at] = int(random.integers(0, 256)) if kind == 4 else out[at] ^ (1 << int(random.integers(0, 8)))
    return bytes(out)


def read_all(path: Path) -> int:
    """Read what can be, as `log info` and a replay do; raises UserError only."""
    log = open_log(path)
    log.topics(), log.counts()
    with contextlib.suppress(UserError, GeometryError):
        assert log.span().start_ns <= log.span().end_ns
        _ = log.rig
    stamps = []
    for _, message in log.messages():
        encode(message)  # what a graph does with it first
        stamps.append(message.header.t_sensor_ns)
    assert stamps == sorted(stamps)
    return len(stamps)


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_log_gives_what_is_sound_or_one_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "whole").mkdir()
    path = FORMATS[name](tmp_path / "whole")
    whole = read_all(path)
    assert whole > 0
    files = sorted(file for file in (tmp_path / "whole").rglob("*") if file.is_file())
    random = np.random.default_rng(7)
    for _ in range(ROUNDS):
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "whole", copy)
        for file in random.choice(len(files), min(len(files), 2), replace=False).tolist():
            target = copy / files[file].relative_to(tmp_path / "whole")
            target.write_bytes(damage(target.read_bytes(), random))
        with contextlib.suppress(UserError):
            assert read_all(copy / path.relative_to(tmp_path / "whole")) <= 2 * whole + 20
        shutil.rmtree(copy)


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims any size."""
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(12_000, 12_000), (60_000, 60_000)])
def test_a_picture_that_claims_any_size_is_refused_before_it_is_unpacked(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "bomb.png").write_bytes(png_that_claims(*size))
    with pytest.raises(LogError):
        read_picture(tmp_path / "bomb.png")


def test_chunks_of_bags_that_unfold_to_gigabytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from perception.logs.ros import bounded

    monkeypatch.setattr(bounded, "MAX_BYTES", 1 << 20)
    fits, bomb = bytes(1 << 20), bytes((1 << 20) + 1)
    for pack, unpack in ((bz2.compress, bounded.unpacked_bz2), (lz4.frame.compress, bounded.unpacked_lz4),
                         (zstandard.compress, bounded.unpacked_zstd)):  # fmt: skip
        assert unpack(pack(fits)) == fits
        with pytest.raises(LogError, match="unfolds to more than 1 MiB"):
            unpack(pack(bomb))


def test_a_bag_never_unfolds_beyond_the_bound_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rosbags", reason="ROS bags need the extra 'ros'")
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    from perception.logs.ros import bounded

    store = get_typestore(Stores.ROS1_NOETIC)
    kind = "std_msgs/msg/String"
    for fmt in (Writer.CompressionFormat.BZ2, Writer.CompressionFormat.LZ4):
        path = tmp_path / f"{fmt.name}.bag"
        writer = Writer(path)
        writer.set_compression(fmt)
        with writer:
            connection = writer.add_connection("/imu", "sensor_msgs/msg/Imu", typestore=store)
            message = imu_of(store.types)
            writer.write(connection, 1, store.serialize_ros1(message, "sensor_msgs/msg/Imu"))
            text = writer.add_connection("/text", kind, typestore=store)
            writer.write(text, 2, store.serialize_ros1(store.types[kind](data="x" * (1 << 20)), kind))
        assert open_log(path).counts() == {"imu/imu": 1}
        with monkeypatch.context() as patched:
            patched.setattr(bounded, "MAX_BYTES", 1 << 16)
            log = open_log(path)
            assert not list(log.messages())
            assert any("unfolds to more than" in reason for reason in log.skipped)


def imu_of(types: Any) -> Any:
    vector = types["geometry_msgs/msg/Vector3"](x=0.0, y=0.0, z=9.8)
    head = types["std_msgs/msg/Header"](
        seq=0, stamp=types["builtin_interfaces/msg/Time"](sec=5, nanosec=0), frame_id="imu"
    )
    return types["sensor_msgs/msg/Imu"](
        header=head, orientation=types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0),
        orientation_covariance=np.zeros(9), angular_velocity=vector, angular_velocity_covariance=np.zeros(9),
        linear_acceleration=vector, linear_acceleration_covariance=np.zeros(9),
    )  # fmt: skip


def test_a_compressed_bag_that_would_fill_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from perception.logs.ros.bounded import check_fits_the_disk

    (tmp_path / "bag.db3.zstd").write_bytes(zstandard.compress(bytes(1 << 20)))
    check_fits_the_disk(tmp_path)
    usage = shutil.disk_usage(tempfile.gettempdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(LogError, match="does not fit on the disk"):
        check_fits_the_disk(tmp_path)
