"""YAML of cv::FileStorage, as OpenCV's calibration samples write it: one camera per file; read without OpenCV."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from perception.calibrate.formats.calibration import Calibration, matrix, missing, numbers, put, text_of
from perception.errors import UserError
from perception.geometry.cameras import Camera, Model

_MATRIX = ("camera_matrix", "cameraMatrix", "K", "M1")
_DISTORTION = ("distortion_coefficients", "distCoeffs", "dist_coeffs", "D", "D1")
_BY_COUNT: dict[int, Model] = {0: "plumb_bob", 4: "plumb_bob", 5: "plumb_bob", 8: "rational_polynomial"}


class _Loader(yaml.SafeLoader):
    pass


def _opencv_matrix(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", _opencv_matrix)


def read(path: Path) -> Calibration:
    """Read a camera. Raises UserError; GeometryError for numbers that no camera has."""
    text = re.sub(r"^%YAML:1\.0", "%YAML 1.1", text_of(path))  # OpenCV's own header is no YAML
    try:
        document = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: expected keys and values, found {type(document).__name__}")
    where = str(path)
    k = matrix(_one_of(document, _MATRIX, where), 3, 3, f"{where}: camera_matrix")
    coefficients = numbers(_one_of(document, _DISTORTION, where), None, f"{where}: distortion_coefficients")
    while len(coefficients) > 8 and not any(coefficients[8:]):
        coefficients = coefficients[:8]
    fisheye = bool(document.get("fisheye_model")) or document.get("distortion_model") in ("fisheye", "equidistant")
    model: Model | None = "kannala_brandt" if fisheye else _BY_COUNT.get(len(coefficients))
    if model is None:
        raise UserError(
            f"{path}: {len(coefficients)} coefficients: thin prism and tilt are not supported; expected 4, 5, 8"
        )
    camera = Camera(
        model, int(missing(document, "image_width", where)), int(missing(document, "image_height", where)),
        (float(k[0, 0]), float(k[1, 1])), (float(k[0, 2]), float(k[1, 2])), tuple(coefficients),
    )  # fmt: skip
    return Calibration({str(document.get("camera_name") or path.stem): camera})


def _one_of(document: dict[str, Any], names: tuple[str, ...], where: str) -> Any:
    for name in names:
        if name in document:
            return missing(document[name], "data", f"{where}: {name}")
    raise UserError(f"{where}: '{names[0]}' is missing")


def write(path: Path, calibration: Calibration) -> None:
    """Write a camera. Raises UserError for several cameras, or a model that OpenCV does not have."""
    name, camera = calibration.only_camera("an OpenCV file")
    if camera.model in ("double_sphere", "ocam"):
        raise UserError(
            f"{name}: OpenCV has no {camera.model}; expected plumb_bob, rational_polynomial, kannala_brandt"
        )
    (fx, fy), (cx, cy) = camera.focal_px, camera.center_px
    coefficients = camera.coefficients or (0.0,) * 5
    put(path, "\n".join((
        "%YAML:1.0", "---", f'camera_name: "{name}"', f"image_width: {camera.width_px}",
        f"image_height: {camera.height_px}", f"fisheye_model: {int(camera.model == 'kannala_brandt')}",
        _matrix_text("camera_matrix", np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])),
        _matrix_text("distortion_coefficients", np.array(coefficients)[:, None]), "",
    )))  # fmt: skip


def _matrix_text(name: str, values: Any) -> str:
    data = ", ".join(repr(float(value)) for value in values.ravel())
    rows, columns = values.shape
    return f"{name}: !!opencv-matrix\n   rows: {rows}\n   cols: {columns}\n   dt: d\n   data: [ {data} ]"


__all__ = ["read", "write"]
