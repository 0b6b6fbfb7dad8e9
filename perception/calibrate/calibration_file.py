"""Our calibration files: intrinsics beside a rig.yaml, and transforms for it, with the record of how they were made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from perception.errors import UserError
from perception.geometry.cameras import Camera
from perception.geometry.rig import parse_file
from perception.geometry.rig_file import CalibrationRecord, CameraFile, ExtrinsicsFile, FileModel, TransformFile
from perception.geometry.transforms import Transform

RADIANS = 3.141592653589793 / 180


def camera_file(camera: Camera, serial: str = "", record: CalibrationRecord | None = None) -> CameraFile:
    """Return the file of a camera's intrinsics; the record gets their hash."""
    angle = camera.max_angle_rad
    file = CameraFile(
        model=camera.model, serial=serial, width_px=camera.width_px, height_px=camera.height_px,
        focal_px=camera.focal_px, center_px=camera.center_px, coefficients=camera.coefficients,
        max_angle_deg=None if angle is None else angle / RADIANS,
    )  # fmt: skip
    return file if record is None else file.model_copy(update={"record": _hashed(record, file)})


def camera_of(file: CameraFile) -> Camera:
    """Return the camera of a file. Raises GeometryError for numbers that no camera has."""
    angle = None if file.max_angle_deg is None else file.max_angle_deg * RADIANS
    return Camera(file.model, file.width_px, file.height_px, file.focal_px, file.center_px, file.coefficients, angle)


def extrinsics_file(
    transforms: Mapping[str, Transform], record: CalibrationRecord, offset_ms: Mapping[str, float] | None = None
) -> ExtrinsicsFile:
    """Return the file of transforms by keys such as `base_link_from_lidar`; the record gets their hash."""
    written = {key: written_transform(value) for key, value in transforms.items()}
    file = ExtrinsicsFile(transforms=written, offset_ms=dict(offset_ms or {}), record=record)
    return file.model_copy(update={"record": _hashed(record, file)})


def written_transform(transform: Transform) -> TransformFile:
    """Return a transform as a file writes it."""
    x, y, z = (float(value) for value in transform.translation_m)
    qx, qy, qz, qw = (float(value) for value in transform.rotation_xyzw)
    return TransformFile(translation_m=(x, y, z), rotation_xyzw=(qx, qy, qz, qw))


def content_hash(file: FileModel) -> str:
    """Return sixteen hexadecimal digits of everything in a file but its record."""
    numbers: dict[str, Any] = file.model_dump(mode="json", exclude={"record"}, exclude_defaults=True)
    canonical = json.dumps(numbers, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def write_calibration(path: Path, file: CameraFile | ExtrinsicsFile, comment: str = "") -> None:
    """Write a file. Raises UserError where it cannot be."""
    document = file.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=110)
    try:
        path.write_text(f"# {comment}\n{text}" if comment else text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def read_camera(path: Path) -> Camera:
    """Read a file of intrinsics.

    Raises:
        UserError: it is missing, or its numbers were changed after they were calibrated.
        LaunchFileError: it is no file of intrinsics.
        GeometryError: numbers that no camera has.
    """
    return camera_of(read_camera_file(path))


def read_camera_file(path: Path) -> CameraFile:
    """Read a file of intrinsics with its record. Raises as `read_camera`."""
    file = parse_file(_bytes(path), CameraFile, str(path))
    _check_hash(path, file, file.record)
    return file


def read_extrinsics(path: Path) -> ExtrinsicsFile:
    """Read a file of transforms. Raises as `read_camera`."""
    file = parse_file(_bytes(path), ExtrinsicsFile, str(path))
    _check_hash(path, file, file.record)
    return file


def _check_hash(path: Path, file: FileModel, record: CalibrationRecord | None) -> None:
    if record is not None and record.content_hash != (found := content_hash(file)):
        raise UserError(
            f"{path}: its numbers were changed after calibration (hash {found}, recorded {record.content_hash}); "
            "calibrate again, or remove `record` to say that they are yours"
        )


def _hashed(record: CalibrationRecord, file: FileModel) -> CalibrationRecord:
    return record.model_copy(update={"content_hash": content_hash(file)})


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


__all__ = [
    "camera_file", "camera_of", "content_hash", "extrinsics_file", "read_camera", "read_camera_file",
    "read_extrinsics", "write_calibration", "written_transform",
]  # fmt: skip
