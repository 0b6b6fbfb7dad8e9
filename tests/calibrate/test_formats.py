"""Calibrations of other tools: what their files hold, and the way there and back."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import yaml

from perception.calibrate.calibration_file import camera_file, read_camera, write_calibration
from perception.calibrate.formats import autoware, kalibr, kitti, nuscenes, ocamcalib, opencv, own, ros
from perception.calibrate.formats.calibration import Calibration
from perception.cli.main import main
from perception.errors import UserError
from perception.geometry.cameras import Camera
from perception.geometry.rig_file import CalibrationRecord
from perception.geometry.transforms import Transform
from tests.geometry.test_cameras import BROWN, FISHEYE, PLAIN, RATIONAL, SPHERE, UNREALEGO

FOUR = Camera("plumb_bob", 752, 480, (458.6, 457.3), (367.2, 248.4), (-0.283, 0.074, 0.0002, 1.76e-05))
SHIFT = Transform.from_quaternion((-0.11, 0.002, 0.003), np.array([0.01, -0.02, 0.03, 1.0]) / np.sqrt(1.0014))
CASES: list[tuple[ModuleType, str, Calibration]] = [
    (kalibr, "camchain.yaml", Calibration(
        {"cam0": FOUR, "cam1": FISHEYE, "cam2": SPHERE},
        {"cam1_optical_from_cam0_optical": SHIFT, "cam0_optical_from_imu": SHIFT.inverse()}, {"cam0": -3.25})),
    (ros, "camera_info.yaml", Calibration({"front": BROWN})),
    (ros, "camera_info.yaml", Calibration({"front": RATIONAL})),
    (ros, "camera_info.yaml", Calibration({"front": FISHEYE})),
    (nuscenes, "calibrated_sensor.json", Calibration(
        {"cam_front": Camera("plumb_bob", 1600, 900, (1266.4, 1266.4), (816.3, 491.5))},
        {"base_link_from_cam_front_optical": SHIFT, "base_link_from_lidar_top": SHIFT.inverse()})),
    (kitti, "calib_cam_to_cam.txt", Calibration(
        {"cam0": BROWN, "cam1": BROWN}, {"cam1_optical_from_cam0_optical": SHIFT, "cam0_optical_from_lidar": SHIFT})),
    (autoware, "sensor_kit_calibration.yaml", Calibration(
        {}, {"sensor_kit_base_link_from_camera0/camera_link": SHIFT, "sensor_kit_base_link_from_velodyne_top": SHIFT})),
    (ocamcalib, "calib_results.txt", Calibration({"calib_results": UNREALEGO})),
    (opencv, "camera.yaml", Calibration({"front": BROWN})),
    (opencv, "camera.yaml", Calibration({"front": RATIONAL})),
    (opencv, "camera.yaml", Calibration({"front": FISHEYE})),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "calibration"), CASES)
def test_a_calibration_comes_back_from_its_file(
    module: ModuleType, name: str, calibration: Calibration, tmp_path: Path
) -> None:
    module.write(tmp_path / name, calibration)
    back = module.read(tmp_path / name)
    assert back.cameras == calibration.cameras
    assert set(back.transforms) == set(calibration.transforms)
    for key, transform in calibration.transforms.items():
        np.testing.assert_allclose(back.transforms[key].matrix, transform.matrix, atol=1e-12)
    assert back.offset_ms == pytest.approx(calibration.offset_ms)


def test_our_own_files_come_back_with_every_model(tmp_path: Path) -> None:
    cameras = {"a": BROWN, "b": RATIONAL, "c": FISHEYE, "d": SPHERE, "e": UNREALEGO}
    own.write(tmp_path / "rig", Calibration(cameras, {"a_optical_from_b_optical": SHIFT}, {"a": 1.5}))
    for name, camera in cameras.items():
        assert read_camera(tmp_path / "rig" / f"{name}.yaml") == camera
    back = own.read(tmp_path / "rig" / "transforms.yaml")
    np.testing.assert_allclose(back.transforms["a_optical_from_b_optical"].matrix, SHIFT.matrix, atol=1e-12)
    assert back.offset_ms == {"a": 1.5}


def test_kalibr_says_where_the_second_camera_is_as_its_documentation_does(tmp_path: Path) -> None:
    """T_cn_cnm1 takes points of cam0 to cam1: a camera 11 cm to the right has x = -0.11."""
    entry = {"camera_model": "pinhole", "intrinsics": [461, 460, 362, 246], "distortion_model": "radtan",
             "distortion_coeffs": [-0.27, 0.06, 0, 0], "resolution": [752, 480]}  # fmt: skip
    shift = [[1, 0, 0, -0.11], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    (tmp_path / "chain.yaml").write_text(
        yaml.safe_dump({"cam0": entry, "cam1": entry | {"T_cn_cnm1": shift, "timeshift_cam_imu": 0.0125}})
    )
    found = kalibr.read(tmp_path / "chain.yaml")
    np.testing.assert_allclose(
        found.transforms["cam1_optical_from_cam0_optical"].apply(np.zeros((1, 3))), [[-0.11, 0, 0]]
    )
    assert found.offset_ms == {"cam1": 12.5}


def test_opencv_reads_what_we_write_and_we_read_what_opencv_writes(tmp_path: Path) -> None:
    opencv.write(tmp_path / "ours.yaml", Calibration({"front": BROWN}))
    storage = cv2.FileStorage(str(tmp_path / "ours.yaml"), cv2.FILE_STORAGE_READ)
    np.testing.assert_allclose(storage.getNode("camera_matrix").mat()[0], [500.0, 0, 321.0])
    np.testing.assert_allclose(storage.getNode("distortion_coefficients").mat().ravel(), BROWN.coefficients)
    storage.release()
    writer = cv2.FileStorage(str(tmp_path / "theirs.yaml"), cv2.FILE_STORAGE_WRITE)
    writer.write("image_width", 640)
    writer.write("image_height", 480)
    writer.write("camera_matrix", np.array([[500.0, 0, 321.0], [0, 510.0, 239.0], [0, 0, 1.0]]))
    writer.write("distortion_coefficients", np.array([BROWN.coefficients]))
    writer.release()
    assert opencv.read(tmp_path / "theirs.yaml").cameras["theirs"] == BROWN


def test_roll_pitch_yaw_of_autoware_turn_about_fixed_axes(tmp_path: Path) -> None:
    file = tmp_path / "kit.yaml"
    quarter = np.pi / 2
    entry = f"{{x: 1.0, y: 0.0, z: 2.0, roll: {quarter}, pitch: 0, yaw: {quarter}}}"
    file.write_text(f"sensor_kit_base_link:\n  lidar: {entry}\n")
    found = autoware.read(file).transforms["sensor_kit_base_link_from_lidar"]
    # roll first: y becomes z; then yaw turns about the parent's z, which leaves it
    np.testing.assert_allclose(found.apply(np.array([[0.0, 1.0, 0.0]])), [[1.0, 0.0, 3.0]], atol=1e-12)
    straight_up = Calibration({}, {"a_from_b": Transform.from_quaternion((0, 0, 0), (0, -(0.5**0.5), 0, 0.5**0.5))})
    autoware.write(file, straight_up)
    np.testing.assert_allclose(autoware.read(file).transforms["a_from_b"].matrix,
                               straight_up.transforms["a_from_b"].matrix, atol=1e-7)  # fmt: skip


def test_the_real_files_of_the_shared_recordings_are_read(data_folder: Path, tmp_path: Path) -> None:
    document = json.loads((data_folder / "unrealego" / "fisheye_calibration_UEP.json").read_text())
    row, column = document["image_center"][1], document["image_center"][0]
    direct, inverse = document["polynomialC2W"], document["polynomialW2C"]
    lines = ["# direct", " ".join(map(str, (len(direct), *direct))), "# inverse",
             " ".join(map(str, (len(inverse), *inverse))), "# centre", f"{row} {column}", "# affine",
             " ".join(map(str, document["affine"])), "# size", "1024 1024"]  # fmt: skip
    (tmp_path / "calib_results.txt").write_text("\n".join(lines))
    camera = ocamcalib.read(tmp_path / "calib_results.txt").cameras["calib_results"]
    assert camera.center_px == (column, row)
    assert camera.coefficients == UNREALEGO.coefficients
    files = [data_folder / "euroc_micro" / "mav0" / f"cam{n}" / "sensor.yaml" for n in (0, 1)]
    sensors = [yaml.safe_load(file.read_text().split("\n", 1)[1]) for file in files]
    body_from = [np.array(sensor["T_BS"]["data"]).reshape(4, 4) for sensor in sensors]
    chain = {
        f"cam{n}": {"camera_model": "pinhole", "distortion_model": "radtan", "intrinsics": sensor["intrinsics"],
                    "distortion_coeffs": sensor["distortion_coefficients"], "resolution": sensor["resolution"],
                    "T_cam_imu": np.linalg.inv(body).tolist(),
                    **({"T_cn_cnm1": (np.linalg.inv(body) @ body_from[0]).tolist()} if n else {})}
        for n, (sensor, body) in enumerate(zip(sensors, body_from, strict=True))
    }  # fmt: skip
    (tmp_path / "euroc.yaml").write_text(yaml.safe_dump(chain))
    euroc = kalibr.read(tmp_path / "euroc.yaml")
    baseline = np.linalg.norm(euroc.transforms["cam1_optical_from_cam0_optical"].translation_m)
    assert baseline == pytest.approx(0.11, abs=0.001)  # the VI-sensor's stereo pair


@pytest.mark.parametrize(
    ("module", "name", "calibration", "said"),
    [
        (kalibr, "c.yaml", Calibration({"a": RATIONAL}), "no rational_polynomial"),
        (ros, "c.yaml", Calibration({"a": SPHERE}), "no double_sphere"),
        (ros, "c.yaml", Calibration({"a": PLAIN, "b": PLAIN}), "holds one camera"),
        (nuscenes, "c.json", Calibration({"a": BROWN}), "rectified cameras only"),
        (kitti, "c.txt", Calibration({"a": FISHEYE}), "no kannala_brandt"),
        (autoware, "c.yaml", Calibration({"a": BROWN}), "has none"),
        (ocamcalib, "c.txt", Calibration({"a": BROWN}), "not plumb_bob"),
        (opencv, "c.yaml", Calibration({"a": UNREALEGO}), "no ocam"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    module: ModuleType, name: str, calibration: Calibration, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        module.write(tmp_path / name, calibration)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("module", [kalibr, ros, nuscenes, kitti, autoware, ocamcalib, opencv, own])
@pytest.mark.parametrize("text", ["", "[1, 2", "a: 1\n", "\x00\x01", "- 1\n"])
def test_files_that_are_none_are_one_clear_error(module: ModuleType, text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(Exception, match=r"x\.yaml"):
        module.read(tmp_path / "x.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        module.read(tmp_path / "absent.yaml")


def test_numbers_changed_after_calibration_are_noticed(tmp_path: Path) -> None:
    record = CalibrationRecord(method="test", date="2026-01-01", content_hash="")
    write_calibration(tmp_path / "cam.yaml", camera_file(BROWN, "s1", record))
    assert read_camera(tmp_path / "cam.yaml") == BROWN
    text = (tmp_path / "cam.yaml").read_text()
    (tmp_path / "cam.yaml").write_text(text.replace("500.0", "501.0", 1))
    with pytest.raises(UserError, match="changed after calibration"):
        read_camera(tmp_path / "cam.yaml")


def test_the_command_converts_and_names_unknown_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kalibr.write(tmp_path / "chain.yaml", Calibration({"cam0": FOUR}))
    for arguments, code in (
        ([str(tmp_path / "chain.yaml"), str(tmp_path / "rig"), "--from", "kalibr"], 0),
        ([str(tmp_path / "rig" / "cam0.yaml"), str(tmp_path / "info.yaml"), "--from", "perception", "--to", "ros"], 0),
        ([str(tmp_path / "chain.yaml"), str(tmp_path / "x"), "--from", "calibr"], 2),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["calibrate", "convert", *arguments])
        assert ended.value.code == code
    assert ros.read(tmp_path / "info.yaml").cameras["cam0"] == FOUR
    assert "Did you mean 'kalibr'?" in capsys.readouterr().err
