"""Read KITTI's object benchmark, and SemanticKITTI: folders of single frames or of a sequence.

    object           velodyne/ NNNNNN.bin, image_2/ NNNNNN.png, calib/ NNNNNN.txt, label_2/ NNNNNN.txt
    SemanticKITTI    velodyne/ NNNNNN.bin, labels/ NNNNNN.label, calib.txt, times.txt, poses.txt

Topics: `lidar/points`, `cam_front/image`, and as truth `truth/objects` (boxes of label_2 in `base_link`) or
`truth/lidar/painted` (points with their class); `ego` where there are poses. Object frames are single shots of
different drives: each has its own calibration, by which its boxes are placed; the rig takes the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from perception.errors import LogError, UserError
from perception.geometry.boxes import from_kitti_camera
from perception.geometry.kitti_labels import read_frame
from perception.geometry.rig import Rig
from perception.geometry.transforms import Transform
from perception.logs.indexed_log import Entry, IndexedLog, picture_size, read_picture, read_points
from perception.logs.kitti_calibration import LIDAR_HEIGHT_M, KittiCalibration
from perception.logs.poses import pose_fields, rigid
from perception.messages import Detections3D, Header, Image, Odometry, PaintedPoints, PointCloud

CLASSES = ("car", "van", "truck", "pedestrian", "person_sitting", "cyclist", "tram", "misc")
_START_NS = 1_000_000_000
SEMANTIC_CLASSES: Mapping[int, str] = {
    10: "car", 11: "bicycle", 13: "bus", 15: "motorcycle", 16: "on-rails", 18: "truck", 20: "other-vehicle",
    30: "person", 31: "bicyclist", 32: "motorcyclist", 40: "road", 44: "parking", 48: "sidewalk", 49: "other-ground",
    50: "building", 51: "fence", 52: "other-structure", 60: "lane-marking", 70: "vegetation", 71: "trunk",
    72: "terrain", 80: "pole", 81: "traffic-sign", 99: "other-object", 252: "car", 253: "bicyclist", 254: "person",
    255: "motorcyclist", 256: "on-rails", 257: "bus", 258: "truck", 259: "other-vehicle",
}  # fmt: skip
"""SemanticKITTI's raw labels; those that move bear the name of their kind."""
_NAMES = tuple(dict.fromkeys(SEMANTIC_CLASSES.values()))


def looks_like_kitti_object(path: Path) -> bool:
    """True where a folder has KITTI object's or SemanticKITTI's sweeps."""
    return any((path / folder).is_dir() for folder in ("velodyne", "velodyne_reduced"))


class KittiObjectLog(IndexedLog):
    """One folder; its frames stand at the assumed rate, or at the times of times.txt.

    Raises:
        LogError: it holds no sweep, or times or poses that cannot be read.
    """

    FORMAT: ClassVar[str] = "kitti_object"

    def __init__(self, path: Path, *, assume_rate_hz: float = 10.0) -> None:
        sweeps = sorted(
            file
            for folder in ("velodyne", "velodyne_reduced")
            for file in (path / folder).glob("*.bin")
            if file.stem.isdigit()
        )
        stamps, clock = _stamps(path, sweeps, assume_rate_hz)
        poses = _poses(path, len(sweeps))
        self._calibrations: dict[str, KittiCalibration] = {}
        entries = []
        for place, (file, t_ns) in enumerate(zip(sweeps, stamps, strict=True)):
            head = partial(Header, t_sensor_ns=t_ns, clock=clock, seq=place)
            entries += self._frame_entries(path, file, head, t_ns)
            if poses is not None:
                entries.append(Entry(t_ns, "ego", Odometry, partial(self._ego, poses[place], head(frame_id="odom"))))
        self.path = path
        super().__init__(path, entries)
        if clock == "assumed":
            self.notes.append(f"no times.txt: {assume_rate_hz:g} Hz assumed, the clock is 'assumed'")

    def _frame_entries(self, path: Path, sweep: Path, head: partial[Header], t_ns: int) -> list[Entry]:
        entries = [Entry(t_ns, "lidar/points", PointCloud, partial(read_velodyne, sweep, head(frame_id="lidar")))]
        picture = path / "image_2" / f"{sweep.stem}.png"
        if picture.is_file():
            read = partial(read_camera, picture, head(frame_id="cam_front_optical"))
            entries.append(Entry(t_ns, "cam_front/image", Image, read))
        labels = path / "label_2" / f"{sweep.stem}.txt"
        if labels.is_file():
            read_boxes = partial(self._boxes, labels, head(frame_id="base_link"))
            entries.append(Entry(t_ns, "truth/objects", Detections3D, read_boxes))
        semantic = path / "labels" / f"{sweep.stem}.label"
        if semantic.is_file():
            painted = partial(_painted, sweep, semantic, head(frame_id="lidar"))
            entries.append(Entry(t_ns, "truth/lidar/painted", PaintedPoints, painted))
        return entries

    @cached_property
    def rig(self) -> Rig:
        first = next(entry for entry in self._entries if entry.topic == "lidar/points")
        stem = first.read.args[0].stem if isinstance(first.read, partial) else ""
        pictures = sorted((self.path / "image_2").glob("*.png"))
        sizes = {"cam_front": picture_size(pictures[0])[::-1]} if pictures else {}
        return self._calibration(stem).rig(self.path.resolve().name, sizes)

    def _calibration(self, stem: str) -> KittiCalibration:
        if stem not in self._calibrations:
            file = self.path / "calib" / f"{stem}.txt"
            found = file if file.is_file() else self.path / "calib.txt"
            self._calibrations[stem] = KittiCalibration.of_benchmark(found)
        return self._calibrations[stem]

    def _boxes(self, labels: Path, header: Header) -> Detections3D:
        try:
            frame = read_frame(labels, scored=False)
        except UserError as error:
            raise LogError(str(error)) from None
        kept = np.flatnonzero([name in CLASSES for name in frame.name])
        calibration = self._calibration(labels.stem)
        if calibration.camera_from_velodyne is None:
            raise LogError(f"{labels}: boxes without a calibration have no place")
        base_from_lidar = Transform.from_quaternion((0, 0, LIDAR_HEIGHT_M), (0, 0, 0, 1))
        base_from_camera = base_from_lidar @ (calibration.rectification @ calibration.camera_from_velodyne).inverse()
        rows = np.hstack((frame.size_hwl_m, frame.bottom_m, frame.rotation_y_rad[:, None]))[kept]
        boxes = from_kitti_camera(rows, base_from_camera)
        return Detections3D(
            header=header, classes=CLASSES, center_m=boxes.center_m.astype(np.float32),
            size_lwh_m=boxes.size_lwh_m.astype(np.float32), yaw_rad=boxes.yaw_rad.astype(np.float32),
            score=np.ones(len(kept), np.float32),
            label=np.array([CLASSES.index(str(frame.name[k])) for k in kept], np.uint16),
        )  # fmt: skip

    def _ego(self, odom_from_camera: NDArray[np.float64], header: Header) -> Odometry:
        """Return the vehicle's pose; the file's are of the left camera, relative to its first."""
        calibration = self._calibration("")
        camera = calibration.camera_from_velodyne or Transform.identity()
        camera_from_base = (calibration.rectification @ camera).matrix @ _up(-LIDAR_HEIGHT_M)
        pose = np.linalg.inv(camera_from_base) @ odom_from_camera @ camera_from_base
        translation, rotation = pose_fields(rigid(pose))
        return Odometry(header=header, translation_m=translation, rotation_xyzw=rotation)


def _up(height_m: float) -> NDArray[np.float64]:
    moved = np.eye(4)
    moved[2, 3] = height_m
    return moved


def _stamps(path: Path, sweeps: list[Path], rate_hz: float) -> tuple[list[int], str]:
    listing = path / "times.txt"
    if not listing.is_file():
        return [_START_NS + round(int(file.stem) * 1e9 / rate_hz) for file in sweeps], "assumed"
    try:
        times = [float(word) for word in listing.read_text().split()]
        return [_START_NS + round(times[int(file.stem)] * 1e9) for file in sweeps], "log"
    except (ValueError, IndexError, OSError) as error:
        raise LogError(f"{listing}: expected seconds, a line a sweep: {error}") from None


def _poses(path: Path, count: int) -> list[NDArray[np.float64]] | None:
    file = path / "poses.txt"
    if not file.is_file():
        return None
    try:
        rows = np.loadtxt(file, ndmin=2).reshape(-1, 3, 4)
    except (ValueError, OSError) as error:
        raise LogError(f"{file}: expected twelve numbers a line: {error}") from None
    if len(rows) < count:
        raise LogError(f"{file}: {len(rows)} poses for {count} sweeps")
    return [np.vstack((row, (0, 0, 0, 1))) for row in rows]


def read_velodyne(file: Path, header: Header) -> PointCloud:
    rows = read_points(file, 4)
    return PointCloud(
        header=header, xyz_m=np.ascontiguousarray(rows[:, :3]), intensity=np.ascontiguousarray(rows[:, 3])
    )


def read_camera(file: Path, header: Header) -> Image:
    pixels = read_picture(file)
    encoding: Literal["mono8", "rgb8"] = "mono8" if pixels.ndim == 2 else "rgb8"
    return Image(header=header, encoding=encoding, height_px=pixels.shape[0], width_px=pixels.shape[1], data=pixels)


def _painted(sweep: Path, labels: Path, header: Header) -> PaintedPoints:
    rows = read_points(sweep, 4)
    data = labels.read_bytes()
    if len(data) != 4 * len(rows):
        raise LogError(f"{labels}: {len(data)} bytes for {len(rows)} points; expected four a point")
    raw = np.frombuffer(data, "<u4") & 0xFFFF
    table = np.full(1 << 16, 255, np.uint8)
    for number, name in SEMANTIC_CLASSES.items():
        table[number] = _NAMES.index(name)
    return PaintedPoints(header=header, classes=_NAMES, xyz_m=np.ascontiguousarray(rows[:, :3]), label=table[raw])


__all__ = ["CLASSES", "KittiObjectLog", "looks_like_kitti_object"]
