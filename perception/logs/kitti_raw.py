"""Read KITTI raw drives: the official `<date>/<date>_drive_<n>_sync` layout, and subsets of it.

Geiger et al., "Vision meets Robotics: The KITTI Dataset", IJRR 2013, and the development kit's readme. Velodyne points
are float32 x, y, z, reflectance (0 to 1) with x forward, y left, z up; pictures are rectified. Topics: `lidar/points`,
`cam_front/image` (image_02, left colour), `cam_right/image` (03), `cam_gray_left/image` (00), `cam_gray_right/image`
(01), and from oxts `imu/imu`, `gnss/gnss` and `ego`.

`base_link` is on the road below the Velodyne, axes as the Velodyne's; the sensor is 1.73 m above the road (the
recording platform's drawing). A sweep's stamp is the end of its turn (`timestamps_end.txt`), the drive's times are
taken as UTC. Without timestamps the rate is assumed, the clock is named "assumed", and all sensors share the instants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from perception.errors import LogError
from perception.geometry.rig import Rig
from perception.logs.indexed_log import Entry, IndexedLog, picture_size, read_picture, read_points
from perception.logs.kitti_calibration import LIDAR_HEIGHT_M, KittiCalibration
from perception.logs.poses import pose_fields, rigid
from perception.messages import Gnss, Header, Image, Imu, Message, Odometry, PointCloud

CAMERAS: Mapping[str, str] = {
    "image_00": "cam_gray_left", "image_01": "cam_gray_right", "image_02": "cam_front", "image_03": "cam_right",
}  # fmt: skip
_FOLDERS = ("velodyne_points", *CAMERAS)
_EARTH_RADIUS_M = 6_378_137.0
_ASSUMED_START_NS = 1_000_000_000


def looks_like_kitti_raw(path: Path) -> bool:
    """True where a folder has KITTI raw's sensor folders."""
    return any((path / folder).is_dir() for folder in _FOLDERS)


class KittiRawLog(IndexedLog):
    """One drive.

    Raises:
        LogError: no sensor files, or times or calibration that cannot be read.
    """

    FORMAT: ClassVar[str] = "kitti_raw"

    def __init__(self, path: Path, *, assume_rate_hz: float = 10.0) -> None:
        self._assume_rate_hz = assume_rate_hz
        self._assumed: list[str] = []
        self.calibration = KittiCalibration.of_drive(path)
        entries = _lidar(path, self) + _cameras(path, self) + _oxts(path, self)
        super().__init__(path, entries)
        if self._assumed:
            self.notes.append(
                f"no timestamps for {', '.join(self._assumed)}: {assume_rate_hz:g} Hz assumed, the clock is 'assumed'"
            )
        self.notes.extend(self.calibration.notes)

    @cached_property
    def rig(self) -> Rig:
        sizes = {
            camera: picture_size(files[0])[::-1]
            for folder, camera in CAMERAS.items()
            if (files := _files(self.path / folder, "*.png"))
        }
        return self.calibration.rig(self.path.name, sizes)

    def times(self, folder: Path, files: list[Path], name: str = "timestamps.txt") -> tuple[dict[int, int], str]:
        """Return the stamp by file number, and the clock."""
        listing = folder / name
        if not files:
            return {}, "log"
        if not listing.is_file():
            self._assumed.append(folder.name)
            period_ns = round(1e9 / self._assume_rate_hz)
            return {int(file.stem): _ASSUMED_START_NS + int(file.stem) * period_ns for file in files}, "assumed"
        lines = listing.read_text().split("\n")
        return {number: _stamp(line, listing, number + 1) for number, line in enumerate(lines) if line.strip()}, "log"


def _files(folder: Path, pattern: str) -> list[Path]:
    data = folder / "data"
    files = sorted((data if data.is_dir() else folder).glob(pattern))
    return [file for file in files if file.stem.isdigit()]


def _stamp(line: str, listing: Path, number: int) -> int:
    """Read "2011-09-26 13:02:25.964389445"; nine decimals, which datetime cannot hold."""
    whole, _, fraction = line.strip().partition(".")
    try:
        second = datetime.strptime(whole, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        return int(second.timestamp()) * 1_000_000_000 + int(fraction.ljust(9, "0")[:9] or 0)
    except ValueError:
        raise LogError(
            f"{listing}:{number}: '{line.strip()[:40]}' is no time; expected one like 2011-09-26 13:02:25.964389445"
        ) from None


def _entries(
    stamps_of: tuple[dict[int, int], str],
    files: list[Path],
    topic: str,
    message_type: type[Message],
    read: Callable[[Path, Header], Message],
) -> list[Entry]:
    stamps, clock = stamps_of
    frame = topic.partition("/")[0]
    entries = []
    for file in files:
        t_ns = stamps.get(int(file.stem))
        if t_ns is None:
            raise LogError(
                f"{file.parent.parent} has no time for {file.name}; expected a line per file, the first for 0000000000"
            )
        header = Header(frame_id=frame, t_sensor_ns=t_ns, clock=clock, seq=int(file.stem))
        entries.append(Entry(t_ns, topic, message_type, partial(read, file, header)))
    return entries


def _lidar(path: Path, log: KittiRawLog) -> list[Entry]:
    folder = path / "velodyne_points"
    listing = "timestamps_end.txt" if (folder / "timestamps_end.txt").is_file() else "timestamps.txt"
    files = _files(folder, "*.bin")
    return _entries(log.times(folder, files, listing), files, "lidar/points", PointCloud, _read_sweep)


def _cameras(path: Path, log: KittiRawLog) -> list[Entry]:
    entries: list[Entry] = []
    for folder, camera in CAMERAS.items():
        files = _files(path / folder, "*.png")
        stamps = log.times(path / folder, files)
        entries += _entries(stamps, files, f"{camera}/image", Image, partial(_read_image, camera))
    return entries


def _read_sweep(file: Path, header: Header) -> PointCloud:
    rows = read_points(file, 4)
    xyz, intensity = np.ascontiguousarray(rows[:, :3]), np.ascontiguousarray(rows[:, 3])
    return PointCloud(header=header, xyz_m=xyz, intensity=intensity)


def _read_image(camera: str, file: Path, header: Header) -> Image:
    pixels = read_picture(file)
    header = Header(frame_id=f"{camera}_optical", t_sensor_ns=header.t_sensor_ns, clock=header.clock, seq=header.seq)
    encoding: Literal["mono8", "rgb8"] = "mono8" if pixels.ndim == 2 else "rgb8"
    return Image(header=header, encoding=encoding, height_px=pixels.shape[0], width_px=pixels.shape[1], data=pixels)


def _oxts(path: Path, log: KittiRawLog) -> list[Entry]:
    folder = path / "oxts"
    files = _files(folder, "*.txt")
    if not files:
        return []
    first = _oxts_numbers(files[0])
    scale = math.cos(math.radians(first[0]))
    base_from_imu = log.calibration.base_link_from_imu().matrix
    odom_from_base0 = _odom_from_imu(first, scale) @ np.linalg.inv(base_from_imu)
    stamps = log.times(folder, files)

    def odometry(file: Path, header: Header) -> Odometry:
        numbers = _oxts_numbers(file)
        pose = np.linalg.inv(odom_from_base0) @ _odom_from_imu(numbers, scale) @ np.linalg.inv(base_from_imu)
        linear, angular = base_from_imu[:3, :3] @ numbers[8:11], base_from_imu[:3, :3] @ numbers[17:20]
        linear = linear - np.cross(angular, base_from_imu[:3, 3])  # from the IMU's place to base_link's
        header = Header(frame_id="odom", t_sensor_ns=header.t_sensor_ns, clock=header.clock, seq=header.seq)
        translation, rotation = pose_fields(rigid(pose))
        return Odometry(
            header=header, translation_m=translation, rotation_xyzw=rotation,
            velocity_mps=_triple(linear), angular_velocity_radps=_triple(angular),
        )  # fmt: skip

    return [
        *_entries(stamps, files, "imu/imu", Imu, _read_imu),
        *_entries(stamps, files, "gnss/gnss", Gnss, _read_gnss),
        *_entries(stamps, files, "ego", Odometry, odometry),
    ]


def _oxts_numbers(file: Path) -> NDArray[np.float64]:
    try:
        numbers = np.array([float(word) for word in file.read_text().split()])
    except (OSError, ValueError) as error:
        raise LogError(f"{file}: not an oxts packet: {error}") from None
    if len(numbers) != 30 or not np.isfinite(numbers[:23]).all():
        raise LogError(f"{file}: {len(numbers)} numbers; an oxts packet has 30 finite ones")
    return numbers


def _odom_from_imu(numbers: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Return the pose on a Mercator plane, as the development kit does; one scale for the whole drive."""
    latitude, longitude, altitude, roll, pitch, yaw = numbers[:6]
    pose = np.eye(4)
    pose[:3, 3] = (
        scale * _EARTH_RADIUS_M * math.radians(longitude),
        scale * _EARTH_RADIUS_M * math.log(math.tan(math.radians(90 + latitude) / 2)),
        altitude,
    )
    (sr, cr), (sp, cp), (sy, cy) = ((math.sin(a), math.cos(a)) for a in (roll, pitch, yaw))
    pose[:3, :3] = (
        np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
        @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
        @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    )
    return pose


def _read_imu(file: Path, header: Header) -> Imu:
    numbers = _oxts_numbers(file)
    return Imu(header=header, angular_velocity_radps=_triple(numbers[17:20]), acceleration_mps2=_triple(numbers[11:14]))


def _read_gnss(file: Path, header: Header) -> Gnss:
    numbers = _oxts_numbers(file)
    north, east, up = numbers[6], numbers[7], numbers[10]
    return Gnss(
        header=header, latitude_deg=float(numbers[0]), longitude_deg=float(numbers[1]), altitude_m=float(numbers[2]),
        velocity_enu_mps=(float(east), float(north), float(up)), heading_rad=float(numbers[5]),
    )  # fmt: skip


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


__all__ = ["CAMERAS", "LIDAR_HEIGHT_M", "KittiRawLog", "looks_like_kitti_raw"]
