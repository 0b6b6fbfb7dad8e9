"""Logs of other writers become ours and go out again; recordings are cut, merged, recovered and compared."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from PIL import Image as PillowImage

from perception.cli.main import main
from perception.errors import LogError
from perception.logs.foreign_mcap import ForeignMcapLog
from perception.logs.mcap_writer import McapWriter
from perception.logs.merged_log import MergedLog
from perception.logs.open_log import FORMATS, open_log, open_logs
from perception.logs.rewrite import write_attachments
from perception.logs.topic_names import our_topics
from perception.messages import EventPacket, Gnss, GraphState, Header, Image, Imu, Message, Odometry, PointCloud
from perception.messages.array import host
from perception.messages.codec import encode

START_NS = 1_700_000_000_123_456_789


def header(k: int, frame: str = "lidar") -> Header:
    return Header(frame_id=frame, t_sensor_ns=START_NS + k * 100_000_000, seq=k, clock="log")


def cloud(k: int) -> PointCloud:
    points = np.arange(12, dtype=np.float32).reshape(4, 3) + k
    return PointCloud(
        header=header(k), xyz_m=points, intensity=np.array([0, 1, 2, 255], np.float32), intensity_scale=255.0,
        ring=np.arange(4, dtype=np.uint16), t_offset_ns=np.array([-3000, -2000, -1000, 0], np.int32),
    )  # fmt: skip


def messages() -> list[tuple[str, Message]]:
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    out: list[tuple[str, Message]] = []
    for k in range(3):
        turned = (0.0, 0.0, 0.6, 0.8)
        imu = Imu(
            header=header(k, "imu"), angular_velocity_radps=(0.1, 0.2, 0.3), acceleration_mps2=(0, 0, 9.8),
            orientation_xyzw=turned,
        )  # fmt: skip
        ego = Odometry(
            header=header(k, "odom"), translation_m=(1.0, 2.0, 0.0), rotation_xyzw=turned, velocity_mps=(3.0, 0.0, 0.0)
        )
        photo = Image(header=header(k, "cam_optical"), encoding="rgb8", height_px=4, width_px=6, data=picture)
        fix = Gnss(header=header(k, "gnss"), latitude_deg=48.1, longitude_deg=11.5, altitude_m=500.0)
        named = {"lidar/points": cloud(k), "cam/image": photo, "imu/imu": imu, "gnss/gnss": fix, "ego": ego}
        out += list(named.items())
    return out


def record(path: Path, items: list[tuple[str, Message]]) -> Path:
    with McapWriter(path) as writer:
        for topic, message in items:
            writer.write(topic, encode(message).to_bytes(), message.header.t_sensor_ns)
    return path


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return record(tmp_path / "drive.mcap", messages())


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["log", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_a_bag_written_for_ros_2_reads_back_equal(drive: Path, tmp_path: Path) -> None:
    pytest.importorskip("rosbags", reason="ROS bags need the extra 'ros'")
    assert run("export", drive, "--format", "ros2", "--out", tmp_path / "bag") == 0
    back = open_log(tmp_path / "bag")
    assert back.counts() == dict.fromkeys(("cam/image", "ego", "gnss/gnss", "imu/imu", "lidar/points"), 3)
    for (topic, read), (_, written) in zip(back.messages(), sorted_by_stamp(messages()), strict=True):
        assert read.header.t_sensor_ns == written.header.t_sensor_ns, topic
        if isinstance(read, PointCloud) and isinstance(written, PointCloud):
            np.testing.assert_array_equal(host(read.xyz_m), host(written.xyz_m))
            np.testing.assert_array_equal(host(read.intensity), host(written.intensity))  # type: ignore[arg-type]
            np.testing.assert_array_equal(host(read.ring), host(written.ring))  # type: ignore[arg-type]
            assert read.intensity_scale == 255.0
        if isinstance(read, Image) and isinstance(written, Image):
            np.testing.assert_array_equal(host(read.data), host(written.data))
        if isinstance(read, Imu | Gnss | Odometry):
            for name in set(read.__struct_fields__) - {"header", "timing", "covariance"}:
                assert getattr(read, name) == getattr(written, name), name


def sorted_by_stamp(items: list[tuple[str, Message]]) -> list[tuple[str, Message]]:
    return sorted(items, key=lambda item: (item[1].header.t_sensor_ns, item[0]))


def test_an_export_for_foxglove_reads_back_through_its_json(drive: Path, tmp_path: Path) -> None:
    assert run("export", drive, "--out", tmp_path / "view.mcap") == 0
    back = open_log(tmp_path / "view.mcap")
    assert isinstance(back, ForeignMcapLog)
    clouds = [m for _, m in back.messages(topics=["lidar/points"]) if isinstance(m, PointCloud)]
    np.testing.assert_array_equal(host(clouds[1].xyz_m), host(cloud(1).xyz_m))
    pictures = [m for _, m in back.messages(topics=["cam/image"]) if isinstance(m, Image)]
    assert (pictures[0].encoding, pictures[0].width_px, pictures[0].height_px) == ("png", 6, 4)
    ego = [m.translation_m for _, m in back.messages(topics=["ego"]) if isinstance(m, Odometry)]
    assert ego == [(1.0, 2.0, 0.0)] * 3


def test_foxglove_sees_events_as_pictures_and_inertial_measurements_as_numbers(tmp_path: Path) -> None:
    events = EventPacket(
        header=header(0, "events"), height_px=2, width_px=3, t_ns=np.array([1, 2], np.int64),
        x=np.array([0, 2], np.uint16), y=np.array([0, 1], np.uint16), polarity=np.array([1, 0], np.uint8),
    )  # fmt: skip
    turning = next(message for topic, message in messages() if topic == "imu/imu")
    record(tmp_path / "drive.mcap", [("event/events", events), ("imu/imu", turning)])
    assert run("export", tmp_path / "drive.mcap", "--out", tmp_path / "view.mcap") == 0
    with (tmp_path / "view.mcap").open("rb") as file:
        found = {schema.name: json.loads(one.data) for schema, _, one in make_reader(file).iter_messages()}
    pixels = np.asarray(PillowImage.open(io.BytesIO(base64.b64decode(found["foxglove.CompressedImage"]["data"]))))
    assert pixels[0, 0, 0] > pixels[0, 0, 2]  # brighter: red
    assert pixels[1, 2, 2] > pixels[1, 2, 0]  # darker: blue
    assert (pixels[0, 1] == 255).all()
    assert found["perception.imu/1"]["angular_velocity_radps"] == {"x": 0.1, "y": 0.2, "z": 0.3}


def test_a_cut_keeps_the_wanted_instants_and_topics(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "part.mcap"
    assert run("cut", drive, "--from", "0.05", "--until", "0.25", "--topic", "lidar/points", "--out", out) == 0
    assert [m.header.seq for _, m in open_log(out).messages()] == [1, 2]
    assert run("cut", drive, "--topic", "lidar/pointz", "--out", tmp_path / "b.mcap") == 2
    assert "Did you mean 'lidar/points'?" in capsys.readouterr().err
    assert run("cut", drive, "--out", out) == 2  # nothing is overwritten


def test_a_cut_off_recording_is_recovered_up_to_its_last_whole_chunk(drive: Path, tmp_path: Path) -> None:
    with McapWriter(tmp_path / "long.mcap") as writer:
        for k in range(40):
            writer.write("lidar/points", encode(cloud(k)).to_bytes(), cloud(k).header.t_sensor_ns)
            if k % 10 == 9:
                writer.flush()
    data = (tmp_path / "long.mcap").read_bytes()
    (tmp_path / "cut.mcap").write_bytes(data[: len(data) // 2])
    assert run("recover", tmp_path / "cut.mcap", "--out", tmp_path / "whole.mcap") == 0
    recovered = [m.header.seq for _, m in open_log(tmp_path / "whole.mcap").messages()]
    assert recovered == list(range(len(recovered)))
    assert len(recovered) in (10, 20, 30)


def test_logs_are_merged_on_one_timeline_and_clashing_topics_refused(drive: Path, tmp_path: Path) -> None:
    late = [(t, m) for t, m in messages() if t == "imu/imu"]
    record(tmp_path / "imu.mcap", [("imu2/imu", m) for _, m in late])
    assert run("merge", drive, tmp_path / "imu.mcap", "--out", tmp_path / "both.mcap") == 0
    stamps = [m.header.t_sensor_ns for _, m in open_log(tmp_path / "both.mcap").messages()]
    assert stamps == sorted(stamps)
    assert len(stamps) == 18
    with pytest.raises(LogError, match="both hold"):
        MergedLog([open_log(drive), open_log(drive)])


def test_merging_logs_of_clocks_that_have_nothing_in_common_says_so(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = record(tmp_path / "late.mcap", [("c/points", cloud(100_000))])
    assert run("merge", drive, late, "--out", tmp_path / "both.mcap") == 0
    assert f"late.mcap: lies 10000 s apart from {drive}; is it one drive?" in capsys.readouterr().out


def test_parts_of_one_recording_lie_one_after_the_other_whatever_order_they_are_given_in(
    drive: Path, tmp_path: Path
) -> None:
    for name, times in (("a", ("0", "0.15")), ("b", ("0.15", "9"))):
        assert run("cut", drive, "--from", times[0], "--until", times[1], "--out", tmp_path / f"{name}.mcap") == 0
    whole = [(topic, m.header.seq) for topic, m in open_log(drive).messages()]
    for order in (("a", "b"), ("b", "a")):
        merged = open_logs([tmp_path / f"{name}.mcap" for name in order])
        assert [(topic, m.header.seq) for topic, m in merged.messages()] == whole
        assert merged.counts() == open_log(drive).counts()
        assert merged.topic_spans() == open_log(drive).topic_spans()


def test_two_recordings_tell_of_their_own_graphs_and_the_first_is_heard(tmp_path: Path) -> None:
    state = GraphState(header=header(0), state="ok", reasons=(), sensors={}, nodes={})
    both = [
        open_log(record(tmp_path / f"{name}.mcap", [(f"{name}/points", cloud(0)), ("state", state)])) for name in "ab"
    ]
    assert MergedLog(both).counts() == {"a/points": 1, "b/points": 1, "state": 1}
    late = record(tmp_path / "late.mcap", [("c/points", cloud(100_000))])
    assert "apart from" in MergedLog([both[0], open_log(late)]).notes[-1]


def test_a_name_that_leads_out_of_the_folder_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="leads out of"):
        write_attachments({"ok": b"", "../evil": b"x"}, tmp_path / "files")
    assert not (tmp_path / "files").exists()


def test_large_files_in_a_recording_are_read_when_they_are_wanted_and_damage_is_named(tmp_path: Path) -> None:
    large = bytes(range(256)) * 8192  # 2 MiB
    with McapWriter(tmp_path / "a.mcap", {"weights/x.safetensors": large, "launch.yaml": b"small"}) as writer:
        writer.write("lidar/points", encode(cloud(0)).to_bytes(), START_NS)
    held = open_log(tmp_path / "a.mcap").attachments()
    assert sorted(held) == ["launch.yaml", "weights/x.safetensors"]
    assert held["weights/x.safetensors"] == large
    data = (tmp_path / "a.mcap").read_bytes()
    at = data.index(large[:4096]) - 8  # the length before them
    (tmp_path / "a.mcap").write_bytes(data[:at] + (2**40).to_bytes(8, "little") + data[at + 8 :])
    with pytest.raises(LogError, match="cannot be read"):
        open_log(tmp_path / "a.mcap").attachments()["weights/x.safetensors"]


def test_compare_names_the_first_message_that_differs(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = record(tmp_path / "same.mcap", messages())
    assert run("compare", drive, same) == 0
    changed = messages()
    changed[5] = ("lidar/points", cloud(7)) if changed[5][0] == "lidar/points" else changed[5]
    other = record(tmp_path / "other.mcap", changed[:-1])
    capsys.readouterr()
    assert run("compare", drive, other, "--json") == 1
    found = {d["topic"]: d for d in json.loads(capsys.readouterr().out)["differences"]}
    assert set(found) == {"lidar/points", "ego"}
    assert (found["lidar/points"]["place"], found["ego"]["place"], found["ego"]["b"]) == (1, 2, None)


def test_a_ledger_has_a_line_for_each_message_that_changes_with_what_it_says_alone(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(path: Path) -> list[list[str]]:
        capsys.readouterr()
        assert run("ledger", path) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    changed = messages()
    place = next(k for k, (topic, _) in enumerate(changed) if topic == "lidar/points")
    changed[place] = ("lidar/points", cloud(7))
    before, after = lines(drive), lines(record(tmp_path / "other.mcap", changed))
    assert len(before) == len(messages())
    assert len({*map(tuple, before)} ^ {*map(tuple, after)}) == 2
    assert run("ledger", tmp_path / "nothing.mcap") == 2


def test_bags_and_recordings_of_other_writers_are_listed_whole(data_folder: Path) -> None:
    pytest.importorskip("rosbags", reason="ROS bags need the extra 'ros'")
    for name in ("example-lz4.bag", "example-bz2.bag"):
        log = open_log(data_folder / "logs" / name)
        assert sum(count for _, count in log.others.values()) == 8647, name
    razor = open_log(data_folder / "logs" / "sparkfun_razor.bag")
    assert razor.counts() == {"imu/imu": 2144}
    assert razor.others == {"/imu/mag": ("sensor_msgs/msg/MagneticField", 2144)}
    assert sum(1 for _ in razor.messages()) == 2144
    camera = open_log(data_folder / "logs" / "custom-camera-model.mcap")
    assert [type(m).__name__ for _, m in camera.messages(topics=["image/image"])] == ["Image"] * 10


def test_topics_of_other_logs_get_our_names() -> None:
    kinds = {"/velodyne_points": "points", "/cam0/image_raw": "image", "/cam1/image_raw": "image", "/odom": "odometry"}
    assert our_topics(kinds) == {
        "/velodyne_points": "lidar/points", "/cam0/image_raw": "cam0/image", "/cam1/image_raw": "cam1/image",
        "/odom": "ego",
    }  # fmt: skip
    two = our_topics({"/front/points": "points", "/rear/points": "points"})
    assert set(two.values()) == {"front/points", "rear/points"}


@pytest.mark.parametrize("name", ["cut.bag", "cut.db3"])
def test_a_damaged_bag_costs_one_clear_line(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rosbags", reason="ROS bags need the extra 'ros'")
    beginning = b"#ROSBAG V2.0\n" if name.endswith(".bag") else b"SQLite format 3\x00"
    (tmp_path / name).write_bytes(beginning + b"\x01" * 200)
    assert run("info", tmp_path / name) == 2
    assert capsys.readouterr().err.count("\n") <= 1 + len(FORMATS.splitlines())
