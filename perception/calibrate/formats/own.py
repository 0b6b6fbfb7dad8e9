"""Our own files: a rig's folder, a file of intrinsics, a file of transforms; written as a folder of such files."""

from __future__ import annotations

from pathlib import Path

from perception.calibrate.calibration_file import (
    camera_file,
    extrinsics_file,
    read_camera,
    read_extrinsics,
    write_calibration,
)
from perception.calibrate.formats.calibration import Calibration, yaml_of
from perception.errors import UserError
from perception.geometry.rig import load_rig
from perception.geometry.rig_file import CalibrationRecord
from perception.geometry.transforms import Transform


def read(path: Path) -> Calibration:
    """Read a rig's folder, or a single file. Raises UserError and what reading a rig raises."""
    if path.is_dir():
        rig = load_rig(path)
        cameras = {name: sensor.camera for name, sensor in rig.sensors.items() if sensor.camera is not None}
        transforms = {f"base_link_from_{sensor.frame}": rig.base_link_from(sensor.frame)
                      for sensor in rig.sensors.values() if sensor.kind not in ("odometry",)}  # fmt: skip
        return Calibration(cameras, transforms)
    if "model" in yaml_of(path):
        return Calibration({path.stem: read_camera(path)})
    file = read_extrinsics(path)
    found = Calibration(offset_ms=dict(file.offset_ms))
    for key, value in file.transforms.items():
        assert value.rotation_xyzw is not None
        found.transforms[key] = Transform.from_quaternion(value.translation_m, value.rotation_xyzw)
    return found


def write(path: Path, calibration: Calibration, source: str = "", date: str = "") -> None:
    """Write a folder: one file per camera, and transforms.yaml. Raises UserError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made: {error.strerror}") from None
    record = CalibrationRecord(method="imported", date=date, source=source, content_hash="")
    for name, camera in calibration.cameras.items():
        write_calibration(path / f"{name}.yaml", camera_file(camera, record=record))
    if calibration.transforms or calibration.offset_ms:
        file = extrinsics_file(calibration.transforms, record, calibration.offset_ms)
        write_calibration(path / "transforms.yaml", file)


__all__ = ["read", "write"]
