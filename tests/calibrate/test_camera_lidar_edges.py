"""A camera is laid on a LiDAR by the edges that both see, in a simulated drive whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from perception.calibrate.bump.estimate import displaced, motion_between
from perception.calibrate.calibration_file import read_extrinsics
from perception.calibrate.camera_lidar_edges import prior_of
from perception.cli.main import main
from perception.geometry.rig import load_rig
from perception.geometry.transforms import Transform

DEGREE = np.radians(1.0)


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "camera-lidar", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def guessed(folder: Path, truth: Path, *step: float) -> Path:
    """Write the rig of a folder with another place of the camera: turned (rad) and displaced (m) in base_link."""
    document = yaml.safe_load((truth / "rig.yaml").read_text())
    place = displaced(load_rig(truth).base_link_from("cam_front"), np.array(step))
    document["transforms"]["base_link_from_cam_front"] = {
        "translation_m": place.translation_m.tolist(), "rotation_xyzw": place.rotation_xyzw.tolist()}  # fmt: skip
    folder.mkdir()
    (folder / "rig.yaml").write_text(yaml.safe_dump(document))
    (folder / "cam_front.yaml").write_bytes((truth / "cam_front.yaml").read_bytes())
    return folder


def test_a_guess_that_is_off_by_most_of_a_degree_is_turned_back(drive: tuple[Path, Path], tmp_path: Path) -> None:
    launch, log = drive
    truth = load_rig(launch.parent / "rig").base_link_from("cam_front_optical")
    rig = guessed(tmp_path / "rig", launch.parent / "rig", 0.6 * DEGREE, -0.8 * DEGREE, 0.9 * DEGREE, 0, 0, 0)
    out = tmp_path / "edges.yaml"
    assert run(log, rig, "--camera", "cam_front", "--lidar", "lidar", "--only", "rotation", "--out", out) == 0
    found = read_extrinsics(out)
    place = found.transforms["base_link_from_cam_front_optical"]
    assert place.rotation_xyzw is not None
    off = motion_between(truth, Transform.from_quaternion(place.translation_m, place.rotation_xyzw))
    assert np.abs(off[:3]).max() < 0.25 * DEGREE
    np.testing.assert_allclose(off[3:], 0.0, atol=1e-4)
    assert found.record is not None
    assert found.record.uncertainty["rotation_rad"] < 0.5 * DEGREE
    assert "data:image/jpeg;base64" in out.with_suffix(".html").read_text()


def test_a_scene_that_leaves_an_axis_open_is_refused_with_its_name(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten pictures within a second of real driving, one street: they do not tell the camera's place to 5 cm."""
    log = data_folder / "kitti_raw_seq"
    assert run(log, log, "--camera", "cam_front", "--lidar", "lidar", "--out", tmp_path / "x.yaml") == 2
    said = capsys.readouterr().err
    assert "the scene does not tell the camera's" in said
    assert "--only rotation" in said
    assert not (tmp_path / "x.yaml").exists()


def test_what_boards_tell_goes_into_the_axes_of_the_vehicle() -> None:
    """A camera that looks ahead: unsure along its view (z) is unsure along x of base_link."""
    ahead = Transform.from_quaternion((0, 0, 0), (-0.5, 0.5, -0.5, 0.5))  # base_link from optical
    covariance = np.diag([0.001, 0.001, 0.001, 0.01, 0.01, 0.5]) ** 2
    along = np.sqrt(np.diag(np.linalg.inv(prior_of(covariance, ahead))))
    np.testing.assert_allclose(along[3:], [0.5, 0.0104, 0.0104], rtol=0.01)
