"""ROS logs: rigs go out and come back, /tf as ego motion, packets in lone MCAP files, damaged schemas and stamps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.writer import Writer as RawWriter

from perception.cli.main import main
from perception.errors import LogError
from perception.geometry.rig import load_rig
from perception.logs.mcap_writer import McapWriter
from perception.logs.open_log import open_log
from perception.logs.ordering import AHEAD, LATE, in_stamp_order
from perception.logs.ros.messages import intrinsics
from perception.messages import Header, Image, Imu, Message, Odometry, PointCloud
from perception.messages.codec import encode
from tests.logs.test_log_tools import START_NS, cloud, header

RIG = Path(__file__).parents[2] / "calibration" / "simulated_car"
TF = "tf2_msgs/msg/TFMessage"


def ros() -> Any:
    pytest.importorskip("rosbags", reason="ROS bags need the extra 'ros'")
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_HUMBLE)


def export(log: Path, out: Path, *more: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["log", "export", str(log), *more, "--out", str(out)])
    assert not ended.value.code


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A recording with the rig of the simulated car."""
    files = {f"calibration/{file.name}": file.read_bytes() for file in RIG.glob("*.yaml")}
    pixels = np.zeros((4, 6, 3), np.uint8)
    with McapWriter(tmp_path / "drive.mcap", files) as writer:
        for k in range(2):
            head = header(k, "cam_front_optical")
            picture = Image(header=head, encoding="rgb8", height_px=4, width_px=6, data=pixels)
            for topic, message in (("lidar/points", cloud(k)), ("cam_front/image", picture)):
                writer.write(topic, encode(message).to_bytes(), message.header.t_sensor_ns)
    return tmp_path / "drive.mcap"


def test_a_rig_goes_out_to_ros_2_and_comes_back(drive: Path, tmp_path: Path) -> None:
    ros()
    export(drive, tmp_path / "bag", "--format", "ros2")
    log, rig = open_log(tmp_path / "bag"), load_rig(RIG)
    assert log.rig is not None
    assert log.counts()["cam_front/camera_info"] == 2
    assert set(log.rig.sensors) == {"cam_front", "lidar"}
    for frame in ("lidar", "cam_front_optical"):
        back, there = log.rig.base_link_from(frame).matrix, rig.base_link_from(frame).matrix
        np.testing.assert_allclose(back, there, atol=1e-9)
    back_camera, camera = log.rig.camera("cam_front"), rig.camera("cam_front")
    assert (back_camera.model, back_camera.focal_px) == (camera.model, camera.focal_px)


def test_a_rig_goes_out_to_foxglove_and_comes_back(drive: Path, tmp_path: Path) -> None:
    export(drive, tmp_path / "view.mcap")
    log, rig = open_log(tmp_path / "view.mcap"), load_rig(RIG)
    assert log.counts()["cam_front/camera_info"] == 1
    assert log.rig is not None
    assert {"cam_front", "lidar"} <= set(log.rig.sensors)
    for frame in ("lidar", "cam_front_optical"):
        back, there = log.rig.base_link_from(frame).matrix, rig.base_link_from(frame).matrix
        np.testing.assert_allclose(back, there, atol=1e-9)
    back_camera, camera = log.rig.camera("cam_front"), rig.camera("cam_front")
    assert (back_camera.model, back_camera.focal_px) == (camera.model, camera.focal_px)
    assert back_camera.coefficients == camera.coefficients


@pytest.mark.parametrize("name", ["equidistant", "fisheye", "kannala_brandt"])
def test_a_fisheye_is_one_by_the_name_that_ros_an_old_driver_or_foxglove_gives_it(name: str) -> None:
    k = np.array([500, 0, 320, 0, 510, 240, 0, 0, 1], np.float64)
    found = intrinsics(name, (640, 480), k, np.array([0.1, -0.02, 0.003]), header(0))
    assert found.model == "kannala_brandt"
    assert found.coefficients == (0.1, -0.02, 0.003, 0.0)
    assert (found.focal_px, found.center_px) == ((500.0, 510.0), (320.0, 240.0))


def test_coefficients_that_a_model_does_not_have_are_not_left_out_in_silence() -> None:
    k, thin_prism = np.eye(3).reshape(-1), np.array([0.1, 0, 0, 0, 0, 0, 0, 0, 0.01])
    assert intrinsics("rational_polynomial", (4, 4), k, np.append(thin_prism[:8], 0), header(0)).coefficients[0] == 0.1
    with pytest.raises(LogError, match="with 9 coefficients; expected 8 at most that are not 0"):
        intrinsics("rational_polynomial", (4, 4), k, thin_prism, header(0))


def transforms(store: Any, t_ns: int, pairs: list[tuple[str, str, float]]) -> Any:
    types = store.types
    seconds, nanoseconds = divmod(t_ns, 10**9)
    stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return types[TF](transforms=[
        types["geometry_msgs/msg/TransformStamped"](
            header=types["std_msgs/msg/Header"](stamp=stamp, frame_id=parent), child_frame_id=child,
            transform=types["geometry_msgs/msg/Transform"](
                translation=types["geometry_msgs/msg/Vector3"](x=x, y=0.0, z=0.0),
                rotation=types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0),
            ),
        )
        for parent, child, x in pairs
    ])  # fmt: skip


def test_without_an_odometry_the_transform_of_the_vehicle_is_its_motion(tmp_path: Path) -> None:
    store = ros()
    from rosbags.rosbag2 import StoragePlugin, Writer

    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/tf", TF, typestore=store)
        for k in range(5):
            t_ns = START_NS + k * 100_000_000
            wheel = transforms(store, t_ns, [("base_link", "wheel", 0.1 * k)])
            both = transforms(store, t_ns, [("map", "odom", 7.0), ("odom", "base_link", float(k))])
            for message in (wheel, both):
                writer.write(connection, t_ns, store.serialize_cdr(message, TF))
    for path in (tmp_path / "bag", tmp_path / "bag" / "bag.mcap"):  # the folder, and the file alone
        log = open_log(path)
        assert log.counts() == {"ego": 5}
        ego = [m for _, m in log.messages() if isinstance(m, Odometry)]
        assert [m.translation_m[0] for m in ego] == [0, 1, 2, 3, 4]
        np.testing.assert_allclose([m.velocity_mps[0] for m in ego], [0, 10, 10, 10, 10])  # one metre in 0.1 s
        assert "ego is the transform odom to base_link of /tf" in log.notes


def test_packets_and_events_in_a_lone_mcap_file_are_read_as_in_their_bag(data_folder: Path, tmp_path: Path) -> None:
    ros()
    from rosbags.rosbag2 import StoragePlugin, Writer

    from perception.logs.events.ros_bag import DEFINITIONS, opened
    from perception.logs.ros.definitions import PACKET_SCANS

    for name, topic in (("nebula_velodyne_vlp16/1673400471837873222", "lidar/points"),
                        ("events_ros2bag_evt3", "event_camera/events")):  # fmt: skip
        source, out = data_folder / name, tmp_path / topic.partition("/")[0]
        with (
            opened(source, {**DEFINITIONS, **PACKET_SCANS}) as bag,
            Writer(out, version=8, storage_plugin=StoragePlugin.MCAP) as writer,
        ):
            connections = {
                c.id: writer.add_connection(c.topic, c.msgtype, typestore=bag.typestore) for c in bag.connections
            }
            for connection, t_ns, data in bag.messages():
                writer.write(connections[connection.id], t_ns, data)
        lone = out.rename(tmp_path / f"moved_{out.name}") / f"{out.name}.mcap"
        wanted, found = open_log(source), open_log(lone)
        assert found.counts()[topic] == wanted.counts()[topic]
        assert found.event_counts() == wanted.event_counts()


def test_a_damaged_schema_costs_its_topic_and_not_the_others(tmp_path: Path) -> None:
    ros()
    path = tmp_path / "damaged.mcap"
    with path.open("wb") as file:
        writer = RawWriter(file)
        writer.start(profile="ros2", library="test")
        for topic, kind, encoding, text in (
            ("/imu", "sensor_msgs/msg/Imu", "cdr", b"\xff\x00 no text"),
            ("/points", "foxglove.PointCloud", "protobuf", b"\xff\x01\x02"),
            ("/fix", "foxglove.LocationFix", "json", b"{}"),
        ):
            schema = writer.register_schema(kind, "any", text)
            channel = writer.register_channel(topic, encoding, schema)
            document = b'{"timestamp": {"sec": 5, "nsec": 0}, "latitude": 48.0, "longitude": 11.0}'
            writer.add_message(channel, 1, document, 1, 0)
        writer.finish()
    log = open_log(path)
    assert log.counts() == {"gnss/gnss": 1} or log.counts() == {"fix/gnss": 1}
    assert sum(1 for _ in log.messages()) == 1
    assert sorted(log.others) == ["/imu", "/points"]
    assert sum("left out" in note for note in log.notes) == 2


def moments(*times_s: float) -> list[tuple[str, Message]]:
    zero = (0.0, 0.0, 0.0)
    return [
        ("imu", Imu(header=Header(frame_id="imu", t_sensor_ns=round(t * 1e9)), angular_velocity_radps=zero,
                    acceleration_mps2=zero))
        for t in times_s
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "kept", "reasons"),
    [
        ((100.0, 100.1, 9e8, 100.2, 100.3), [100.0, 100.1, 100.2, 100.3], {AHEAD: 1}),  # one flipped bit
        ((9e8, 100.0, 100.1), [100.0, 100.1], {AHEAD: 1}),  # in the first of all
        ((100.0, 500.0, 500.1), [100.0, 500.0, 500.1], {}),  # a gap in a recording is none
        ((100.0, 100.3, 100.1, 100.2), [100.0, 100.1, 100.2, 100.3], {}),  # a little out of order
        ((100.0, 101.0, 101.1, 50.0, 101.2), [100.0, 101.0, 101.1, 101.2], {LATE: 1}),  # a clock that runs backwards
        ((100.0, 101.0, 109.0, 102.0), [100.0, 101.0, 102.0, 109.0], {}),  # of a slow network, recorded 7 s later
        ((100.0, 9e8), [100.0, 9e8], {}),  # nothing contradicts the last one
    ],
)
def test_stamps_that_nothing_confirms_cost_one_message(
    given: tuple[float, ...], kept: list[float], reasons: dict[str, int]
) -> None:
    skipped: Counter[str] = Counter()
    found = [m.header.t_sensor_ns / 1e9 for _, m in in_stamp_order(moments(*given), skipped)]
    assert found == kept
    assert {reason.removeprefix("imu: "): count for reason, count in skipped.items()} == reasons


def test_where_memory_would_run_short_messages_wait_half_a_second() -> None:
    sweeps = [("lidar/points", cloud(step)) for step in (0, 3, 2, 6, 10, 1, 11)]  # tenths of a second
    skipped: Counter[str] = Counter()
    kept = [
        round((m.header.t_sensor_ns - START_NS) / 1e8) for _, m in in_stamp_order(sweeps, skipped, max_held_bytes=1)
    ]
    assert kept == [0, 2, 3, 6, 10, 11]
    assert skipped == {f"lidar/points: {LATE}": 1}
    assert len(list(in_stamp_order(sweeps, Counter()))) == len(sweeps)


def test_a_rate_is_that_of_the_topic_and_not_of_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with McapWriter(tmp_path / "short.mcap") as writer:
        for message in (cloud(0), cloud(1), cloud(2)):
            writer.write("lidar/points", encode(message).to_bytes(), message.header.t_sensor_ns)
    ros()
    export(tmp_path / "short.mcap", tmp_path / "bag", "--format", "ros2")
    assert isinstance(next(m for _, m in open_log(tmp_path / "bag").messages()), PointCloud)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["log", "info", str(tmp_path / "bag")])
    assert "10.00 Hz" in capsys.readouterr().out
