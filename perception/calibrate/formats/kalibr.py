"""Kalibr's camchain.yaml (ethz-asl/kalibr): pinhole with radtan or equidistant, and the double sphere model `ds`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from perception.calibrate.formats.calibration import Calibration, missing, numbers, put, rigid, yaml_of
from perception.errors import UserError
from perception.geometry.cameras import Camera, Model

_MODELS: dict[tuple[str, str], Model] = {
    ("pinhole", "radtan"): "plumb_bob", ("pinhole", "equidistant"): "kannala_brandt", ("pinhole", "none"): "plumb_bob",
    ("ds", "none"): "double_sphere",
}  # fmt: skip


def read(path: Path) -> Calibration:
    """Read a camchain. Raises UserError; GeometryError for numbers that no camera has."""
    document = yaml_of(path)
    found = Calibration()
    names = [name for name in document if str(name).startswith("cam")]
    if not names:
        raise UserError(f"{path}: no camera; expected keys cam0, cam1, ...")
    for index, name in enumerate(names):
        entry, where = document[name], f"{path}: {name}"
        model = (str(missing(entry, "camera_model", where)), str(entry.get("distortion_model", "none")))
        if model not in _MODELS:
            raise UserError(f"{where}: {model[0]} with {model[1]}; expected {', '.join(map('-'.join, _MODELS))}")
        width, height = (int(side) for side in numbers(missing(entry, "resolution", where), 2, f"{where}: resolution"))
        found.cameras[str(name)] = _camera(_MODELS[model], model[1], entry, width, height, where)
        if "T_cn_cnm1" in entry and index:
            key = f"{name}_optical_from_{names[index - 1]}_optical"
            found.transforms[key] = rigid(entry["T_cn_cnm1"], f"{where}: T_cn_cnm1")
        if "T_cam_imu" in entry:
            found.transforms[f"{name}_optical_from_imu"] = rigid(entry["T_cam_imu"], f"{where}: T_cam_imu")
        if "timeshift_cam_imu" in entry:
            (shift,) = numbers([entry["timeshift_cam_imu"]], 1, f"{where}: timeshift_cam_imu")
            found.offset_ms[str(name)] = shift * 1e3  # t_imu = t_cam + shift
    return found


def _camera(model: Model, distortion: str, entry: Any, width: int, height: int, where: str) -> Camera:
    values = missing(entry, "intrinsics", where)
    if model == "double_sphere":
        xi, alpha, fx, fy, cx, cy = numbers(values, 6, f"{where}: intrinsics")
        return Camera(model, width, height, (fx, fy), (cx, cy), (xi, alpha))
    fx, fy, cx, cy = numbers(values, 4, f"{where}: intrinsics")
    count = 0 if distortion == "none" else 4
    coefficients = numbers(entry.get("distortion_coeffs", []), count, f"{where}: distortion_coeffs")
    return Camera(model, width, height, (fx, fy), (cx, cy), tuple(coefficients))


def write(path: Path, calibration: Calibration) -> None:
    """Write a camchain, cameras in their order. Raises UserError for what Kalibr does not know."""
    document: dict[str, Any] = {}
    previous = ""
    for index, (name, camera) in enumerate(calibration.cameras.items()):
        entry = _entry(name, camera)
        to_previous = calibration.transforms.get(f"{name}_optical_from_{previous}_optical")
        if to_previous is not None:
            entry["T_cn_cnm1"] = to_previous.matrix.tolist()
        to_imu = calibration.transforms.get(f"{name}_optical_from_imu")
        if to_imu is not None:
            entry["T_cam_imu"] = to_imu.matrix.tolist()
        if name in calibration.offset_ms:
            entry["timeshift_cam_imu"] = calibration.offset_ms[name] / 1e3
        document[f"cam{index}"] = entry
        previous = name
    if not document:
        raise UserError("a camchain holds cameras; this calibration has none")
    put(path, yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=200))


def _entry(name: str, camera: Camera) -> dict[str, Any]:
    focal_center = [*camera.focal_px, *camera.center_px]
    entry: dict[str, Any] = {"resolution": [camera.width_px, camera.height_px], "rostopic": f"/{name}/image"}
    if camera.model == "double_sphere":
        return entry | {"camera_model": "ds", "intrinsics": [*camera.coefficients, *focal_center],
                        "distortion_model": "none", "distortion_coeffs": []}  # fmt: skip
    if camera.model == "plumb_bob" and not any(camera.coefficients[4:]):
        coefficients = [*camera.coefficients[:4]]
        model = "radtan" if coefficients else "none"
    elif camera.model == "kannala_brandt":
        coefficients, model = [*camera.coefficients], "equidistant"
    else:
        raise UserError(
            f"{name}: Kalibr has no {camera.model} with {len(camera.coefficients)} coefficients (k3 or more)"
        )
    return entry | {"camera_model": "pinhole", "intrinsics": focal_center, "distortion_model": model,
                    "distortion_coeffs": coefficients}  # fmt: skip


__all__ = ["read", "write"]
