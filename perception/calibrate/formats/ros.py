"""ROS CameraInfo as camera_calibration_parsers writes it: one camera per YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from perception.calibrate.formats.calibration import Calibration, matrix, missing, numbers, put, yaml_of
from perception.errors import UserError
from perception.geometry.cameras import Camera, Model

_MODELS: dict[str, Model] = {
    "plumb_bob": "plumb_bob", "rational_polynomial": "rational_polynomial", "equidistant": "kannala_brandt"
}  # fmt: skip


def read(path: Path) -> Calibration:
    """Read a CameraInfo. Raises UserError; GeometryError for numbers that no camera has."""
    document = yaml_of(path)
    where = str(path)
    model = str(missing(document, "distortion_model", where))
    if model not in _MODELS:
        raise UserError(f"{path}: distortion_model '{model}'; expected {', '.join(_MODELS)}")
    k = matrix(missing(missing(document, "camera_matrix", where), "data", where), 3, 3, f"{where}: camera_matrix")
    given = missing(document, "distortion_coefficients", where)
    coefficients = numbers(missing(given, "data", where), None, f"{where}: distortion_coefficients")
    if abs(k[0, 1]) > 1e-6:
        raise UserError(f"{path}: camera_matrix has skew {k[0, 1]:g}, which no model here has")
    camera = Camera(
        _MODELS[model], int(missing(document, "image_width", where)), int(missing(document, "image_height", where)),
        (float(k[0, 0]), float(k[1, 1])), (float(k[0, 2]), float(k[1, 2])), tuple(coefficients),
    )  # fmt: skip
    return Calibration({str(document.get("camera_name") or path.stem): camera})


def write(path: Path, calibration: Calibration) -> None:
    """Write a CameraInfo. Raises UserError for several cameras, or a model that ROS has no name for."""
    name, camera = calibration.only_camera("a CameraInfo")
    known = {ours: theirs for theirs, ours in _MODELS.items()}
    if camera.model not in known:
        raise UserError(f"{name}: CameraInfo has no {camera.model}; expected {', '.join(known)}")
    (fx, fy), (cx, cy) = camera.focal_px, camera.center_px
    document = {
        "image_width": camera.width_px, "image_height": camera.height_px, "camera_name": name,
        "camera_matrix": _data(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])),
        "distortion_model": known[camera.model],
        "distortion_coefficients": _data(np.array([camera.coefficients or (0.0,) * 5])),
        "rectification_matrix": _data(np.eye(3)),
        "projection_matrix": _data(np.array([[fx, 0, cx, 0], [0, fy, cy, 0], [0, 0, 1, 0]])),
    }  # fmt: skip
    put(path, yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=200))


def _data(values: Any) -> dict[str, Any]:
    return {"rows": values.shape[0], "cols": values.shape[1], "data": [float(value) for value in values.ravel()]}


__all__ = ["read", "write"]
