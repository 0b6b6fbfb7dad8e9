"""Read EuRoC MAV sequences (ASL layout): mav0/cam0, cam1 ..., imu0, and the ground truth of the state.

Burri et al., "The EuRoC micro aerial vehicle datasets", IJRR 2016. `base_link` is the dataset's body frame, whose axes
are those of its inertial unit, not forward, left, up. Topics: `cam0/image`, ..., `imu/imu`, `ego` of the ground truth.
"""

from __future__ import annotations

import csv
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import yaml

from perception.errors import LogError
from perception.geometry.rig import Rig
from perception.geometry.transforms import Transform
from perception.logs.indexed_log import Entry, IndexedLog, read_picture
from perception.logs.log_rig import LogCamera, rig_of
from perception.logs.poses import rigid
from perception.messages import Header, Image, Imu, Odometry

_MODELS: dict[str, tuple[Literal["plumb_bob", "kannala_brandt"], int]] = {
    "radial-tangential": ("plumb_bob", 5), "equidistant": ("kannala_brandt", 4),
}  # fmt: skip


def euroc_folder(path: Path) -> Path | None:
    """Return the folder with cam0 and imu0 of a sequence, None where there is none."""
    return next((f for f in (path / "mav0", path) if (f / "cam0" / "sensor.yaml").is_file()), None)


class EurocLog(IndexedLog):
    """One sequence.

    Raises:
        LogError: a listing or a sensor.yaml cannot be read.
    """

    FORMAT: ClassVar[str] = "euroc"

    def __init__(self, path: Path) -> None:
        folder = euroc_folder(path)
        assert folder is not None
        self._folder = folder
        self._cameras = sorted(p.name for p in folder.glob("cam*") if (p / "sensor.yaml").is_file())
        entries: list[Entry] = []
        for camera in self._cameras:
            for k, row in enumerate(_rows(folder / camera / "data.csv")):
                header = Header(frame_id=f"{camera}_optical", t_sensor_ns=int(row[0]), clock="log", seq=k)
                file = folder / camera / "data" / row[1].strip()
                entries.append(Entry(int(row[0]), f"{camera}/image", Image, partial(_image, file, header)))
        for k, row in enumerate(_rows(folder / "imu0" / "data.csv")):
            header = Header(frame_id="imu", t_sensor_ns=int(row[0]), clock="log", seq=k)
            entries.append(Entry(int(row[0]), "imu/imu", Imu, partial(_imu, row, header)))
        for k, row in enumerate(_rows(folder / "state_groundtruth_estimate0" / "data.csv")):
            header = Header(frame_id="odom", t_sensor_ns=int(row[0]), clock="log", seq=k)
            entries.append(Entry(int(row[0]), "ego", Odometry, partial(_state, row, header)))
        super().__init__(path, entries)
        self.notes.append("base_link is EuRoC's body frame, whose axes are the inertial unit's")

    @cached_property
    def rig(self) -> Rig:
        cameras = {camera: _camera(self._folder / camera / "sensor.yaml") for camera in self._cameras}
        return rig_of(self.path.resolve().name, "the body frame of EuRoC", None, cameras)


def _rows(file: Path) -> list[list[str]]:
    if not file.is_file():
        return []
    try:
        rows = [row for row in csv.reader(file.read_text().splitlines()) if row and not row[0].startswith("#")]
        for row in rows:
            int(row[0])
            if len(row) < 2:
                raise ValueError(f"'{row[0]}' stands alone")
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise LogError(f"{file}: expected rows that begin with nanoseconds: {error}") from None
    return rows


def _image(file: Path, header: Header) -> Image:
    pixels = read_picture(file)
    encoding: Literal["mono8", "rgb8"] = "mono8" if pixels.ndim == 2 else "rgb8"
    return Image(header=header, encoding=encoding, height_px=pixels.shape[0], width_px=pixels.shape[1], data=pixels)


def _imu(row: list[str], header: Header) -> Imu:
    wx, wy, wz, ax, ay, az = _numbers(row, 1, 7)
    return Imu(header=header, angular_velocity_radps=(wx, wy, wz), acceleration_mps2=(ax, ay, az))


def _state(row: list[str], header: Header) -> Odometry:
    x, y, z, qw, qx, qy, qz, vx, vy, vz = _numbers(row, 1, 11)
    pose = Transform.from_quaternion((x, y, z), (qx, qy, qz, qw))
    velocity = pose.inverse().rotate(np.array([[vx, vy, vz]]))[0]
    qx, qy, qz, qw = (float(value) for value in pose.rotation_xyzw)
    return Odometry(
        header=header, translation_m=(x, y, z), rotation_xyzw=(qx, qy, qz, qw),
        velocity_mps=(float(velocity[0]), float(velocity[1]), float(velocity[2])),
    )  # fmt: skip


def _numbers(row: list[str], start: int, end: int) -> list[float]:
    try:
        values = [float(word) for word in row[start:end]]
    except ValueError as error:
        raise LogError(f"row at {row[0]} ns: {error}") from None
    if len(values) != end - start or not np.isfinite(values).all():
        raise LogError(f"row at {row[0]} ns: {len(values)} numbers; expected {end - start} finite ones")
    return values


def _camera(file: Path) -> LogCamera:
    try:
        # OpenCV begins its files with a directive that is no YAML.
        document = yaml.safe_load(file.read_text().replace("%YAML:1.0", "", 1))
        pose = rigid(np.array(document["T_BS"]["data"], np.float64).reshape(4, 4))
        fx, fy, cx, cy = (float(value) for value in document["intrinsics"])
        model, count = _MODELS[document["distortion_model"]]
        given = [float(value) for value in document["distortion_coefficients"]]
        width, height = (int(value) for value in document["resolution"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise LogError(f"{file}: is no camera of EuRoC: {type(error).__name__}: {error}") from None
    coefficients = tuple((given + [0.0] * count)[:count])
    rate_hz = float(document.get("rate_hz", 20))
    return LogCamera((width, height), (fx, fy), (cx, cy), pose, rate_hz, model, coefficients)


__all__ = ["EurocLog", "euroc_folder"]
