"""Make a rig of the calibration that a foreign log brings, as if it had been read from a rig's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import yaml
from pydantic import ValidationError

from perception.errors import LogError
from perception.geometry.frames import CAMERA_FROM_OPTICAL
from perception.geometry.rig import Rig, rig_of_documents
from perception.geometry.rig_file import CameraFile, LidarFile, RigFile, SensorFile, TransformFile
from perception.geometry.transforms import Transform


@dataclass(frozen=True)
class LogCamera:
    """A camera; without distortion unless coefficients are given, as logs of rectified pictures have it.

    Attributes:
        size_wh_px: width and height.
        focal_px: along columns and rows.
        center_px: column and row of the principal point.
        base_link_from_optical: where it is.
    """

    size_wh_px: tuple[int, int]
    focal_px: tuple[float, float]
    center_px: tuple[float, float]
    base_link_from_optical: Transform
    rate_hz: float
    model: Literal["plumb_bob", "rational_polynomial", "kannala_brandt", "ocam", "double_sphere"] = "plumb_bob"
    coefficients: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class LogLidar:
    """The LiDAR `lidar` of a log."""

    what: LidarFile
    base_link_from_lidar: Transform
    rate_hz: float


def rig_of(name: str, base_link: str, lidar: LogLidar | None, cameras: Mapping[str, LogCamera]) -> Rig:
    """Make the rig and the files that a recording stores of it.

    Raises:
        LogError, GeometryError: numbers that no camera has.
    """
    sensors: dict[str, SensorFile] = {}
    transforms: dict[str, TransformFile] = {}
    intrinsics: dict[str, CameraFile] = {}
    if lidar is not None:
        sensors["lidar"] = SensorFile(kind="lidar", rate_hz=lidar.rate_hz, clock="log", lidar=lidar.what)
        transforms["base_link_from_lidar"] = _written(lidar.base_link_from_lidar)
    for camera, found in cameras.items():
        file = f"{camera}.yaml"
        sensors[camera] = SensorFile(kind="camera", rate_hz=found.rate_hz, clock="log", calibration=file)
        transforms[f"base_link_from_{camera}"] = _written(found.base_link_from_optical @ CAMERA_FROM_OPTICAL.inverse())
        intrinsics[camera] = _camera_file(camera, found)
    document = RigFile(name=name, base_link=base_link, sensors=sensors, transforms=transforms)
    files = {"rig.yaml": _yaml(document)} | {f"{camera}.yaml": _yaml(file) for camera, file in intrinsics.items()}
    return rig_of_documents(document, intrinsics, files)


def _camera_file(name: str, camera: LogCamera) -> CameraFile:
    try:
        return CameraFile(
            model=camera.model, width_px=camera.size_wh_px[0], height_px=camera.size_wh_px[1],
            focal_px=camera.focal_px, center_px=camera.center_px, coefficients=camera.coefficients,
        )  # fmt: skip
    except ValidationError as error:
        what = "; ".join(f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors())
        raise LogError(f"the log's calibration of {name} is of no camera: {what}") from None


def rig_of_event_cameras(clocks: Mapping[str, str]) -> Rig:
    """Make the rig of a recording of event cameras, by the clock of each: no calibration, each where base_link is."""
    document = RigFile(
        name="event_recording", base_link="the camera itself: the recording tells no calibration",
        sensors={
            camera: SensorFile(kind="event_camera", rate_hz=100.0, clock=clock) for camera, clock in clocks.items()
        },
        transforms={f"base_link_from_{camera}": _written(Transform.identity()) for camera in clocks},
    )  # fmt: skip
    return rig_of_documents(document, {}, {"rig.yaml": _yaml(document)})


def _written(transform: Transform) -> TransformFile:
    x, y, z = (float(value) for value in transform.translation_m)
    qx, qy, qz, qw = (float(value) for value in transform.rotation_xyzw)
    return TransformFile(translation_m=(x, y, z), rotation_xyzw=(qx, qy, qz, qw))


def _yaml(document: RigFile | CameraFile) -> bytes:
    return yaml.safe_dump(document.model_dump(mode="json", exclude_defaults=True), sort_keys=False).encode()


__all__ = ["LogCamera", "LogLidar", "rig_of", "rig_of_event_cameras"]
