"""The pictures of a report show what was wrong, where it was."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from perception.cli.evaluate_pictures import pictures_of
from perception.cli.main import main
from perception.evaluation.camera_pictures import REPORTED, TRUE, WRONG, with_boxes, with_mask
from perception.evaluation.deliveries import Delivered
from perception.evaluation.worst_frames import worst_frames
from perception.geometry.boxes import Boxes
from perception.geometry.cameras import Camera
from perception.geometry.frames import CAMERA_FROM_OPTICAL
from perception.geometry.rig import load_rig
from perception.logs.mcap_writer import McapWriter
from perception.logs.open_log import open_log
from perception.messages import Header, Image, SegmentationMask
from perception.messages.codec import encode
from perception.runtime.launch_file.files import CALIBRATION
from tests.evaluation.test_graph_evaluation import START_NS, TENTH_NS, objects

CAMERA = Camera("plumb_bob", 400, 300, (200.0, 200.0), (199.5, 149.5))
GREY = np.full((300, 400, 3), 90, np.uint8)


def box(x: float, y: float) -> Boxes:
    """A box of 2 m on each side."""
    return Boxes(np.array([[x, y, 0.0]]), np.full((1, 3), 2.0), np.zeros(1))


def pixels(jpeg: bytes | None) -> NDArray[np.int64]:
    assert jpeg is not None
    return np.asarray(Pillow.open(BytesIO(jpeg))).astype(np.int64)


def near(picture: NDArray[np.int64], row: int, column: int, colour: tuple[int, int, int]) -> bool:
    """True where a pixel close by has about that colour; JPEG blurs."""
    part = picture[row - 2 : row + 3, column - 2 : column + 3].reshape(-1, 3)
    return bool((np.abs(part - np.array(colour)).max(axis=1) < 70).any())


def test_the_edges_of_boxes_lie_where_the_camera_sees_them() -> None:
    # The front of a box at 10 m is 9 m away: its corners are 1 m beside the axis, 200 / 9 = 22 pixels.
    picture = pixels(with_boxes(GREY, CAMERA, CAMERA_FROM_OPTICAL.inverse(), box(10.0, 0.0), box(10.0, -4.0)))
    assert near(picture, 149 - 22, 199 + 22, TRUE)
    assert near(picture, 149 + 22, 199 - 22, TRUE)
    assert near(picture, 149, 199 + 22, TRUE)  # the upright edge between them
    assert near(picture, 149, 199 + round(200 * 3 / 9), REPORTED)  # four metres to the right
    assert not near(picture, 149, 199, TRUE)  # nothing fills a box


def test_boxes_behind_the_camera_make_no_picture() -> None:
    assert with_boxes(GREY, CAMERA, CAMERA_FROM_OPTICAL.inverse(), box(-10.0, 0.0), box(-10.0, 3.0)) is None


def test_what_is_wrong_of_a_mask_is_red_beside_it() -> None:
    labels = np.zeros((300, 400), np.uint8)
    wrong = np.zeros((300, 400), bool)
    wrong[100:200, 100:200] = True
    picture = pixels(with_mask(GREY, labels, wrong))
    assert picture.shape == (300, 800, 3)
    red = np.round(0.3 * 90 + 0.7 * np.array(WRONG))
    np.testing.assert_allclose(picture[150, 400 + 150], red, atol=6)
    np.testing.assert_allclose(picture[50, 400 + 50], 90, atol=6)
    assert np.ptp(picture[20:280, 20:380].reshape(-1, 3), axis=0).max() < 6  # on the left one class, one colour


def image(camera: str, place: int, height_px: int, width_px: int) -> Image:
    header = Header(frame_id=f"{camera}_optical", t_sensor_ns=START_NS + place * TENTH_NS, seq=place)
    data = np.full((height_px, width_px, 3), 90, np.uint8)
    return Image(header=header, encoding="rgb8", height_px=height_px, width_px=width_px, data=data)


def test_the_worst_masks_are_shown_in_the_picture_of_their_camera(tmp_path: Path) -> None:
    rig = load_rig(CALIBRATION / "simulated_car")

    def mask(place: int, wrong_rows: int) -> SegmentationMask:
        header = Header(frame_id="cam_left_optical", t_sensor_ns=START_NS + place * TENTH_NS)
        label = np.zeros((20, 30), np.uint8)
        label[:wrong_rows] = 1
        return SegmentationMask(header=header, classes=("road", "car"), label=label)

    truth = [mask(k, 0) for k in range(4)]
    outputs = [Delivered(mask(k, rows), START_NS) for k, rows in enumerate((0, 5, 10, 2))]
    worst = worst_frames(truth, outputs, 2)
    assert [frame.caption.partition(": ")[2] for frame in worst] == ["50.0% wrong", "25.0% wrong"]
    with McapWriter(tmp_path / "log.mcap") as writer:
        for camera in ("cam_front", "cam_left"):
            writer.write(f"{camera}/image", encode(image(camera, 2, 40, 60)).to_bytes(), START_NS + 2 * TENTH_NS)
    shown = pictures_of({"mask": worst}, open_log(tmp_path / "log.mcap"), rig)["mask"]
    assert [len(frame.images) for frame in shown] == [1, 0]  # the log has a picture of the worst instant alone
    assert pixels(shown[0].images[0]).shape == (20, 60, 3)


LAUNCH = """
name: pictures
rig: simulated_car
nodes:
  log: {node: log_replay}
  detector: {node: truth_detector, inputs: {objects: truth/objects}, settings: {missed_share: 1.0}}
outputs:
  detections: {topic: detector/detections}
"""


def test_a_report_shows_missed_boxes_in_the_cameras_that_see_them(tmp_path: Path) -> None:
    camera = load_rig(CALIBRATION / "simulated_car").camera("cam_front")
    with McapWriter(tmp_path / "drive.mcap") as writer:
        for k in range(3):
            truth, picture = objects(k, (1, 12.0, 0.0)), image("cam_front", k, camera.height_px, camera.width_px)
            writer.write("truth/objects", encode(truth).to_bytes(), truth.header.t_sensor_ns)
            writer.write("cam_front/image", encode(picture).to_bytes(), picture.header.t_sensor_ns)
    (tmp_path / "pictures.yaml").write_text(LAUNCH)
    arguments = [tmp_path / "pictures.yaml", "--replay", tmp_path / "drive.mcap", "--out", tmp_path / "report"]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    assert ended.value.code in (0, None)
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3
    assert "1 missed, 0 invented" in page
    assert json.loads((tmp_path / "report" / "report.json").read_text())["outputs"]["detections"]["offline"]["frames"]
