"""The vehicle's poses and the annotated tracks of an Argoverse 2 log.

Velocities are not in the files: the vehicle's and the objects' are central differences of what is, over ground.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.errors import LogError
from perception.geometry.transforms import Transform
from perception.logs.feather import read_feather
from perception.logs.poses import pose_fields
from perception.logs.true_tracks import LONGEST_GAP_NS, velocities_over_ground
from perception.messages import FusedObject, Header, ObjectClass, Odometry, TrackedObjects

Float = NDArray[np.float64]

CLASSES: Mapping[str, str] = {
    "REGULAR_VEHICLE": "car", "LARGE_VEHICLE": "truck", "BOX_TRUCK": "truck", "TRUCK": "truck", "TRUCK_CAB": "truck",
    "BUS": "bus", "SCHOOL_BUS": "bus", "ARTICULATED_BUS": "bus", "VEHICULAR_TRAILER": "trailer",
    "TRAFFIC_LIGHT_TRAILER": "trailer", "MESSAGE_BOARD_TRAILER": "trailer", "RAILED_VEHICLE": "train",
    "MOTORCYCLE": "motorcycle", "BICYCLE": "bicycle", "BICYCLIST": "rider", "MOTORCYCLIST": "rider",
    "WHEELED_RIDER": "rider", "PEDESTRIAN": "person", "OFFICIAL_SIGNALER": "person", "ANIMAL": "animal",
    "DOG": "animal", "CONSTRUCTION_CONE": "traffic_cone",
}  # fmt: skip
"""Our names of Argoverse's categories; the others keep theirs, in small letters."""
_EGO_STEP_NS = 50_000_000
_QUATERNION, _CENTER = ("qx", "qy", "qz", "qw"), ("tx_m", "ty_m", "tz_m")
_SIZE = ("length_m", "width_m", "height_m")


@dataclass(frozen=True, eq=False)
class EgoPoses:
    """Where the vehicle was: `city_from_egovehicle` at N instants, and `base_link` below it.

    Attributes:
        t_ns: (N,) rising.
        translation_m: (N, 3).
        rotation_xyzw: (N, 4).
        ego_from_base: the road below the axle.
    """

    t_ns: NDArray[np.int64]
    translation_m: Float
    rotation_xyzw: Float
    ego_from_base: Transform

    @classmethod
    def read(cls, path: Path, axle_m: float) -> EgoPoses:
        """Read the file, or nothing where it is not there; `axle_m` is the egovehicle frame's height above the road.

        Raises:
            NotInstalledError: pyarrow is missing.
            LogError: it cannot be read, or a pose is none.
        """
        below = Transform.from_quaternion((0.0, 0.0, -axle_m), (0.0, 0.0, 0.0, 1.0))
        if not path.is_file():
            return cls(np.empty(0, np.int64), np.empty((0, 3)), np.empty((0, 4)), below)
        rows = read_feather(path, ("timestamp_ns", *_QUATERNION, *_CENTER))
        t_ns, first = np.unique(rows["timestamp_ns"].astype(np.int64), return_index=True)
        rotation, place = _columns(rows, _QUATERNION)[first], _columns(rows, _CENTER)[first]
        unit = np.abs(np.linalg.norm(rotation, axis=1) - 1.0) < 1e-3
        if not (unit.all() and np.isfinite(place).all()):
            raise LogError(f"{path}: a pose is no place and unit quaternion")
        return cls(t_ns, place, rotation, below)

    def __len__(self) -> int:
        return len(self.t_ns)

    def pose(self, place: int) -> Transform:
        """Return `city_from_base_link` at one of the instants."""
        return Transform.from_quaternion(self.translation_m[place], self.rotation_xyzw[place]) @ self.ego_from_base

    def at(self, t_ns: int) -> Transform | None:
        """Return the pose at an instant, between two; None outside the file's time."""
        after = int(np.searchsorted(self.t_ns, t_ns))
        if after < len(self) and self.t_ns[after] == t_ns:
            return self.pose(after)
        if not 0 < after < len(self):
            return None
        begin, end = int(self.t_ns[after - 1]), int(self.t_ns[after])
        return self.pose(after - 1).interpolated(self.pose(after), (t_ns - begin) / (end - begin))

    def odometry(self, place: int) -> Odometry:
        """Return the motion at one of the instants; `odom` is where the vehicle was at the first."""
        t_ns, pose = int(self.t_ns[place]), self.pose(place)
        before, after = (int(np.searchsorted(self.t_ns, t_ns + step)) for step in (-_EGO_STEP_NS, _EGO_STEP_NS))
        before, after = max(0, min(before, place - 1)), min(max(after, place + 1), len(self) - 1)
        velocity = turning = np.zeros(3)
        passed_ns = int(self.t_ns[after] - self.t_ns[before])
        if 0 < passed_ns <= LONGEST_GAP_NS:
            begin, end = self.pose(before), self.pose(after)
            moved = (end.translation_m - begin.translation_m) / (passed_ns / 1e9)
            velocity = pose.inverse().rotate(moved[None])[0]
            turning = _rotation_vector((begin.inverse() @ end).rotation_xyzw) / (passed_ns / 1e9)
        translation, rotation = pose_fields(self.pose(0).inverse() @ pose)
        return Odometry(
            header=Header(frame_id="odom", t_sensor_ns=t_ns, clock="log", seq=place), translation_m=translation,
            rotation_xyzw=rotation, velocity_mps=_triple(velocity), angular_velocity_radps=_triple(turning),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class ArgoverseTracks:
    """The annotated boxes of a log, M rows in the order of time; boxes in `base_link`.

    Attributes:
        t_ns: (M,).
        track: (M,) number of the track, from 1 in the order in which they first appear.
        category: (M,) our name of the class.
        center_m: (M, 3).
        size_lwh_m: (M, 3).
        rotation_xyzw: (M, 4).
        points: (M,) of the sweep inside the box.
        velocity_mps: (M, 3) over ground, axes of base_link; not a number where the track is seen but once.
        poses: of the vehicle.
    """

    t_ns: NDArray[np.int64]
    track: NDArray[np.int64]
    category: NDArray[Any]
    center_m: Float
    size_lwh_m: Float
    rotation_xyzw: Float
    points: NDArray[np.int64]
    velocity_mps: Float
    poses: EgoPoses

    @classmethod
    def read(cls, path: Path, poses: EgoPoses, axle_m: float) -> ArgoverseTracks:
        """Read annotations.feather.

        Raises:
            NotInstalledError: pyarrow is missing.
            LogError: it cannot be read.
        """
        wanted = ("timestamp_ns", "track_uuid", "category", *_SIZE, *_QUATERNION, *_CENTER, "num_interior_pts")
        rows = read_feather(path, wanted)
        order = np.argsort(rows["timestamp_ns"], kind="stable")
        t_ns = rows["timestamp_ns"].astype(np.int64)[order]
        center = _columns(rows, _CENTER)[order] + (0.0, 0.0, axle_m)
        numbers: dict[str, int] = {}
        ids = (numbers.setdefault(str(uuid), len(numbers) + 1) for uuid in rows["track_uuid"][order])
        track = np.fromiter(ids, np.int64, len(order))
        names = [CLASSES.get(str(name), str(name).lower()) for name in rows["category"][order]]
        return cls(
            t_ns, track, np.array(names, object), center,
            _columns(rows, _SIZE)[order], _columns(rows, _QUATERNION)[order],
            rows["num_interior_pts"].astype(np.int64)[order],
            velocities_over_ground(t_ns, track, center, poses.at), poses,
        )  # fmt: skip

    @property
    def instants(self) -> list[int]:
        """Stamps of annotated sweeps."""
        return [int(t_ns) for t_ns in np.unique(self.t_ns)]

    def objects(self, t_ns: int) -> TrackedObjects:
        """Return the objects of one instant."""
        first, end = (int(np.searchsorted(self.t_ns, t_ns, side)) for side in ("left", "right"))
        pose = self.poses.at(t_ns)
        odom = None if pose is None else pose_fields(self.poses.pose(0).inverse() @ pose)
        return TrackedObjects(
            header=Header(frame_id="base_link", t_sensor_ns=t_ns, clock="log"),
            objects=tuple(self._object(row, t_ns) for row in range(first, end)),
            odom_from_base_link=None if odom is None else (*odom[0], *odom[1]),
        )

    def _object(self, row: int, t_ns: int) -> FusedObject:
        moves = bool(np.isfinite(self.velocity_mps[row]).all())
        x, y, z, w = map(float, self.rotation_xyzw[row])
        return FusedObject(
            id=int(self.track[row]), existence_probability=1.0, classes=(ObjectClass(str(self.category[row]), 1.0),),
            center_m=_triple(self.center_m[row]), rotation_xyzw=(x, y, z, w), size_lwh_m=_triple(self.size_lwh_m[row]),
            velocity_mps=_triple(self.velocity_mps[row]) if moves else None, has_velocity=moves, last_seen_ns=t_ns,
            sources=("truth",), num_points=int(self.points[row]),
        )  # fmt: skip


def _columns(rows: Mapping[str, NDArray[Any]], names: tuple[str, ...]) -> Float:
    return np.stack([rows[name] for name in names], axis=1).astype(np.float64)


def _rotation_vector(rotation_xyzw: Float) -> Float:
    """Return axis times angle of a rotation, radians."""
    sine = float(np.linalg.norm(rotation_xyzw[:3]))
    if sine < 1e-12:
        return np.zeros(3)
    angle = 2.0 * np.arctan2(sine, float(rotation_xyzw[3]))
    return np.asarray(rotation_xyzw[:3] / sine * angle, np.float64)


def _triple(values: Float) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


__all__ = ["CLASSES", "ArgoverseTracks", "EgoPoses"]
