"""KITTI raw: calib_cam_to_cam.txt, and calib_velo_to_cam.txt beside it.

Cameras are those before rectification (S, K, D); R and T take points of camera 0 to camera i, or of the Velodyne to
camera 0 (Geiger et al., IJRR 2013).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perception.calibrate.formats.calibration import Calibration, matrix, numbers, put, rigid, text_of
from perception.errors import UserError
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform

VELODYNE = "calib_velo_to_cam.txt"


def read(path: Path) -> Calibration:
    """Read the file, or both files of a folder. Raises UserError; GeometryError for numbers that no camera has."""
    file = path / "calib_cam_to_cam.txt" if path.is_dir() else path
    entries, found = _entries(file), Calibration()
    for key in entries:
        if not key.startswith("K_"):
            continue
        number = key[2:]
        where = f"{file}: camera {number}"
        k = matrix(entries[key], 3, 3, f"{where}: K")
        width, height = numbers(entries.get(f"S_{number}", []), 2, f"{where}: S")
        distortion = numbers(entries.get(f"D_{number}", []), 5, f"{where}: D")
        focal, center = (float(k[0, 0]), float(k[1, 1])), (float(k[0, 2]), float(k[1, 2]))
        found.cameras[f"cam{int(number)}"] = Camera(
            "plumb_bob", int(width), int(height), focal, center, tuple(distortion)
        )
        if int(number):
            found.transforms[f"cam{int(number)}_optical_from_cam0_optical"] = _transform(
                entries.get(f"R_{number}", []), entries.get(f"T_{number}", []), where
            )
    if not found.cameras:
        raise UserError(f"{file}: no camera; expected lines K_00, D_00, S_00, ...")
    beside = file.parent / VELODYNE
    if beside.is_file():
        velodyne = _entries(beside)
        found.transforms["cam0_optical_from_lidar"] = _transform(
            velodyne.get("R", []), velodyne.get("T", []), str(beside)
        )
    return found


def _entries(file: Path) -> dict[str, list[str]]:
    lines = [line.partition(":") for line in text_of(file).splitlines() if ":" in line]
    return {name.strip(): words.split() for name, _, words in lines}


def _transform(rotation: list[str], translation: list[str], where: str) -> Transform:
    values = np.eye(4)
    values[:3, :3], values[:3, 3] = matrix(rotation, 3, 3, f"{where}: R"), numbers(translation, 3, f"{where}: T")
    return rigid(values, where)


def write(path: Path, calibration: Calibration) -> None:
    """Write calib_cam_to_cam.txt, and calib_velo_to_cam.txt beside it. Raises UserError for what KITTI cannot hold."""
    lines = ["calib_time: written by perception", "corner_dist: 0"]
    for index, (name, camera) in enumerate(calibration.cameras.items()):
        if camera.model != "plumb_bob":
            raise UserError(f"{name}: KITTI has no {camera.model}; expected plumb_bob")
        number = f"{index:02d}"
        to_first = Transform.identity()
        if index:
            first = next(iter(calibration.cameras))
            key = f"{name}_optical_from_{first}_optical"
            if key not in calibration.transforms:
                raise UserError(f"{name}: KITTI needs {key}, which this calibration lacks")
            to_first = calibration.transforms[key]
        (fx, fy), (cx, cy) = camera.focal_px, camera.center_px
        lines += [
            f"S_{number}: {_row([camera.width_px, camera.height_px])}",
            f"K_{number}: {_row([fx, 0, cx, 0, fy, cy, 0, 0, 1])}",
            f"D_{number}: {_row([*camera.coefficients, *(0.0,) * (5 - len(camera.coefficients))])}",
            f"R_{number}: {_row(to_first.rotation.ravel())}", f"T_{number}: {_row(to_first.translation_m)}",
        ]  # fmt: skip
    put(path, "\n".join(lines) + "\n")
    lidar = [value for key, value in calibration.transforms.items() if key.endswith("_optical_from_lidar")]
    if lidar:
        rows = [f"R: {_row(lidar[0].rotation.ravel())}", f"T: {_row(lidar[0].translation_m)}"]
        put(path.parent / VELODYNE, "\n".join(["calib_time: written by perception", *rows]) + "\n")


def _row(values: object) -> str:
    return " ".join(repr(float(value)) for value in np.asarray(values).ravel())


__all__ = ["read", "write"]
