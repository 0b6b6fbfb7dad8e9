"""Recordings: what was written comes back, a crash loses at most the last chunk, damage is skipped and counted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import Writer

from perception.errors import LogError
from perception.logs.mcap_log import McapLog
from perception.logs.mcap_writer import McapWriter
from perception.logs.open_log import open_log
from perception.messages import Header, Imu, PointCloud
from perception.messages.codec import content, encode


def imu(t_ns: int) -> bytes:
    header = Header(frame_id="imu", t_sensor_ns=t_ns, seq=t_ns)
    return encode(
        Imu(header=header, angular_velocity_radps=(0.0, 0.0, t_ns), acceleration_mps2=(0.0, 0.0, 9.8))
    ).to_bytes()


def cloud(t_ns: int, points: int = 1000) -> bytes:
    xyz = np.random.default_rng(t_ns).normal(size=(points, 3)).astype(np.float32)
    return encode(PointCloud(header=Header(frame_id="lidar", t_sensor_ns=t_ns, seq=t_ns), xyz_m=xyz)).to_bytes()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "drive.mcap"
    with McapWriter(path, {"launch.yaml": b"name: car\n"}) as writer:
        for step in range(50):
            writer.write("lidar/points", cloud(step * 100), 1_000_000 + step * 100 + 60)
            writer.write("imu/imu", imu(step * 100 + 50), 1_000_000 + step * 100 + 55)
    return path


def test_what_was_recorded_comes_back_byte_for_byte(recording: Path) -> None:
    log = open_log(recording)
    assert isinstance(log, McapLog)
    assert log.topics() == {"imu/imu": Imu, "lidar/points": PointCloud}
    assert log.counts() == {"imu/imu": 50, "lidar/points": 50}
    assert log.attachments() == {"launch.yaml": b"name: car\n"}
    clouds = [data for topic, data, _ in log.records() if topic == "lidar/points"]
    assert [content(data) for data in clouds] == [content(cloud(step * 100)) for step in range(50)]
    assert (log.span().start_ns, log.span().end_ns) == (0, 4950)
    assert not log.skipped
    assert not log.notes


def test_messages_come_in_the_order_of_their_stamps_whatever_the_order_of_arrival(tmp_path: Path) -> None:
    path = tmp_path / "late.mcap"
    with McapWriter(path) as writer:
        for arrival, stamp in enumerate([30, 10, 20, 40, 0]):
            writer.write("imu/imu", imu(stamp), arrival)
    assert [message.header.t_sensor_ns for _, message in open_log(path).messages()] == [0, 10, 20, 30, 40]


def test_a_part_of_the_time_and_of_the_topics_can_be_read(recording: Path) -> None:
    stamps = [m.header.t_sensor_ns for _, m in open_log(recording).messages(1000, 1300, {"lidar/points"})]
    assert stamps == [1000, 1100, 1200]


def test_other_tools_read_a_recording(recording: Path) -> None:
    with recording.open("rb") as file:
        found = [
            (schema.name, channel.message_encoding)
            for schema, channel, _ in make_reader(file).iter_messages()
            if schema
        ]
    assert found.count(("perception.imu/1", "msgpack")) == 50


def test_an_existing_recording_is_never_overwritten(recording: Path) -> None:
    before = recording.read_bytes()
    with pytest.raises(LogError, match="exists already"):
        McapWriter(recording)
    assert recording.read_bytes() == before


WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.logs.test_mcap import cloud
from perception.logs.mcap_writer import McapWriter
writer = McapWriter(Path(sys.argv[1]))
for step in range(100_000):
    writer.write("lidar/points", cloud(step), time.time_ns())
    print(step, time.time_ns(), flush=True)
    time.sleep(0.01)
"""


def test_a_recording_cut_off_by_kill_9_opens_and_lacks_at_most_a_second(tmp_path: Path) -> None:
    path = tmp_path / "killed.mcap"
    source = WRITER.format(tests=str(Path(__file__).parents[2]))
    with subprocess.Popen([sys.executable, "-c", source, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        written = {}
        for line in process.stdout:
            step, stamp = map(int, line.split())
            written[step] = stamp
            if step >= 150:
                break
        killed_ns = time.time_ns()
        os.kill(process.pid, signal.SIGKILL)
    log = open_log(path)
    last = max(message.header.t_sensor_ns for _, message in log.messages())
    assert killed_ns - written[last] < 1_000_000_000
    assert any("not closed" in note for note in log.notes)
    assert [message.header.t_sensor_ns for _, message in log.messages()] == list(range(last + 1))


def test_a_recording_cut_at_any_byte_gives_its_beginning_and_says_so(recording: Path) -> None:
    data = recording.read_bytes()
    found = []
    for cut in range(9, len(data), len(data) // 40):
        path = recording.with_name(f"cut{cut}.mcap")
        path.write_bytes(data[:cut])
        try:
            log = open_log(path)
        except LogError:
            found.append(0)
            continue
        messages = [message.header.t_sensor_ns for _, message in log.messages()]
        assert messages == sorted(messages)
        assert any("not closed" in note for note in log.notes)
        found.append(len(messages))
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] == 100


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_flipped_bytes_are_an_error_or_counted_never_a_crash(recording: Path, data: st.DataObject) -> None:
    damaged = bytearray(recording.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        damaged[data.draw(st.integers(8, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = recording.with_name("damaged.mcap")
    path.write_bytes(damaged)
    try:
        log = open_log(path)
        sum(1 for _ in log.messages())
    except LogError:
        return


def test_chunks_come_in_their_order_and_one_that_is_larger_than_the_index_says_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "chunks.mcap"
    with McapWriter(path) as writer:
        for step in range(12):
            writer.write("imu/imu", imu(step), 1_000_000 + step)
            writer.flush()
    assert [data for _, data, _ in McapLog(path).records()] == [imu(step) for step in range(12)]
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    assert len(summary.chunk_indexes) == 12
    data = bytearray(path.read_bytes())
    at = summary.chunk_indexes[5].chunk_start_offset + 9 + 16  # behind opcode, length, and the times of its messages
    data[at : at + 8] = (100 << 20).to_bytes(8, "little")
    path.write_bytes(data)
    log = McapLog(path)
    assert [message.header.seq for _, message in log.messages()] == [step for step in range(12) if step != 5]
    assert dict(log.skipped) == {"a damaged chunk: it is larger than the index says": 1}


def test_recordings_of_others_are_named_not_misread(tmp_path: Path) -> None:
    path = tmp_path / "ros.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        channel = writer.register_channel("chatter", "cdr", 0)
        writer.add_message(channel, 1, b"abc", 1)
        writer.finish()
    log = open_log(path)
    assert not log.topics()
    assert log.others == {"chatter": ("cdr", 1)}


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [("empty.mcap", b"", "is empty"), ("text.mcap", b"hello, this is no log", "not a known log")],
)
def test_files_that_are_no_log_say_what_is_expected(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(LogError, match=reason):
        open_log(tmp_path / name)
    with pytest.raises(LogError, match=f"no such log, neither a file nor a folder. Did you mean '{name}'\\?$"):
        open_log(tmp_path / name.replace(".mcap", ".mcp"))
    with pytest.raises(LogError, match="no known log"):
        open_log(tmp_path)
