"""A rig: sensors, their frames and their intrinsics, read from a folder of `calibration/`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from perception.errors import GeometryError, LaunchFileError, did_you_mean
from perception.geometry.cameras import Camera
from perception.geometry.frames import CAMERA_FROM_OPTICAL, FrameTree
from perception.geometry.rig_file import CameraFile, LidarFile, RigFile, SensorKind
from perception.geometry.transforms import Transform

FileT = TypeVar("FileT", bound=BaseModel)


@dataclass(frozen=True)
class Sensor:
    """One sensor of the rig; `camera` for cameras, `lidar` for LiDARs."""

    name: str
    kind: SensorKind
    rate_hz: float
    frame: str
    """Frame of its messages: `<name>_optical` for cameras."""
    clock: str = "host"
    camera: Camera | None = None
    lidar: LidarFile | None = None
    serial: str = ""
    exposure_ms: float = 0.0


@dataclass(frozen=True)
class Rig:
    """Sensors by name, and the static frame tree."""

    name: str
    sensors: Mapping[str, Sensor]
    frames: FrameTree
    files: Mapping[str, bytes] = field(default_factory=dict)
    """The files it was read from or would be written as; they go into recordings."""

    @cached_property
    def content_hash(self) -> str:
        """Sixteen hexadecimal digits of everything that a number in a message can depend on."""
        canonical = json.dumps(rig_document(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def sensor(self, name: str) -> Sensor:
        """Return a sensor.

        Raises:
            GeometryError: the rig has no such sensor.
        """
        try:
            return self.sensors[name]
        except KeyError:
            raise GeometryError(
                f"rig '{self.name}' has no sensor '{name}'.{did_you_mean(name, self.sensors)}"
            ) from None

    def base_link_from(self, frame: str) -> Transform:
        """Return base_link_from_frame; GeometryError where there is no such frame."""
        return self.frames.base_link_from(frame)

    def transform(self, target: str, source: str) -> Transform:
        """Return target_from_source for two frames of the static tree."""
        return self.frames.transform(target, source)

    def camera(self, name: str) -> Camera:
        """Return the intrinsics of a camera.

        Raises:
            GeometryError: the sensor is missing or no camera.
        """
        camera = self.sensor(name).camera
        if camera is None:
            raise GeometryError(f"sensor '{name}' of rig '{self.name}' has no intrinsics")
        return camera

    def sensor_of_frame(self, frame: str) -> Sensor | None:
        """Return the sensor whose messages stand in a frame."""
        return next((sensor for sensor in self.sensors.values() if sensor.frame == frame), None)


def rig_document(rig: Rig) -> dict[str, object]:
    """Return the rig as plain numbers and words, independent of how its files were written."""
    return {
        "sensors": {name: _sensor_document(sensor) for name, sensor in sorted(rig.sensors.items())},
        "transforms": {
            f"{parent}_from_{child}": [*_rounded(rig.frames.transforms[child])]
            for child, parent in sorted(rig.frames.parents.items())
        },
    }


def _sensor_document(sensor: Sensor) -> dict[str, object]:
    camera = sensor.camera
    intrinsics = None if camera is None else {key: getattr(camera, key) for key in camera.__dataclass_fields__}
    lidar = None if sensor.lidar is None else sensor.lidar.model_dump(mode="json")
    return {
        "kind": sensor.kind, "rate_hz": sensor.rate_hz, "frame": sensor.frame, "clock": sensor.clock,
        "serial": sensor.serial, "camera": intrinsics, "lidar": lidar,
    }  # fmt: skip


def _rounded(transform: Transform) -> list[float]:
    return [round(float(value), 9) for value in (*transform.translation_m, *transform.rotation_xyzw)]


def load_rig(folder: Path) -> Rig:
    """Read a rig's folder.

    Raises:
        LaunchFileError: a file is missing, is no YAML, or has unknown keys or wrong types; all faults of it at once.
        GeometryError: numbers that no rig has.
    """
    rig_yaml = folder / "rig.yaml"
    if not rig_yaml.is_file():
        raise LaunchFileError(f"{folder}: no rig is there; expected a folder with rig.yaml")
    files = {file.name: file.read_bytes() for file in sorted(folder.glob("*.yaml"))}
    return rig_from_files(files, str(folder))


def rig_from_files(files: Mapping[str, bytes], where: str) -> Rig:
    """Make a rig from its files by name; `where` is named in errors. Raises as `load_rig`."""
    if "rig.yaml" not in files:
        raise LaunchFileError(f"{where}: no rig.yaml among its files")
    document = parse_file(files["rig.yaml"], RigFile, f"{where}/rig.yaml")
    cameras: dict[str, CameraFile] = {}
    for name, sensor in document.sensors.items():
        if sensor.calibration:
            if sensor.calibration not in files:
                raise LaunchFileError(
                    f"{where}: sensor '{name}' names the file {sensor.calibration}, which is not there"
                )
            cameras[name] = parse_file(files[sensor.calibration], CameraFile, f"{where}/{sensor.calibration}")
    used = {"rig.yaml", *(sensor.calibration for sensor in document.sensors.values() if sensor.calibration)}
    return rig_of_documents(document, cameras, {name: files[name] for name in sorted(used)})


def rig_of_documents(document: RigFile, cameras: Mapping[str, CameraFile], files: Mapping[str, bytes]) -> Rig:
    """Make a rig from parsed files: the rig's, and the intrinsics by sensor. Raises GeometryError."""
    edges = {edge_of(key): _transform(key, value) for key, value in document.transforms.items()}
    children = {child for _, child in edges}
    sensors: dict[str, Sensor] = {}
    for name, entry in document.sensors.items():
        frame = entry.frame or name
        if entry.kind in ("camera", "event_camera"):
            optical = f"{frame}_optical"
            if optical not in children:
                edges[(frame, optical)] = CAMERA_FROM_OPTICAL
            frame = optical
        sensors[name] = Sensor(
            name=name, kind=entry.kind, rate_hz=entry.rate_hz, frame=frame, clock=entry.clock, lidar=entry.lidar,
            camera=_camera(cameras[name]) if name in cameras else None, serial=entry.serial,
            exposure_ms=entry.exposure_ms,
        )  # fmt: skip
    return Rig(document.name, sensors, FrameTree.of(edges), files)


def edge_of(key: str) -> tuple[str, str]:
    """Return (parent, child) of a key such as "base_link_from_lidar".

    Raises:
        GeometryError: the key names no direction.
    """
    parent, found, child = key.partition("_from_")
    if not (parent and found and child) or "_from_" in child:
        raise GeometryError(f"transform '{key}' does not say its direction; expected a name like base_link_from_lidar")
    return parent, child


def _transform(key: str, value: object) -> Transform:
    from perception.geometry.rig_file import TransformFile

    assert isinstance(value, TransformFile)
    try:
        if value.rotation_matrix is not None:
            columns = [[*row, t] for row, t in zip(value.rotation_matrix, value.translation_m, strict=True)]
            return Transform.from_matrix(columns, tolerance=1e-3)
        assert value.rotation_xyzw is not None
        return Transform.from_quaternion(value.translation_m, value.rotation_xyzw)
    except GeometryError as error:
        raise GeometryError(f"transform '{key}': {error}") from None


def _camera(file: CameraFile) -> Camera:
    return Camera(
        model=file.model, width_px=file.width_px, height_px=file.height_px, focal_px=file.focal_px,
        center_px=file.center_px, coefficients=file.coefficients,
        max_angle_rad=None if file.max_angle_deg is None else file.max_angle_deg * 3.141592653589793 / 180,
    )  # fmt: skip


def parse_file(data: bytes, model: type[FileT], where: str) -> FileT:
    """Parse YAML into a file model.

    Raises:
        LaunchFileError: no YAML, unknown keys or wrong types; all faults, a line each.
    """
    try:
        document = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise LaunchFileError(f"{where}: not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise LaunchFileError(f"{where}: expected keys and values, found {type(document).__name__}")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        faults = [f"{where}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise LaunchFileError("\n".join(faults)) from None


__all__ = ["Rig", "Sensor", "edge_of", "load_rig", "parse_file", "rig_document", "rig_from_files", "rig_of_documents"]
