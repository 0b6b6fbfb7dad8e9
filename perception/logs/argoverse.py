"""Read a log of Argoverse 2's Sensor or Lidar data set: one folder, named by its id.

    sensors/lidar/<ns>.feather            x, y, z, intensity, laser_number, offset_ns
    sensors/cameras/<camera>/<ns>.jpg     seven ring cameras, two stereo cameras
    calibration/egovehicle_SE3_sensor.feather, intrinsics.feather
    city_SE3_egovehicle.feather           the vehicle's poses
    annotations.feather                   boxes with the id of their track; none in the test split

Topics: `lidar/points`, `cam_front/image` (ring_front_center), `cam_front_left/image`, ..., `cam_stereo_left/image`,
`ego`, and as truth `truth/objects` with the tracks' ids and velocities; a class that the planner knows has our name.

Argoverse's egovehicle frame lies on the rear axle; `base_link` is the same, lowered to the road by the axle's height.
A sweep joins two LiDARs of 32 lasers, and all its points were moved to the instant of its name, which is the stamp here
although its last points came 0.1 s later; `ring` is the laser, the frame `lidar` that of the upper sensor. Pictures are
undistorted already, so the distortion in intrinsics.feather, that of the lens, is not applied.

Source: Wilson et al., "Argoverse 2", NeurIPS Datasets 2021, and the user guide; columns, types and units as in logs
published by argoverse/av2-api.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from perception.errors import GeometryError, LogError
from perception.geometry.rig import Rig
from perception.geometry.rig_file import LidarFile
from perception.geometry.transforms import Transform
from perception.logs.argoverse_tracks import ArgoverseTracks, EgoPoses
from perception.logs.feather import read_feather
from perception.logs.indexed_log import Entry, IndexedLog
from perception.logs.log_rig import LogCamera, LogLidar, rig_of
from perception.logs.nuscenes_sensors import read_image
from perception.messages import Header, Image, Odometry, PointCloud, TrackedObjects

AXLE_M = 0.33
"""Height of the rear axle, and so of the egovehicle frame, above the road."""
CAMERAS: Mapping[str, str] = {
    "ring_front_center": "cam_front", "ring_front_left": "cam_front_left", "ring_front_right": "cam_front_right",
    "ring_side_left": "cam_side_left", "ring_side_right": "cam_side_right", "ring_rear_left": "cam_rear_left",
    "ring_rear_right": "cam_rear_right", "stereo_front_left": "cam_stereo_left",
    "stereo_front_right": "cam_stereo_right",
}  # fmt: skip
RING_HZ, STEREO_HZ, LIDAR_HZ = 20.0, 5.0, 10.0
_LIDAR = LidarFile(
    rings=64, range_m=(1.0, 200.0), vertical_fov_deg=(-25.0, 25.0), intensity_scale=255, point_times=False
)
_POSE = ("qx", "qy", "qz", "qw", "tx_m", "ty_m", "tz_m")


def looks_like_argoverse(path: Path) -> bool:
    """True where a folder has an Argoverse 2 log's calibration, or its sweeps."""
    if (path / "calibration" / "egovehicle_SE3_sensor.feather").is_file():
        return True
    return any((path / "sensors" / "lidar").glob("*.feather"))


class ArgoverseLog(IndexedLog):
    """One log.

    Raises:
        NotInstalledError: pyarrow is missing.
        LogError: there are no sensor files, or calibration or poses that cannot be read.
    """

    FORMAT: ClassVar[str] = "argoverse2"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mounted = _calibration(path)
        self._poses = EgoPoses.read(path / "city_SE3_egovehicle.feather", AXLE_M)
        entries = self._lidar_entries() + self._camera_entries()
        entries += [
            Entry(t_ns, "ego", Odometry, partial(self._poses.odometry, place))
            for place, t_ns in enumerate(self._poses.t_ns.tolist())
        ]
        annotations = path / "annotations.feather"
        if annotations.is_file():
            tracks = ArgoverseTracks.read(annotations, self._poses, AXLE_M)
            entries += [
                Entry(t_ns, "truth/objects", TrackedObjects, partial(tracks.objects, t_ns)) for t_ns in tracks.instants
            ]
        super().__init__(path, entries)
        if not len(self._poses.t_ns):
            self.notes.append(f"no city_SE3_egovehicle.feather with poses in {path.name}: no ego motion")

    def _lidar_entries(self) -> list[Entry]:
        ego_from_lidar = self._mounted.get("up_lidar", Transform.identity())
        found: list[Entry] = []
        for t_ns, file in _stamped(self.path / "sensors" / "lidar", ".feather"):
            header = Header(frame_id="lidar", t_sensor_ns=t_ns, clock="log", seq=len(found))
            found.append(Entry(t_ns, "lidar/points", PointCloud, partial(_sweep, file, header, ego_from_lidar)))
        return found

    def _camera_entries(self) -> list[Entry]:
        entries = []
        for folder, camera in CAMERAS.items():
            for seq, (t_ns, file) in enumerate(_stamped(self.path / "sensors" / "cameras" / folder, ".jpg")):
                header = Header(frame_id=f"{camera}_optical", t_sensor_ns=t_ns, clock="log", seq=seq)
                entries.append(Entry(t_ns, f"{camera}/image", Image, partial(read_image, file, header)))
        return entries

    @cached_property
    def rig(self) -> Rig:
        base_from_ego = Transform.from_quaternion((0.0, 0.0, AXLE_M), (0.0, 0.0, 0.0, 1.0))
        topics = self.topics()
        cameras = {
            camera: _camera(row, base_from_ego @ self._mounted[name], STEREO_HZ if "stereo" in name else RING_HZ)
            for name, row in self._intrinsics().items()
            if (camera := CAMERAS.get(name, "")) and f"{camera}/image" in topics and name in self._mounted
        }
        lidar = None
        if "lidar/points" in topics:
            mounting = base_from_ego @ self._mounted.get("up_lidar", Transform.identity())
            lidar = LogLidar(_LIDAR, mounting, LIDAR_HZ)
        where = f"on the road, {AXLE_M} m below the middle of the rear axle"
        return rig_of(self.path.resolve().name, where, lidar, cameras)

    def _intrinsics(self) -> Mapping[str, Mapping[str, float]]:
        file = self.path / "calibration" / "intrinsics.feather"
        if not file.is_file():
            return {}
        names = ("fx_px", "fy_px", "cx_px", "cy_px", "width_px", "height_px")
        rows = read_feather(file, ("sensor_name", *names))
        return {
            str(sensor): {name: float(rows[name][place]) for name in names}
            for place, sensor in enumerate(rows["sensor_name"])
        }


def _calibration(path: Path) -> dict[str, Transform]:
    """Return egovehicle_from_sensor by Argoverse's name of the sensor; of cameras, their optical frame."""
    file = path / "calibration" / "egovehicle_SE3_sensor.feather"
    if not file.is_file():
        return {}
    rows = read_feather(file, ("sensor_name", *_POSE))
    numbers = np.stack([rows[name] for name in _POSE], axis=1).astype(np.float64)
    try:
        return {
            str(name): Transform.from_quaternion(row[4:], row[:4])
            for name, row in zip(rows["sensor_name"], numbers, strict=True)
        }
    except GeometryError as error:
        raise LogError(f"{file}: {error}") from None


def _camera(row: Mapping[str, float], base_link_from_optical: Transform, rate_hz: float) -> LogCamera:
    return LogCamera(
        size_wh_px=(round(row["width_px"]), round(row["height_px"])), focal_px=(row["fx_px"], row["fy_px"]),
        center_px=(row["cx_px"], row["cy_px"]), base_link_from_optical=base_link_from_optical, rate_hz=rate_hz,
    )  # fmt: skip


def _stamped(folder: Path, suffix: str) -> list[tuple[int, Path]]:
    """Return the files that are named by an instant, with it."""
    files = [file for file in folder.glob(f"*{suffix}") if file.stem.isdigit() and len(file.stem) < 19]
    return sorted((int(file.stem), file) for file in files)


def _sweep(file: Path, header: Header, ego_from_lidar: Transform) -> PointCloud:
    columns = read_feather(file, ("x", "y", "z", "intensity", "laser_number"))
    in_ego = np.stack([columns[axis] for axis in "xyz"], axis=1).astype(np.float64)
    if not np.isfinite(in_ego).all():
        raise LogError(f"{file}: a point has no place")
    xyz: NDArray[np.float32] = ego_from_lidar.inverse().apply(in_ego).astype(np.float32)
    return PointCloud(
        header=header, xyz_m=xyz, intensity=columns["intensity"].astype(np.float32), intensity_scale=255.0,
        ring=columns["laser_number"].astype(np.uint16), deskewed_to_ns=header.t_sensor_ns,
    )  # fmt: skip


__all__ = ["AXLE_M", "CAMERAS", "ArgoverseLog", "looks_like_argoverse"]
