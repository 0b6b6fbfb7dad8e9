"""The KITTI sequences: better than AB3DMOT with the same detections, though it was given the vehicle's motion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from perception.errors import UserError
from perception.evaluation.tracking import evaluate_tracking
from perception.tracking.kitti import track_kitti
from perception.tracking.kitti_files import Projection, read_detections, result_rows

DETECTION = "0,2,100,100,200,200,5.0,1.5,1.8,4.0,2.0,1.6,20.0,-1.57,-1.6"
P2 = "P2: 700 0 600 0 0 700 180 0 0 0 1 0\n"


def test_the_tracker_is_above_ab3dmot(data_folder: Path, tmp_path: Path) -> None:
    """Above its sAMOTA and MOTA for cars, within a point for pedestrians and cyclists, at both overlaps."""
    data = data_folder / "kitti_tracking_3d"
    track_kitti(data / "detection", data / "calib", tmp_path)
    found = evaluate_tracking("ab3dmot", data / "label", tmp_path)
    expected = json.loads((data / "expected_ab3dmot.json").read_text())
    for overlap in ("3D IoU 0.25", "3D IoU 0.5"):
        for name, allowed in (("Car", 0.0), ("Pedestrian", 1.0), ("Cyclist", 1.0)):
            for figure in ("sAMOTA", "MOTA"):
                ours, theirs = found[overlap][name][figure], expected[overlap][name][figure]
                assert ours > theirs - allowed, (overlap, name, figure)


def test_a_detection_comes_out_where_it_went_in(tmp_path: Path) -> None:
    file = tmp_path / "0000.txt"
    file.write_text(DETECTION)
    found = read_detections([file])
    assert found.center_m.tolist() == [[20.0, -2.0, pytest.approx(-0.85)]]  # x forward, y left, z up
    boxes = np.column_stack((found.center_m, found.size_lwh_m, found.yaw_rad))
    (line,) = result_rows(found.frame, np.array([3]), found.label, boxes, found.box_px, found.score)
    words = line.split()
    assert words[:3] == ["0", "3", "Car"]
    np.testing.assert_allclose(
        np.array(words[6:], np.float64), [100, 100, 200, 200, 1.5, 1.8, 4, 2, 1.6, 20, -1.57, 5], atol=1e-6
    )


def test_results_of_other_tools_are_read_as_detections(tmp_path: Path) -> None:
    comma, rows = tmp_path / "a.txt", tmp_path / "b.txt"
    comma.write_text(DETECTION)
    rows.write_text("0 9 Car 0 0 -1.6 100 100 200 200 1.5 1.8 4.0 2.0 1.6 20.0 -1.57 5.0\n0 1 DontCare" + " -1" * 14)
    one, other = read_detections([comma]), read_detections([rows])
    for name in ("frame", "label", "score", "box_px", "center_m", "size_lwh_m", "yaw_rad", "alpha_rad"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name))


def test_a_box_straight_ahead_is_seen_in_the_middle() -> None:
    camera = Projection(np.array([[700.0, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]]))
    corners = np.array([[[10.0, y, z] for y in (-1, 1) for z in (-1, 1)] * 2])
    np.testing.assert_allclose(camera.boxes(corners, 1200, 360), [[530, 110, 670, 250]])
    view = camera.field_of_view(1200)
    assert view.contains(np.array([[10.0, 8.5], [10.0, 8.7], [-10.0, 0.0]])).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("text", "calibration", "expected"),
    [
        ("0,2,100", P2, "0000.txt:1: 3 columns; expected 15 numbers with commas between"),
        (DETECTION.replace("20.0", "nan"), P2, "expected finite numbers"),
        (DETECTION.replace("0,2,", "0,9,"), P2, "class 1, 2 or 3"),
        (DETECTION, "P0: 1 2 3\n", "has no line P2"),
        (DETECTION, "P2: 1 2 3\n", "P2 is not 12 numbers"),
        (DETECTION, None, "has no 0000.txt"),
    ],
    ids=["columns", "nan", "class", "no P2", "short P2", "no calibration"],
)
def test_faulty_files_are_told(tmp_path: Path, text: str, calibration: str | None, expected: str) -> None:
    detections, folder = tmp_path / "detections", tmp_path / "calib"
    detections.mkdir()
    folder.mkdir()
    (detections / "0000.txt").write_text(text)
    if calibration is not None:
        (folder / "0000.txt").write_text(calibration)
    with pytest.raises(UserError) as error:
        track_kitti(detections, folder, tmp_path / "out")
    assert expected in str(error.value)


def test_a_sequence_without_detections_gives_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "calib").mkdir()
    (tmp_path / "calib" / "0000.txt").write_text(P2)
    (tmp_path / "0000.txt").write_text("")
    track_kitti(tmp_path / "0000.txt", tmp_path / "calib", tmp_path / "out")
    assert (tmp_path / "out" / "0000.txt").read_text() == ""
