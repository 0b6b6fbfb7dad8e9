"""Read nuScenes keyframes from an info.json: mmdetection3d's info file (layout 1.1) as JSON, beside its sensor files.

The LiDAR frame has x right, y forward, z up; boxes are x, y, z of the geometric centre, l, w, h and yaw in that frame.
Sensors: `lidar` and `cam_front`, `cam_front_left`, ... Truth: `truth/objects` in `base_link` (nuScenes' ego frame: on
the road below the rear axle).
"""

from __future__ import annotations

import json
import math
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.errors import LogError
from perception.geometry.rig import Rig
from perception.logs.indexed_log import Entry, IndexedLog
from perception.logs.nuscenes_sensors import camera_name, camera_of, nuscenes_rig, read_image, read_sweep
from perception.logs.poses import pose_fields, rigid
from perception.messages import Detections3D, Header, Image, Odometry, PointCloud

Matrix = tuple[tuple[float, ...], ...]


class _Camera(msgspec.Struct):
    img_path: str
    cam2img: Matrix
    cam2ego: Matrix
    timestamp: float


class _Lidar(msgspec.Struct):
    lidar_path: str
    lidar2ego: Matrix
    num_pts_feats: int = 5


class _Instance(msgspec.Struct):
    bbox_3d: tuple[float, ...]
    bbox_label_3d: int
    velocity: tuple[float | None, ...] = (None, None)
    bbox_3d_isvalid: bool = True
    num_lidar_pts: int = 0


class _Sample(msgspec.Struct):
    timestamp: float
    ego2global: Matrix
    images: dict[str, _Camera]
    lidar_points: _Lidar
    instances: list[_Instance] = []


class _MetaInfo(msgspec.Struct):
    categories: dict[str, int]


class _Info(msgspec.Struct):
    metainfo: _MetaInfo
    data_list: list[_Sample]


class NuscenesInfoLog(IndexedLog):
    """The keyframes that an info.json lists.

    Raises:
        LogError: info.json is not what it should be, or lists nothing.
    """

    FORMAT: ClassVar[str] = "nuscenes_info"

    def __init__(self, path: Path) -> None:
        self._info = _read_info(path / "info.json")
        classes = {label: name for name, label in self._info.metainfo.categories.items()}
        self._classes = tuple(classes.get(label, f"class_{label}") for label in range(max(classes, default=-1) + 1))
        entries = []
        for number, sample in enumerate(self._info.data_list):
            entries += self._entries_of(path, sample, number)
        super().__init__(path, entries)
        if len(self._info.data_list) == 1:
            self.notes.append("one keyframe: no sweeps in between, no motion")

    @cached_property
    def rig(self) -> Rig:
        sample = self._info.data_list[0]
        cameras = {
            camera_name(channel): camera_of(
                matrix(camera.cam2img, 3), matrix(camera.cam2ego, 4), self.path / camera.img_path
            )
            for channel, camera in sample.images.items()
        }
        return nuscenes_rig(self.path.name, cameras, matrix(sample.lidar_points.lidar2ego, 4))

    def _entries_of(self, path: Path, sample: _Sample, number: int) -> list[Entry]:
        t_ns = _nanoseconds(sample.timestamp)
        lidar = Header(frame_id="lidar", t_sensor_ns=t_ns, clock="log", seq=number)
        sweep = path / sample.lidar_points.lidar_path
        columns = sample.lidar_points.num_pts_feats
        entries = [
            Entry(t_ns, "lidar/points", PointCloud, partial(read_sweep, sweep, lidar, columns)),
            Entry(t_ns, "ego", Odometry, partial(self._ego, sample, t_ns, number)),
            Entry(t_ns, "truth/objects", Detections3D, partial(self._truth, sample, t_ns, number)),
        ]
        for channel, camera in sample.images.items():
            name = camera_name(channel)
            t_image_ns = _nanoseconds(camera.timestamp)
            header = Header(frame_id=f"{name}_optical", t_sensor_ns=t_image_ns, clock="log", seq=number)
            entries.append(
                Entry(t_image_ns, f"{name}/image", Image, partial(read_image, path / camera.img_path, header))
            )
        return entries

    def _ego(self, sample: _Sample, t_ns: int, number: int) -> Odometry:
        first = matrix(self._info.data_list[0].ego2global, 4)
        pose = np.linalg.inv(first) @ matrix(sample.ego2global, 4)
        translation, rotation = pose_fields(rigid(pose))
        header = Header(frame_id="odom", t_sensor_ns=t_ns, clock="log", seq=number)
        return Odometry(header=header, translation_m=translation, rotation_xyzw=rotation)

    def _truth(self, sample: _Sample, t_ns: int, number: int) -> Detections3D:
        base_from_lidar = matrix(sample.lidar_points.lidar2ego, 4)
        # a label of -1 stands for an object of none of the classes
        valid = [
            instance
            for instance in sample.instances
            if instance.bbox_3d_isvalid and len(instance.bbox_3d) == 7 and instance.bbox_label_3d >= 0
        ]
        boxes = np.array([instance.bbox_3d for instance in valid], np.float64).reshape(-1, 7)
        known = [[math.nan if v is None else v for v in instance.velocity[:2]] for instance in valid]
        velocity = np.array(known, np.float64).reshape(-1, 2)  # NaN where nuScenes does not know it
        heading = (
            np.stack((np.cos(boxes[:, 6]), np.sin(boxes[:, 6]), np.zeros(len(boxes))), 1) @ base_from_lidar[:3, :3].T
        )
        moved = np.concatenate((velocity, np.zeros((len(boxes), 1))), 1) @ base_from_lidar[:3, :3].T
        return Detections3D(
            header=Header(frame_id="base_link", t_sensor_ns=t_ns, clock="log", seq=number),
            classes=self._classes,
            center_m=_float32(boxes[:, :3] @ base_from_lidar[:3, :3].T + base_from_lidar[:3, 3]),
            size_lwh_m=_float32(boxes[:, 3:6]),
            yaw_rad=_float32(np.arctan2(heading[:, 1], heading[:, 0])),
            score=np.ones(len(boxes), np.float32),
            label=np.array([instance.bbox_label_3d for instance in valid], np.uint16),
            velocity_mps=_float32(moved[:, :2]),
        )


def _read_info(path: Path) -> _Info:
    try:
        info = msgspec.json.decode(_without_nan(path.read_bytes()), type=_Info, strict=False)
    except OSError as error:
        raise LogError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise LogError(f"{path}: not an info.json of nuScenes: {error}") from None
    for sample in info.data_list:
        matrix(sample.ego2global, 4)
        matrix(sample.lidar_points.lidar2ego, 4)
        for camera in sample.images.values():
            matrix(camera.cam2img, 3)
            matrix(camera.cam2ego, 4)
    return info


def _without_nan(data: bytes) -> bytes:
    """Return JSON with null in place of NaN, which Python's json writes for unknown velocities."""
    if b"NaN" not in data:
        return data
    return json.dumps(json.loads(data, parse_constant=lambda _: None)).encode()


def matrix(rows: Matrix, size: int) -> NDArray[np.float64]:
    """Return a square matrix.

    Raises:
        LogError: it has another size or is not finite.
    """
    if len(rows) != size or any(len(row) != size for row in rows):
        raise LogError(f"a calibration matrix is not {size} x {size}")
    values = np.array(rows, np.float64)
    if not np.isfinite(values).all():
        raise LogError("a calibration matrix is not finite")
    return values


def _nanoseconds(seconds: float) -> int:
    """Return nanoseconds; the files hold microseconds as float seconds, so that is what is rounded to."""
    return round(seconds * 1e6) * 1000


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32)


__all__ = ["NuscenesInfoLog", "matrix"]
