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

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from perception.errors import LogError
from perception.geometry.rig import Rig
from perception.logs.indexed_log import Entry, IndexedLog, picture_size, read_picture, read_points
from perception.logs.kitti_calibration import LIDAR_HEIGHT_M, KittiCalibration
from perception.logs.kitti_oxts import OxtsTrack, gnss_of, imu_of, read_oxts
from perception.messages import Gnss, Header, Image, Imu, Message, Odometry, PointCloud

CAMERAS: Mapping[str, str] = {
    "image_00": "cam_gray_left", "image_01": "cam_gray_right", "image_02": "cam_front", "image_03": "cam_right",
}  # fmt: skip
_FOLDERS = ("velodyne_points", *CAMERAS)
ASSUMED_START_NS = 1_000_000_000


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
            return {int(file.stem): ASSUMED_START_NS + int(file.stem) * period_ns for file in files}, "assumed"
        try:
            lines = listing.read_text().split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise LogError(f"{listing}: cannot be read: {error}") from None
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
    track = OxtsTrack(read_oxts(files[0]), log.calibration)
    stamps = log.times(folder, files)
    return [
        *_entries(stamps, files, "imu/imu", Imu, lambda file, header: imu_of(read_oxts(file), header)),
        *_entries(stamps, files, "gnss/gnss", Gnss, lambda file, header: gnss_of(read_oxts(file), header)),
        *_entries(stamps, files, "ego", Odometry, lambda file, header: track.odometry(read_oxts(file), header)),
    ]


__all__ = ["CAMERAS", "LIDAR_HEIGHT_M", "KittiRawLog", "looks_like_kitti_raw"]
