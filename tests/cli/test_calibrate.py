"""`perception calibrate` as it is typed: from pictures and logs to files and reports, and what wrong input says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image as Pillow

from perception.calibrate.boards import Board
from perception.calibrate.calibration_file import camera_file, read_camera, read_extrinsics, write_calibration
from perception.cli.main import main
from perception.geometry.transforms import Transform
from perception.logs.mcap_writer import McapWriter
from perception.messages import EventPacket, Header, Image, Imu, Message, PointCloud
from perception.messages.codec import encode
from tests.calibrate.rendering import poses, rendered
from tests.calibrate.test_intrinsics import PINHOLE
from tests.calibrate.test_other_tools import events_of, mounted, scanned, street, turning

WORD = "chessboard:9x6:0.024"
BOARD = Board.parse(WORD)


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def written(path: Path, topics: Mapping[str, Sequence[Message]], files: Mapping[str, bytes] | None = None) -> Path:
    """Write messages to a log, by stamp."""
    rows = [(message.header.t_sensor_ns, topic, message) for topic, sent in topics.items() for message in sent]
    with McapWriter(path, files or {}) as writer:
        for t_ns, topic, message in sorted(rows, key=lambda row: row[:2]):
            writer.write(topic, encode(message).to_bytes(), t_ns)
    return path


def header(message: type[Message], t_ns: int, frame: str = "sensor") -> Header:
    return Header(frame_id=frame, t_sensor_ns=t_ns, schema=message.SCHEMA)


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with left and right pictures of a board, the right camera 8 cm to the right."""
    folder = tmp_path_factory.mktemp("shots")
    for index, pose in enumerate(poses(BOARD, 6, 0.42, seed=2, spread=0.1)):
        Pillow.fromarray(rendered(BOARD, PINHOLE, pose)).save(folder / f"left{index}.png")
        shifted = Transform(pose.translation_m - np.array([0.08, 0.0, 0.0]), pose.rotation_xyzw)
        Pillow.fromarray(rendered(BOARD, PINHOLE, shifted)).save(folder / f"right{index}.png")
    return folder


def test_a_folder_of_pictures_becomes_a_file_and_a_report_that_say_how_good_they_are(
    shots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cam.yaml"
    assert run("intrinsics", f"{shots}/left*.png", "--board", WORD, "--out", out, "--serial", "s1") == 0
    printed = capsys.readouterr().out
    assert "residual" in printed
    assert "poor: only" in printed  # six views are few
    assert read_camera(out).focal_px[0] == pytest.approx(300, rel=0.03)
    record = yaml.safe_load(out.read_text())["record"]
    assert {"method", "date", "residual", "coverage", "uncertainty", "complaints", "content_hash"} <= set(record)
    page = (tmp_path / "cam.html").read_text()
    assert page.count("data:image/jpeg;base64") >= 4
    assert "<svg" in page
    assert record["content_hash"] in page


def test_a_pair_of_patterns_becomes_a_baseline(shots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "stereo.yaml"
    write_calibration(tmp_path / "cam.yaml", camera_file(PINHOLE))
    known = ("--left-camera", tmp_path / "cam.yaml", "--right-camera", tmp_path / "cam.yaml")
    assert run("stereo", f"{shots}/left*", f"{shots}/right*", "--board", WORD, "--out", out, *known) == 0
    assert "baseline" in capsys.readouterr().out
    transform = read_extrinsics(out).transforms["cam_right_optical_from_cam_left_optical"]
    np.testing.assert_allclose(transform.translation_m, (-0.08, 0, 0), atol=0.002)
    assert "Rectified" in (tmp_path / "stereo.html").read_text()


def test_the_ground_and_the_offset_of_two_clocks_come_from_a_log(tmp_path: Path) -> None:
    truth = mounted(1.0, -2.0, 0.0, 1.8)
    sweeps = [PointCloud(header=header(PointCloud, index * 10**8), xyz_m=street(truth, index).astype(np.float32))
              for index in range(4)]  # fmt: skip
    t_s = np.arange(0, 8, 0.01)
    rates = {f"{name}/imu": [Imu(header=header(Imu, round((t - late) * 1e9) + 10**9),
                                 angular_velocity_radps=(0.0, 0.0, float(turning(np.array(t)))),
                                 acceleration_mps2=(0.0, 0.0, 9.8)) for t in t_s]
             for name, late in (("a", 0.04), ("b", 0.0))}  # fmt: skip
    log = written(tmp_path / "log.mcap", {"lidar/points": sweeps, **rates})
    assert run("ground", log, "--topic", "lidar/points", "--out", tmp_path / "lidar.yaml") == 0
    found = read_extrinsics(tmp_path / "lidar.yaml").transforms["base_link_from_lidar"]
    assert found.translation_m[2] == pytest.approx(1.8, abs=0.01)
    assert run("time-offset", log, "a/imu", "b/imu", "--axis", "z", "--out", tmp_path / "offset.yaml") == 0
    assert read_extrinsics(tmp_path / "offset.yaml").offset_ms["a/imu"] == pytest.approx(40, abs=1)
    assert run("time-offset", log, "a/imu", "lidar/points", "--out", tmp_path / "x.yaml") == 2
    assert run("ground", log, "--topic", "lidar/point", "--out", tmp_path / "x.yaml") == 2


def test_a_camera_is_laid_on_a_lidar_from_a_log_and_a_rig(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = Board.parse("chessboard:7x5:0.12")
    optical_from_lidar = Transform.from_quaternion((0.1, -0.3, -0.2), (0.5, -0.5, 0.5, 0.5))
    guess = optical_from_lidar.inverse()
    place = [float(value) for value in guess.translation_m + np.array([0.02, -0.02, 0.01])]
    (tmp_path / "rig").mkdir()
    (tmp_path / "rig" / "rig.yaml").write_text(yaml.safe_dump({
        "name": "bench",
        "sensors": {"lidar": {"kind": "lidar", "rate_hz": 10},
                    "cam": {"kind": "camera", "rate_hz": 10, "calibration": "cam.yaml"}},
        "transforms": {"base_link_from_lidar": {"translation_m": [0, 0, 0], "rotation_xyzw": [0, 0, 0, 1]},
                       "base_link_from_cam_optical": {
                           "translation_m": place, "rotation_xyzw": [float(v) for v in guess.rotation_xyzw]},
                       "cam_optical_from_cam": {"translation_m": [0, 0, 0], "rotation_xyzw": [0.5, -0.5, 0.5, 0.5]}},
    }))  # fmt: skip
    (tmp_path / "rig" / "cam.yaml").write_text(yaml.safe_dump({
        "model": "plumb_bob", "width_px": 480, "height_px": 320, "focal_px": [300.0, 301.0],
        "center_px": [243.0, 157.0], "coefficients": [-0.2, 0.05, 0.001, -0.0008, 0.0]}))  # fmt: skip
    pictures: list[Message] = []
    sweeps: list[Message] = []
    for index, pose in enumerate(poses(board, 9, 2.6, seed=3, spread=0.1)):
        grey = rendered(board, PINHOLE, pose)
        pictures.append(Image(header=header(Image, index * 10**9, "cam_optical"), encoding="mono8", height_px=320,
                              width_px=480, data=grey))  # fmt: skip
        points = scanned(board, pose, optical_from_lidar, index).astype(np.float32)
        sweeps.append(PointCloud(header=header(PointCloud, index * 10**9 + 10**7, "lidar"), xyz_m=points))
    log = written(tmp_path / "boards.mcap", {"cam/image": pictures, "lidar/points": sweeps})
    options = ("--camera", "cam", "--lidar", "lidar", "--board", "chessboard:7x5:0.12", "--out", tmp_path / "x.yaml")
    assert run("camera-lidar", log, tmp_path / "rig", *options) == 0
    assert "off the guess" in capsys.readouterr().out
    found = read_extrinsics(tmp_path / "x.yaml").transforms["cam_optical_from_lidar"]
    np.testing.assert_allclose(found.translation_m, optical_from_lidar.translation_m, atol=0.03)


def test_an_event_camera_is_calibrated_from_a_blinking_board(tmp_path: Path) -> None:
    packets: list[Message] = []
    for index, pose in enumerate(poses(BOARD, 5, 0.4, seed=2, spread=0.1)):
        on = rendered(BOARD, PINHOLE, pose, background=0)
        for part in events_of([np.zeros_like(on), on, np.zeros_like(on)], 10_000_000):
            t_ns = part.t_ns + index * 20_000_000 + 10**9
            packets.append(EventPacket(
                header=header(EventPacket, int(t_ns[-1])), height_px=320, width_px=480, t_ns=t_ns,
                x=part.x.astype(np.uint16), y=part.y.astype(np.uint16), polarity=part.polarity.astype(np.uint8),
            ))  # fmt: skip
    log = written(tmp_path / "blink.mcap", {"event/events": packets})
    options = ("--topic", "event/events", "--board", WORD, "--window-ms", "10", "--out", tmp_path / "event.yaml")
    assert run("event", log, *options) == 0
    assert read_camera(tmp_path / "event.yaml").focal_px[0] == pytest.approx(300, rel=0.1)
    assert run("event", log, *options, "--mode", "dream") == 2


def test_a_board_is_drawn_at_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("board", WORD, "--out", tmp_path / "board.png") == 0
    with Pillow.open(tmp_path / "board.png") as picture:
        assert picture.width == pytest.approx((10 * 0.024 + 0.02) / 0.0254 * 300, abs=1)
    assert "260 x 188 mm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("intrinsics", "absent", "--board", WORD, "--out", "x.yaml"), "absent: no such folder"),
        (("intrinsics", ".", "--board", WORD, "--out", "x.yaml"), "no pictures lie there (.png"),
        (("intrinsics", "{tmp}/*.png", "--board", WORD, "--out", "x.yaml"), "no picture matches"),
        (("intrinsics", "{tmp}", "--board", "chess", "--out", "x.yaml"), "not a board"),
        (("intrinsics", "{tmp}", "--board", WORD, "--out", "x.yaml", "--model", "pinhole"), "no such model"),
        (("stereo", "a", "b", "--board", WORD, "--out", "x.yaml", "--names", "left"), "expected two names"),
        (("ground", "absent.mcap", "--topic", "l/points", "--out", "x.yaml", "--place", "1"), "expected x,y,yaw"),
    ],
)
def test_wrong_input_costs_one_line_and_exit_code_two(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*(word.replace("{tmp}", str(tmp_path)) for word in arguments)) == 2
    assert said in capsys.readouterr().err


def test_a_truncated_picture_and_two_sizes_are_named(
    shots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (shots / "left0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    assert run("intrinsics", tmp_path, "--board", WORD, "--out", tmp_path / "x.yaml") == 2
    assert "cut.png: not a whole picture" in capsys.readouterr().err
    (tmp_path / "cut.png").write_bytes(data)
    Pillow.new("L", (100, 80)).save(tmp_path / "small.png")
    assert run("intrinsics", tmp_path, "--board", WORD, "--out", tmp_path / "x.yaml") == 2
    assert "one camera, one size" in capsys.readouterr().err


def test_the_help_names_the_extra_that_pictures_need(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "perception-runtime[camera]" in capsys.readouterr().out.replace("\n", "").replace(" ", "")
