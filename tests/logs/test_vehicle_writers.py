from pathlib import Path

import pytest

from perception.errors import LogError
from perception.logs.open_log import open_log
from perception.logs.vehicle_writers import SnapshotWriter, SplitWriter
from perception.messages import Header, Imu
from perception.messages.codec import encode
from perception.runtime.fingerprint import fingerprint

SECOND_NS = 1_000_000_000


def record(k: int) -> bytes:
    header = Header(frame_id="imu", t_sensor_ns=SECOND_NS * (k + 1), seq=k)
    return encode(Imu(header=header, angular_velocity_radps=(0, 0, 0), acceleration_mps2=(0, 0, 9.8))).to_bytes()


def seqs(path: Path) -> list[int]:
    return [message.header.seq for _, message in open_log(path).messages()]


def test_files_end_after_their_time_and_together_hold_everything(tmp_path: Path) -> None:
    writer = SplitWriter(tmp_path / "drive.mcap", {"launch.yaml": b"name: x"}, max_ns=4 * SECOND_NS)
    for k in range(10):
        writer.write("imu/imu", record(k), k * SECOND_NS)
    writer.close()
    assert [path.name for path in writer.files] == ["drive.mcap", "drive_0001.mcap", "drive_0002.mcap"]
    assert [seqs(path) for path in writer.files] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert all(open_log(path).attachments()["launch.yaml"] == b"name: x" for path in writer.files)


def test_files_end_at_their_size(tmp_path: Path) -> None:
    writer = SplitWriter(tmp_path / "drive.mcap", max_bytes=2000)
    for k in range(60):
        writer.write("imu/imu", record(k), k * SECOND_NS)
        writer.flush()
    writer.close()
    assert len(writer.files) > 2
    assert [seq for path in writer.files for seq in seqs(path)] == list(range(60))
    assert writer.size() == sum(path.stat().st_size for path in writer.files)


def test_a_snapshot_holds_the_last_seconds_before_its_trigger(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "event.mcap", last_ns=3 * SECOND_NS)
    for k in range(20):
        writer.write("imu/imu", record(k), k * SECOND_NS)
        if k in (9, 15):
            writer.trigger()
    writer.close()
    assert [path.name for path in writer.files] == ["event.mcap", "event_0001.mcap"]
    assert seqs(writer.files[0]) == [7, 8, 9, 10]
    assert seqs(writer.files[1]) == [13, 14, 15, 16]


def test_nothing_is_written_without_a_trigger_and_nothing_overwritten(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "event.mcap", last_ns=SECOND_NS)
    writer.write("imu/imu", record(0), 0)
    writer.close()
    assert not (tmp_path / "event.mcap").exists()
    (tmp_path / "event.mcap").write_bytes(b"mine")
    with pytest.raises(LogError, match="never overwritten"):
        SnapshotWriter(tmp_path / "event.mcap", last_ns=SECOND_NS)


def test_a_fingerprint_names_what_numbers_depend_on() -> None:
    found = fingerprint()
    packages = found["packages"]
    assert isinstance(packages, dict)
    assert {"torch", "numpy", "numba"} <= set(packages)
    assert found == fingerprint()
