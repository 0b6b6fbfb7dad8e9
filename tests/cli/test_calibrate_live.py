"""Calibration from a running publisher: another process sends pictures of a board while the commands listen."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from perception.calibrate.boards import Board
from perception.calibrate.calibration_file import camera_file, read_camera, read_extrinsics, write_calibration
from perception.geometry.transforms import Transform
from tests.calibrate.rendering import poses, rendered
from tests.calibrate.test_intrinsics import PINHOLE
from tests.cli.test_calibrate import run

WORD = "chessboard:9x6:0.024"
SENDER = """
import sys, time
from pathlib import Path
import numpy as np
from PIL import Image as Pillow
from perception.messages import Header, Image
from perception.messages.codec import encode
from perception.runtime.publisher import Publisher

folder, endpoint = Path(sys.argv[1]), sys.argv[2]
count = len(list(folder.glob("left*.png")))
publisher, seq = Publisher(endpoint), 0
print("ready", flush=True)
while True:
    publisher.greet()
    for side in ("left", "right"):
        grey = np.array(Pillow.open(folder / f"{side}{seq % count}.png"))
        header = Header(frame_id=f"cam_{side}_optical", t_sensor_ns=10**9 + seq * 10**8, seq=seq, schema=Image.SCHEMA)
        message = Image(header=header, encoding="mono8", height_px=grey.shape[0], width_px=grey.shape[1], data=grey)
        publisher.publish(f"cam_{side}/image", encode(message).to_bytes())
    seq += 1
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a process sends a board in a pair of cameras, the right one 8 cm to the right, ten times a second."""
    folder = tmp_path_factory.mktemp("live")
    board = Board.parse(WORD)
    for index, pose in enumerate(poses(board, 5, 0.42, seed=2, spread=0.1)):
        shifted = Transform(pose.translation_m - np.array([0.08, 0.0, 0.0]), pose.rotation_xyzw)
        for side, at in (("left", pose), ("right", shifted)):
            Pillow.fromarray(rendered(board, PINHOLE, at)).save(folder / f"{side}{index}.png")
    address = f"ipc://{folder}/graph.ipc"
    with subprocess.Popen([sys.executable, "-c", SENDER, folder, address], stdout=subprocess.PIPE, text=True) as sender:
        assert sender.stdout is not None
        assert sender.stdout.readline() == "ready\n"
        yield address
        sender.kill()


def test_a_camera_is_calibrated_from_a_running_graph(endpoint: str, tmp_path: Path) -> None:
    out = tmp_path / "cam.yaml"
    given = ("--topic", "cam_left/image", "--board", WORD, "--seconds", "2", "--out", out)
    assert run("intrinsics", endpoint, *given) == 0
    assert read_camera(out).focal_px[0] == pytest.approx(300, rel=0.03)


def test_a_pair_is_calibrated_from_both_topics_at_once(endpoint: str, tmp_path: Path) -> None:
    write_calibration(tmp_path / "cam.yaml", camera_file(PINHOLE))
    known = ("--left-camera", tmp_path / "cam.yaml", "--right-camera", tmp_path / "cam.yaml")
    topics = ("--left-topic", "cam_left/image", "--right-topic", "cam_right/image")
    out = tmp_path / "stereo.yaml"
    assert run("stereo", endpoint, endpoint, *topics, "--board", WORD, "--seconds", "2", "--out", out, *known) == 0
    found = read_extrinsics(out).transforms["cam_right_optical_from_cam_left_optical"]
    np.testing.assert_allclose(found.translation_m, (-0.08, 0, 0), atol=0.002)


def test_a_topic_that_is_not_sent_is_answered_with_those_that_are(
    endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--board", WORD, "--seconds", "1", "--out", tmp_path / "x.yaml")
    assert run("intrinsics", endpoint, "--topic", "cam_lift/image", *given) == 2
    said = capsys.readouterr().err
    assert "nothing came on 'cam_lift/image'" in said
    assert "Did you mean 'cam_left/image'?" in said
    assert run("ground", endpoint, "--topic", "cam_left/image", "--seconds", "2", "--out", tmp_path / "x.yaml") == 2
    assert "carries Image, expected PointCloud" in capsys.readouterr().err
    assert run("intrinsics", f"ipc://{tmp_path}/none.ipc", "--topic", "cam/image", *given) == 2
    assert "is the graph running?" in capsys.readouterr().err
