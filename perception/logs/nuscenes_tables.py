"""Read nuScenes keyframes from the official tables (`v1.0-*/*.json` beside `samples/`).

Caesar et al., "nuScenes: A multimodal dataset for autonomous driving", CVPR 2020; schema of the nuscenes-devkit. Every
keyframe of every scene, in the order of time: `lidar/points`, `cam_front/image`, ..., `ego`, and `truth/objects` in
`base_link` (nuScenes' ego frame). A calibration that changes between scenes is said in `notes`; the rig is the first's.
"""

from __future__ import annotations

import math
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.errors import LogError
from perception.geometry.rig import Rig
from perception.geometry.transforms import Transform
from perception.logs.indexed_log import Entry, IndexedLog
from perception.logs.log_rig import LogCamera
from perception.logs.nuscenes_sensors import camera_name, camera_of, nuscenes_rig, read_image, read_sweep
from perception.logs.poses import pose_fields, rigid
from perception.messages import Detections3D, Header, Image, Message, Odometry, PointCloud

T = TypeVar("T", bound="_Row")


class _Row(msgspec.Struct):
    token: str


class _Sensor(_Row):
    channel: str
    modality: str


class _CalibratedSensor(_Row):
    sensor_token: str
    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]  # w, x, y, z
    camera_intrinsic: list[list[float]]


class _EgoPose(_Row):
    timestamp: int
    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]


class _SampleData(_Row):
    sample_token: str
    ego_pose_token: str
    calibrated_sensor_token: str
    timestamp: int  # microseconds
    filename: str
    is_key_frame: bool


class _Annotation(_Row):
    sample_token: str
    instance_token: str
    translation: tuple[float, float, float]
    size: tuple[float, float, float]  # w, l, h
    rotation: tuple[float, float, float, float]
    num_lidar_pts: int = 0


class _Instance(_Row):
    category_token: str


class _Category(_Row):
    name: str


class NuscenesTablesLog(IndexedLog):
    """The keyframes of one version of the data set.

    Raises:
        LogError: a table is missing or damaged, a reference leads nowhere, or there are no keyframes.
    """

    FORMAT: ClassVar[str] = "nuscenes_tables"

    def __init__(self, path: Path) -> None:
        self._tables = path if (path / "sample.json").is_file() else _version_of(path)
        self._root = self._tables.parent
        self._sensors = self._table("sensor", _Sensor)
        self._calibrated = self._table("calibrated_sensor", _CalibratedSensor)
        self._poses = self._table("ego_pose", _EgoPose)
        rows = self._table("sample_data", _SampleData).values()
        self._frames = sorted((row for row in rows if row.is_key_frame), key=lambda row: row.timestamp)
        self._annotations = self._boxes_by_sample()
        self._classes = tuple(sorted({name for boxes in self._annotations.values() for name, _ in boxes}))
        entries = [entry for number, frame in enumerate(self._frames) for entry in self._entries_of(frame, number)]
        super().__init__(path, entries)
        if len({frame.calibrated_sensor_token for frame in self._frames}) > len(self.rig.sensors):
            self.notes.append("the calibration changes between scenes; the first scene's is used")

    @cached_property
    def rig(self) -> Rig:
        cameras: dict[str, LogCamera] = {}
        lidar = None
        for frame in self._frames:
            calibrated = self._row(self._calibrated, frame.calibrated_sensor_token, "calibrated_sensor")
            sensor = self._row(self._sensors, calibrated.sensor_token, "sensor")
            name = camera_name(sensor.channel)
            if sensor.modality == "camera" and name not in cameras:
                intrinsic = np.array(calibrated.camera_intrinsic, np.float64)
                if intrinsic.shape != (3, 3):
                    raise LogError(
                        f"{self._tables / 'calibrated_sensor.json'}: camera {sensor.channel} has no 3 x 3 intrinsics"
                    )
                cameras[name] = camera_of(intrinsic, _pose(calibrated), self._root / frame.filename)
            elif sensor.modality == "lidar" and lidar is None:
                lidar = _pose(calibrated)
        return nuscenes_rig(self._tables.name, cameras, lidar)

    def _entries_of(self, frame: _SampleData, number: int) -> list[Entry]:
        calibrated = self._row(self._calibrated, frame.calibrated_sensor_token, "calibrated_sensor")
        sensor = self._row(self._sensors, calibrated.sensor_token, "sensor")
        t_ns, file = frame.timestamp * 1000, self._root / frame.filename
        if sensor.modality == "camera":
            name = camera_name(sensor.channel)
            header = Header(frame_id=f"{name}_optical", t_sensor_ns=t_ns, clock="log", seq=number)
            return [Entry(t_ns, f"{name}/image", Image, partial(read_image, file, header))]
        if sensor.modality != "lidar":
            return []
        header = Header(frame_id="lidar", t_sensor_ns=t_ns, clock="log", seq=number)
        self._ego_pose(frame)  # a reference that leads nowhere is damage of the log, not of one message
        return [
            Entry(t_ns, "lidar/points", PointCloud, partial(read_sweep, file, header, 5)),
            Entry(t_ns, "ego", Odometry, partial(self._ego, frame, number)),
            Entry(t_ns, "truth/objects", Detections3D, partial(self._truth, frame, number)),
        ]

    def _ego_pose(self, frame: _SampleData) -> NDArray[np.float64]:
        return _pose(self._row(self._poses, frame.ego_pose_token, "ego_pose"))

    def _ego(self, frame: _SampleData, number: int) -> Message:
        pose = np.linalg.inv(self._ego_pose(self._frames[0])) @ self._ego_pose(frame)
        translation, rotation = pose_fields(rigid(pose))
        header = Header(frame_id="odom", t_sensor_ns=frame.timestamp * 1000, clock="log", seq=number)
        return Odometry(header=header, translation_m=translation, rotation_xyzw=rotation)

    def _truth(self, frame: _SampleData, number: int) -> Message:
        base_from_global = np.linalg.inv(self._ego_pose(frame))
        boxes = self._annotations.get(frame.sample_token, [])
        poses = [base_from_global @ _pose(box) for _, box in boxes]
        return Detections3D(
            header=Header(frame_id="base_link", t_sensor_ns=frame.timestamp * 1000, clock="log", seq=number),
            classes=self._classes,
            center_m=np.array([pose[:3, 3] for pose in poses], np.float32).reshape(-1, 3),
            size_lwh_m=np.array([(box.size[1], box.size[0], box.size[2]) for _, box in boxes], np.float32).reshape(
                -1, 3
            ),
            yaw_rad=np.array([math.atan2(pose[1, 0], pose[0, 0]) for pose in poses], np.float32),
            score=np.ones(len(boxes), np.float32),
            label=np.array([self._classes.index(name) for name, _ in boxes], np.uint16),
        )

    def _boxes_by_sample(self) -> dict[str, list[tuple[str, _Annotation]]]:
        if not (self._tables / "sample_annotation.json").is_file():
            return {}  # the test split has none
        instances, categories = self._table("instance", _Instance), self._table("category", _Category)
        found: dict[str, list[tuple[str, _Annotation]]] = {}
        for box in self._table("sample_annotation", _Annotation).values():
            instance = self._row(instances, box.instance_token, "instance")
            name = self._row(categories, instance.category_token, "category").name
            found.setdefault(box.sample_token, []).append((name, box))
        return found

    def _table(self, name: str, row_type: type[T]) -> dict[str, T]:
        file = self._tables / f"{name}.json"
        try:
            rows: list[T] = msgspec.json.decode(file.read_bytes(), type=list[row_type])  # type: ignore[valid-type]
            return {row.token: row for row in rows}
        except OSError as error:
            raise LogError(
                f"{file}: cannot be read: {error.strerror}; a nuScenes version folder has this table"
            ) from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise LogError(f"{file}: not nuScenes' table '{name}': {error}") from None

    def _row(self, table: dict[str, T], token: str, name: str) -> T:
        try:
            return table[token]
        except KeyError:
            raise LogError(
                f"{self._tables}: table '{name}' has no row '{token}' that another table refers to"
            ) from None


def _version_of(path: Path) -> Path:
    versions = sorted(file.parent for file in path.glob("v1.0-*/sample.json"))
    if len(versions) != 1:
        names = ", ".join(version.name for version in versions)
        raise LogError(f"{path} holds {len(versions)} versions ({names}); give one of these folders")
    return versions[0]


def _pose(row: _CalibratedSensor | _EgoPose | _Annotation) -> NDArray[np.float64]:
    w, x, y, z = row.rotation
    return Transform.from_quaternion(row.translation, (x, y, z, w)).matrix


__all__ = ["NuscenesTablesLog"]
