"""The files of a rig's folder as they are written: `rig.yaml`, and one file of intrinsics per camera.

    name: my_car
    base_link: on the road, below the middle of the rear axle
    sensors:
      lidar: {kind: lidar, rate_hz: 10, lidar: {rings: 32, range_m: [1, 100], vertical_fov_deg: [-25, 15]}}
      cam_front: {kind: camera, rate_hz: 5, serial: "1234", calibration: cam_front.yaml}
    transforms:
      base_link_from_lidar: {translation_m: [1.0, 0.0, 1.8], rotation_xyzw: [0, 0, 0, 1]}
      base_link_from_cam_front: {translation_m: [1.7, 0.0, 1.5], rotation_xyzw: [0, 0, 0, 1]}

A camera's frame `<name>` has x forward; `<name>_optical` hangs on it by definition and is not written, unless
`cam_front_from_cam_front_optical` or a transform of `<name>_optical` is given.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SensorKind = Literal["camera", "lidar", "event_camera", "imu", "gnss", "odometry"]
Pair = tuple[float, float]
Row = tuple[float, float, float]


class FileModel(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class CalibrationRecord(FileModel):
    """How numbers were calibrated, and how good they are; `perception calibrate` writes it."""

    method: str
    date: str
    """ISO 8601."""
    source: str = ""
    """What it was calibrated from."""
    views: int = 0
    """Pictures, sweeps or samples that were used."""
    residual: dict[str, float] = {}
    """What the fit leaves, unit in the name."""
    coverage: dict[str, float] = {}
    """How much of the sensor's field the data covered, 0 to 1, and angles that it spanned."""
    uncertainty: dict[str, float] = {}
    """Standard deviations, unit in the name."""
    complaints: tuple[str, ...] = ()
    """What is poor, and what to do; empty is good."""
    content_hash: str
    """Sixteen hexadecimal digits of the numbers that were calibrated."""


class TransformFile(FileModel):
    """One transform; its key says the direction."""

    translation_m: tuple[float, float, float]
    rotation_xyzw: tuple[float, float, float, float] | None = None
    rotation_matrix: tuple[Row, Row, Row] | None = None
    """Instead of the quaternion, row by row."""

    @model_validator(mode="after")
    def _one_rotation(self) -> Self:
        if (self.rotation_xyzw is None) == (self.rotation_matrix is None):
            raise ValueError("a transform has rotation_xyzw or rotation_matrix, one of them")
        return self


class CameraFile(FileModel):
    """Intrinsics of one camera: `<camera>.yaml` in the rig's folder."""

    model: Literal["plumb_bob", "rational_polynomial", "kannala_brandt", "ocam", "double_sphere"]
    serial: str = ""
    """Serial number of the camera that was calibrated; must be the sensor's where both are given."""
    width_px: Annotated[int, Field(gt=0, le=32768)]
    height_px: Annotated[int, Field(gt=0, le=32768)]
    focal_px: Pair
    center_px: Pair
    coefficients: tuple[float, ...] = ()
    max_angle_deg: Annotated[float, Field(gt=0, le=180)] | None = None
    record: CalibrationRecord | None = None


class LidarFile(FileModel):
    """What a LiDAR measures."""

    rings: Annotated[int, Field(gt=0, le=4096)]
    range_m: Pair
    vertical_fov_deg: Pair
    horizontal_fov_deg: Pair = (-180.0, 180.0)
    intensity_scale: Literal[1, 255] = 1
    """Intensity of a full-scale return."""
    point_times: bool = True
    has_ring: bool = True
    has_intensity: bool = True
    has_elongation: bool = False
    beams_deg: tuple[float, ...] | None = None
    """The beam table: elevation of each ring, ring 0 first; by default evenly spaced in `vertical_fov_deg`."""
    columns: Annotated[int, Field(gt=0, le=65536)] = 900
    """Firings per turn."""

    @model_validator(mode="after")
    def _a_beam_per_ring(self) -> Self:
        if self.beams_deg is not None and len(self.beams_deg) != self.rings:
            raise ValueError(f"beams_deg has {len(self.beams_deg)} elevations for {self.rings} rings")
        return self


class ImageSize(FileModel):
    """Size of the pictures that a driver delivers."""

    width_px: Annotated[int, Field(gt=0, le=32768)]
    height_px: Annotated[int, Field(gt=0, le=32768)]


class SensorFile(FileModel):
    """One sensor."""

    kind: SensorKind
    rate_hz: Annotated[float, Field(gt=0, le=100_000)]
    clock: str = "host"
    """Clock of its stamps; sensors of different clocks are only joined where `clocks:` of the launch file ties them."""
    serial: str = ""
    frame: str = ""
    """Its frame; by default its name."""
    image: ImageSize | None = None
    """Size of its pictures; by default the calibration's."""
    calibration: str = ""
    """File of intrinsics, beside rig.yaml."""
    lidar: LidarFile | None = None
    exposure_ms: Annotated[float, Field(ge=0)] = 0.0


class RigFile(FileModel):
    """`rig.yaml`."""

    name: str
    base_link: str = ""
    """Where base_link is on this car, in words."""
    sensors: Annotated[dict[str, SensorFile], Field(min_length=1)]
    transforms: dict[str, TransformFile] = {}


class ExtrinsicsFile(FileModel):
    """Calibrated transforms, for `transforms:` of a rig.yaml, and clock offsets, for `offset_ms` of a launch file."""

    transforms: dict[str, TransformFile] = {}
    offset_ms: dict[str, float] = {}
    """Added to the stamps of a topic, it lays them on those of the other."""
    record: CalibrationRecord


__all__ = [
    "CalibrationRecord",
    "CameraFile",
    "ExtrinsicsFile",
    "FileModel",
    "ImageSize",
    "LidarFile",
    "RigFile",
    "SensorFile",
    "SensorKind",
    "TransformFile",
]
