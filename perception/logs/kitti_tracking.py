"""Read one sequence of KITTI's tracking benchmark.

    velodyne/NNNN/ FFFFFF.bin    image_02/NNNN/ FFFFFF.png (left colour), image_03 (right)
    oxts/NNNN.txt, a line a frame    calib/NNNN.txt    label_02/NNNN.txt, none in the test split

The folder holds many sequences; one is named by its calib/NNNN.txt, or by any other of its files and folders. A folder
with a single sequence is that one. Topics: `lidar/points`, `cam_front/image`, `cam_right/image`, `imu/imu`,
`gnss/gnss`, `ego`, and as truth `truth/objects`, with the ids of the tracks, the number of the sweep's points in each
box, and velocities over ground where the way of the vehicle is known. There are no times: a rate is assumed, the clock
is named "assumed". `base_link` is as in KITTI raw.

Source: the benchmark's development kit (readme.txt of devkit_tracking); Geiger et al., CVPR 2012 and IJRR 2013.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from perception.errors import LogError
from perception.geometry.boxes import Boxes, from_kitti_camera
from perception.geometry.kitti_labels import frame_of
from perception.geometry.rig import Rig
from perception.geometry.transforms import Transform
from perception.logs.indexed_log import Entry, IndexedLog, picture_size
from perception.logs.kitti_calibration import LIDAR_HEIGHT_M, KittiCalibration
from perception.logs.kitti_object import CLASSES, read_camera, read_velodyne
from perception.logs.kitti_oxts import OxtsTrack, gnss_of, imu_of, oxts_of
from perception.logs.true_tracks import velocities_over_ground
from perception.messages import (
    FusedObject,
    Gnss,
    Header,
    Image,
    Imu,
    Message,
    ObjectClass,
    Odometry,
    PointCloud,
    TrackedObjects,
    host,
)

CAMERAS: Mapping[str, str] = {"image_02": "cam_front", "image_03": "cam_right"}
START_NS = 1_000_000_000
_COLUMNS = 17
_FOLDERS, _LISTS = ("velodyne", *CAMERAS), ("calib", "oxts", "label_02")
_NUMBER = re.compile(r"\d{4}")


def tracking_sequences(path: Path) -> list[str]:
    """Return the sequences of a folder of the benchmark; none where it is no such folder."""
    found = {folder.name for kind in _FOLDERS for folder in (path / kind).glob("[0-9]*") if folder.is_dir()}
    found |= {file.stem for kind in ("oxts", "label_02") for file in (path / kind).glob("*.txt")}
    return sorted(name for name in found if _NUMBER.fullmatch(name))


def tracking_sequence(path: Path) -> tuple[Path, str] | None:
    """Return folder and sequence that a path names; None where it is none of this benchmark.

    Raises:
        LogError: it is a folder of several sequences.
    """
    path = path.resolve()
    if path.parent.name in (*_FOLDERS, *_LISTS) and path.stem in tracking_sequences(path.parents[1]):
        return path.parents[1], path.stem
    found = tracking_sequences(path) if path.is_dir() else []
    if len(found) > 1:
        raise LogError(
            f"{path}: {len(found)} sequences of KITTI tracking ({found[0]} to {found[-1]}); "
            f"name one by its calibration: {path / 'calib' / found[0]}.txt"
        )
    return (path, found[0]) if found else None


class KittiTrackingLog(IndexedLog):
    """One sequence.

    Args:
        path: what named it.
        root: the folder of the benchmark.
        sequence: four digits.
        assume_rate_hz: of the frames.

    Raises:
        LogError: it holds nothing, or calibration, oxts or labels that cannot be read.
    """

    FORMAT: ClassVar[str] = "kitti_tracking"

    def __init__(self, path: Path, root: Path, sequence: str, *, assume_rate_hz: float = 10.0) -> None:
        self._root, self.sequence, self._period_ns = root, sequence, round(1e9 / assume_rate_hz)
        self.calibration = KittiCalibration.of_benchmark(root / "calib" / f"{sequence}.txt")
        self._sweeps = _numbered(root / "velodyne" / sequence, "*.bin")
        self._pictures = {camera: _numbered(root / kind / sequence, "*.png") for kind, camera in CAMERAS.items()}
        self._oxts = _oxts(root / "oxts" / f"{sequence}.txt")
        self._way = OxtsTrack(self._oxts[0], self.calibration) if self._oxts else None
        labels, self._missing = root / "label_02" / f"{sequence}.txt", list[str]()
        super().__init__(path, [*self._sensor_entries(), *self._oxts_entries(), *self._truth_entries(labels)])
        self.notes.append(f"no timestamps: {assume_rate_hz:g} Hz assumed, the clock is 'assumed'")
        self.notes += [*self.calibration.notes, *self._missing]

    @cached_property
    def rig(self) -> Rig:
        sizes = {
            camera: picture_size(next(iter(files.values())))[::-1] for camera, files in self._pictures.items() if files
        }
        return self.calibration.rig(f"kitti_tracking_{self.sequence}", sizes)

    def _stamp(self, frame: int) -> int:
        return START_NS + frame * self._period_ns

    def _header(self, frame: int, frame_id: str) -> Header:
        return Header(frame_id=frame_id, t_sensor_ns=self._stamp(frame), clock="assumed", seq=frame)

    def _entry(self, frame: int, topic: str, kind: type[Message], read: Callable[[], Message]) -> Entry:
        return Entry(self._stamp(frame), topic, kind, read)

    def _sensor_entries(self) -> list[Entry]:
        entries = [
            self._entry(k, "lidar/points", PointCloud, partial(read_velodyne, file, self._header(k, "lidar")))
            for k, file in self._sweeps.items()
        ]
        for camera, files in self._pictures.items():
            for k, file in files.items():
                read = partial(read_camera, file, self._header(k, f"{camera}_optical"))
                entries.append(self._entry(k, f"{camera}/image", Image, read))
        return entries

    def _oxts_entries(self) -> list[Entry]:
        entries = []
        for k, numbers in enumerate(self._oxts):
            assert self._way is not None
            entries += [
                self._entry(k, "ego", Odometry, partial(self._way.odometry, numbers, self._header(k, "odom"))),
                self._entry(k, "imu/imu", Imu, partial(imu_of, numbers, self._header(k, "imu"))),
                self._entry(k, "gnss/gnss", Gnss, partial(gnss_of, numbers, self._header(k, "gnss"))),
            ]
        return entries

    def _truth_entries(self, labels: Path) -> list[Entry]:
        if not labels.is_file():
            return []
        if self.calibration.camera_from_velodyne is None:
            self._missing.append(f"{labels}: boxes without a calibration have no place; left out")
            return []
        frame, track, kind, boxes = self._boxes(labels)
        stamps = START_NS + frame * self._period_ns
        velocity = velocities_over_ground(stamps, track, boxes.center_m, self._pose_at)
        frames = set(frame.tolist()) | set(self._sweeps)
        return [
            self._entry(k, "truth/objects", TrackedObjects,
                        partial(self._objects, k, np.flatnonzero(frame == k), (track, kind, boxes, velocity)))
            for k in sorted(frames)
        ]  # fmt: skip

    def _boxes(self, labels: Path) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str], Boxes]:
        """Return frame, track, class and box of each labelled object, in the order of frames."""
        rows = _label_rows(labels)
        frame = np.array([int(words[0]) for words in rows], np.int64)
        track = np.array([int(words[1]) for words in rows], np.int64)
        labelled = frame_of([words[2] for words in rows], _numbers(rows, labels))
        camera = self.calibration.camera_from_velodyne or Transform.identity()
        base_from_lidar = Transform.from_quaternion((0, 0, LIDAR_HEIGHT_M), (0, 0, 0, 1))
        base_from_camera = base_from_lidar @ (self.calibration.rectification @ camera).inverse()
        table = np.hstack((labelled.size_hwl_m, labelled.bottom_m, labelled.rotation_y_rad[:, None]))
        return frame, track, labelled.name.tolist(), from_kitti_camera(table, base_from_camera)

    def _pose_at(self, t_ns: int) -> Transform | None:
        frame = (t_ns - START_NS) // self._period_ns
        known = self._way is not None and 0 <= frame < len(self._oxts)
        return self._way.odom_from_base_link(self._oxts[frame]) if known and self._way is not None else None

    def _objects(
        self,
        frame: int,
        rows: NDArray[np.int64],
        labelled: tuple[NDArray[np.int64], list[str], Boxes, NDArray[np.float64]],
    ) -> TrackedObjects:
        track, kind, boxes, velocity = labelled
        found = Boxes(boxes.center_m[rows], boxes.size_lwh_m[rows], boxes.yaw_rad[rows])
        points = self._points_in(frame, found)
        pose = self._pose_at(self._stamp(frame))
        odom = None if pose is None else (*map(float, pose.translation_m), *map(float, pose.rotation_xyzw))
        objects = []
        for place, row in enumerate(rows.tolist()):
            moves, half = bool(np.isfinite(velocity[row]).all()), float(found.yaw_rad[place]) / 2
            objects.append(FusedObject(
                id=int(track[row]) + 1, existence_probability=1.0, classes=(ObjectClass(kind[row], 1.0),),
                center_m=_triple(found.center_m[place]), size_lwh_m=_triple(found.size_lwh_m[place]),
                rotation_xyzw=(0.0, 0.0, float(np.sin(half)), float(np.cos(half))), has_velocity=moves,
                velocity_mps=_triple(velocity[row]) if moves else None, last_seen_ns=self._stamp(frame),
                sources=("truth",), num_points=int(points[place]),
            ))  # fmt: skip
        return TrackedObjects(
            header=self._header(frame, "base_link"), objects=tuple(objects),
            odom_from_base_link=odom,  # type: ignore[arg-type]
        )  # fmt: skip

    def _points_in(self, frame: int, boxes: Boxes) -> NDArray[np.int64]:
        """Count the sweep's points in each box; none where there is no sweep."""
        file = self._sweeps.get(frame)
        if file is None or not len(boxes.yaw_rad):
            return np.zeros(len(boxes.yaw_rad), np.int64)
        xyz = host(read_velodyne(file, self._header(frame, "lidar")).xyz_m) + np.array((0, 0, LIDAR_HEIGHT_M))
        return np.asarray(boxes.contain(xyz).sum(axis=1), np.int64)


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    return {int(file.stem): file for file in sorted(folder.glob(pattern)) if file.stem.isdigit()}


def _oxts(file: Path) -> list[NDArray[np.float64]]:
    if not file.is_file():
        return []
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LogError(f"{file}: cannot be read: {error}") from None
    return [oxts_of(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _label_rows(labels: Path) -> list[list[str]]:
    """Return the words of each row of a class with an identity, in the order of frames."""
    try:
        rows = [(number, line.split()) for number, line in enumerate(labels.read_text().splitlines(), 1)]
    except (OSError, UnicodeDecodeError) as error:
        raise LogError(f"{labels}: cannot be read: {error}") from None
    kept = []
    for number, words in rows:
        numbered = len(words) >= _COLUMNS and words[0].isdecimal() and words[1].removeprefix("-").isdecimal()
        if words and not (numbered and len(words[0]) <= 6 and len(words[1]) <= 9):
            raise LogError(f"{labels}:{number}: no row of KITTI tracking; expected frame, track, type and 14 numbers")
        if words and int(words[1]) >= 0 and words[2].lower() in CLASSES:
            kept.append(words)
    return sorted(kept, key=lambda words: int(words[0]))


def _numbers(rows: list[list[str]], labels: Path) -> NDArray[np.float64]:
    try:
        table = np.array([[float(word) for word in words[3:_COLUMNS]] for words in rows], np.float64)
    except ValueError as error:
        raise LogError(f"{labels}: {error}") from None
    table = table.reshape(len(rows), _COLUMNS - 3)
    if not np.isfinite(table).all():
        raise LogError(f"{labels}: a number is not finite")
    return table


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


__all__ = ["KittiTrackingLog", "tracking_sequence", "tracking_sequences"]
