"""The calibration of a KITTI raw drive: three files of its day's folder, or one `calib_*.txt` in the drive's own.

Geiger et al., IJRR 2013, section IV: rectified camera i sees a Velodyne point x at P_rect_i R_rect_00 T_velo_to_cam x.
The first three columns of P_rect_i are the intrinsics K; K^-1 times its last column is where camera 0 is in camera i.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.errors import LogError
from perception.geometry.rig import Rig
from perception.geometry.rig_file import LidarFile
from perception.geometry.transforms import Transform
from perception.logs.log_rig import LogCamera, LogLidar, rig_of
from perception.logs.poses import rigid

LIDAR_HEIGHT_M = 1.73
"""Velodyne above the road, by the drawing of the recording platform."""
CAMERA_NUMBERS: Mapping[str, str] = {
    "cam_gray_left": "00", "cam_gray_right": "01", "cam_front": "02", "cam_right": "03"
}  # fmt: skip
HDL_64E = LidarFile(
    rings=64, range_m=(0.9, 120.0), vertical_fov_deg=(-24.9, 2.0), intensity_scale=1, point_times=False, has_ring=False
)
_DAY_FILES = ("calib_velo_to_cam.txt", "calib_cam_to_cam.txt", "calib_imu_to_velo.txt")
_WANTED = "the day's calib_velo_to_cam.txt and calib_cam_to_cam.txt, or one calib_*.txt with T_velo_to_cam and P_rect"


@dataclass(frozen=True)
class KittiCalibration:
    """Matrices by the names of the files.

    Attributes:
        camera_from_velodyne: T_velo_to_cam, into the frame of camera 0 before rectification; None without calibration.
        rectification: R_rect_00.
        projections: P_rect, (3, 4), by camera number.
        velodyne_from_imu: None where the day's file is not there.
        notes: what is missing.
    """

    camera_from_velodyne: Transform | None
    rectification: Transform
    projections: Mapping[str, NDArray[np.float64]]
    velodyne_from_imu: Transform | None
    notes: tuple[str, ...]

    @classmethod
    def of_drive(cls, path: Path) -> KittiCalibration:
        """Read what belongs to a drive.

        Raises:
            LogError: a file is damaged, or its matrices are no rotations.
        """
        files = [folder / name for folder in (path, path.resolve().parent) for name in _DAY_FILES]
        files = [file for file in files if file.is_file()] or sorted(path.glob("calib_*.txt"))
        values: dict[str, NDArray[np.float64]] = {}
        for file in files:
            values |= _read(file)
        notes = []
        camera_from_velodyne = _transform(values, "velo_to_cam", path)
        if camera_from_velodyne is None:
            notes.append(f"no calibration: cameras have no place. Expected {_WANTED}")
        velodyne_from_imu = _transform(values, "imu_to_velo", path)
        projections = {name[-2:]: value.reshape(3, 4) for name, value in values.items() if name.startswith("P_rect_")}
        rectification = np.eye(4)
        rectification[:3, :3] = values.get("R_rect_00", np.eye(3).ravel()).reshape(3, 3)
        return cls(camera_from_velodyne, rigid(rectification), projections, velodyne_from_imu, tuple(notes))

    @classmethod
    def of_benchmark(cls, file: Path) -> KittiCalibration:
        """Read a file of the object or tracking benchmark, or of SemanticKITTI; empty where it is not there.

        P0 to P3, R0_rect (R_rect), Tr_velo_to_cam (Tr_velo_cam, Tr), Tr_imu_to_velo (Tr_imu_velo); a colon or none.

        Raises:
            LogError: it is damaged, or its matrices are no rotations.
        """
        values: dict[str, NDArray[np.float64]] = {}
        try:
            for line in file.read_text().splitlines() if file.is_file() else ():
                name, *words = line.split() or [""]
                values[name.removesuffix(":")] = np.array([float(word) for word in words])
            camera, velodyne = _moved(values, "velo_to_cam", "velo_cam", ""), _moved(values, "imu_to_velo", "imu_velo")
            turned = np.eye(4)
            turned[:3, :3] = values.get("R0_rect", values.get("R_rect", np.eye(3).ravel())).reshape(3, 3)
            projections = {f"0{k}": values[f"P{k}"].reshape(3, 4) for k in range(4) if f"P{k}" in values}
        except (OSError, ValueError) as error:
            raise LogError(f"{file}: is no calibration of a KITTI benchmark: {error}") from None
        return cls(camera, rigid(turned), projections, velodyne, () if camera else (f"{file}: no calibration",))

    def rig(self, name: str, sizes_hw: Mapping[str, tuple[int, int]]) -> Rig:
        """Return the rig of a drive whose cameras have pictures of these sizes (height, width)."""
        base_link_from_lidar = Transform.from_quaternion((0, 0, LIDAR_HEIGHT_M), (0, 0, 0, 1))
        cameras = {}
        for camera, (height, width) in sizes_hw.items():
            projection = self.projections.get(CAMERA_NUMBERS[camera])
            if projection is None or self.camera_from_velodyne is None:
                continue
            intrinsics = projection[:, :3]
            offset = Transform.from_quaternion(np.linalg.solve(intrinsics, projection[:, 3]), (0, 0, 0, 1))
            optical_from_lidar = offset @ self.rectification @ self.camera_from_velodyne
            cameras[camera] = LogCamera(
                size_wh_px=(width, height),
                focal_px=(float(intrinsics[0, 0]), float(intrinsics[1, 1])),
                center_px=(float(intrinsics[0, 2]), float(intrinsics[1, 2])),
                base_link_from_optical=base_link_from_lidar @ optical_from_lidar.inverse(),
                rate_hz=10.0,
            )
        where = f"on the road, {LIDAR_HEIGHT_M} m below the Velodyne"
        return rig_of(name, where, LogLidar(HDL_64E, base_link_from_lidar, 10.0), cameras)

    def base_link_from_imu(self) -> Transform:
        """Return where the inertial unit is; without its file, at the Velodyne."""
        base_link_from_lidar = Transform.from_quaternion((0, 0, LIDAR_HEIGHT_M), (0, 0, 0, 1))
        return base_link_from_lidar @ (self.velodyne_from_imu or Transform.identity())


def _read(file: Path) -> dict[str, NDArray[np.float64]]:
    """Return the matrices of a file by name; R and T of the day's files as `R_velo_to_cam`, `T_velo_to_cam`."""
    suffix = file.stem.removeprefix("calib_") if file.name in _DAY_FILES else ""
    found = {}
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LogError(f"{file}: cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        name, colon, words = line.partition(":")
        if not colon or name in ("calib_time", "corner_dist"):
            continue
        name = f"{name}_{suffix}" if suffix and name in ("R", "T") else name
        counts = {"P_rect": 12, "R_rect": 9}.get(name[:6])
        try:
            values = np.array([float(word) for word in words.split()])
        except ValueError:
            raise LogError(f"{file}:{number}: '{name}' has something that is no number") from None
        if (counts is not None and len(values) != counts) or not np.isfinite(values).all():
            raise LogError(f"{file}:{number}: '{name}' has {len(values)} numbers; expected {counts} finite ones")
        found[name] = values
    return found


def _moved(values: Mapping[str, NDArray[np.float64]], *names: str) -> Transform | None:
    """Return a transform that a benchmark's file gives as one row of twelve, under one of its names."""
    keys = ("_".join(filter(None, ("Tr", name))) for name in names)
    found = next((values[key] for key in keys if key in values), None)
    return None if found is None else rigid(np.vstack((found.reshape(3, 4), (0, 0, 0, 1))))


def _transform(values: Mapping[str, NDArray[np.float64]], name: str, path: Path) -> Transform | None:
    """Return a transform that a file gives as R and T, or as one row of twelve."""
    translation, rotation = values.get(f"T_{name}"), values.get(f"R_{name}")
    if translation is None:
        return None
    if len(translation) == 12:
        return rigid(np.vstack([translation.reshape(3, 4), (0, 0, 0, 1)]))
    if rotation is None or len(rotation) != 9 or len(translation) != 3:
        raise LogError(f"{path}: calibration '{name}' is not a rotation of 9 and a translation of 3 numbers")
    return rigid(np.vstack([np.column_stack([rotation.reshape(3, 3), translation]), (0, 0, 0, 1)]))


__all__ = ["CAMERA_NUMBERS", "LIDAR_HEIGHT_M", "KittiCalibration"]
