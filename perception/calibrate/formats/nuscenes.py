"""nuScenes' calibrated_sensor.json, with the channels of sensor.json beside it where it is there.

Its ego frame is our `base_link`; cameras stand in their optical frame. It holds no picture size and no distortion: the
pictures are 1600 x 900 and rectified.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perception.calibrate.formats.calibration import Calibration, matrix, missing, numbers, put, text_of
from perception.errors import GeometryError, UserError
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform

SIZE_PX = (1600, 900)


def read(path: Path) -> Calibration:
    """Read a table. Raises UserError; GeometryError for numbers that no camera has."""
    rows = _rows(path)
    channels = {}
    if (beside := path.parent / "sensor.json").is_file():
        channels = {row.get("token"): str(row.get("channel", "")).lower() for row in _rows(beside)}
    found = Calibration()
    for index, row in enumerate(rows):
        where = f"{path}: row {index}"
        name = (
            channels.get(row.get("sensor_token")) or str(row.get("sensor_token") or row.get("token") or index).lower()
        )
        w, x, y, z = numbers(missing(row, "rotation", where), 4, f"{where}: rotation")
        place = numbers(missing(row, "translation", where), 3, f"{where}: translation")
        try:
            transform = Transform.from_quaternion(place, (x, y, z, w))
        except GeometryError as error:
            raise UserError(f"{where}: {error}") from None
        intrinsic = row.get("camera_intrinsic") or []
        frame = f"{name}_optical" if intrinsic else name
        if f"base_link_from_{frame}" in found.transforms:
            continue  # one row per log; the first one counts
        found.transforms[f"base_link_from_{frame}"] = transform
        if intrinsic:
            k = matrix(intrinsic, 3, 3, f"{where}: camera_intrinsic")
            focal, center = (float(k[0, 0]), float(k[1, 1])), (float(k[0, 2]), float(k[1, 2]))
            found.cameras[name] = Camera("plumb_bob", *SIZE_PX, focal, center)
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a list of rows")
    return rows


def write(path: Path, calibration: Calibration) -> None:
    """Write the table, tokens by name. Raises UserError for distortion, or a sensor without its place."""
    rows = []
    for name, camera in calibration.cameras.items():
        if camera.model != "plumb_bob" or any(camera.coefficients):
            raise UserError(f"{name}: nuScenes holds rectified cameras only; rectify its pictures first")
        if f"base_link_from_{name}_optical" not in calibration.transforms:
            raise UserError(f"{name}: nuScenes needs base_link_from_{name}_optical, which this calibration lacks")
    for key, transform in calibration.transforms.items():
        if not key.startswith("base_link_from_"):
            raise UserError(f"{key}: nuScenes holds transforms to base_link only")
        frame = key.removeprefix("base_link_from_")
        name = frame.removesuffix("_optical")
        x, y, z, w = (float(value) for value in transform.rotation_xyzw)
        rows.append({
            "token": f"calibrated_{name}", "sensor_token": name,
            "translation": [float(value) for value in transform.translation_m], "rotation": [w, x, y, z],
            "camera_intrinsic": _matrix(calibration.cameras.get(name)) if frame.endswith("_optical") else [],
        })  # fmt: skip
    put(path, json.dumps(rows, indent=1))


def _matrix(camera: Camera | None) -> list[list[float]]:
    if camera is None:
        return []
    (fx, fy), (cx, cy) = camera.focal_px, camera.center_px
    return [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]


__all__ = ["read", "write"]
