"""What all formats have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from perception.errors import UserError
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform


@dataclass(frozen=True)
class Calibration:
    """Cameras by name, and transforms by keys such as `cam1_optical_from_cam0_optical`.

    Attributes:
        cameras: intrinsics.
        transforms: between frames; cameras stand in `<name>_optical`.
        offset_ms: added to the stamps of a camera, it lays them on those of the inertial unit.
    """

    cameras: dict[str, Camera] = field(default_factory=dict)
    transforms: dict[str, Transform] = field(default_factory=dict)
    offset_ms: dict[str, float] = field(default_factory=dict)

    def only_camera(self, what: str) -> tuple[str, Camera]:
        """Return the one camera. Raises UserError where there are none or several."""
        if len(self.cameras) != 1:
            raise UserError(f"{what} holds one camera; this calibration has {', '.join(self.cameras) or 'none'}")
        return next(iter(self.cameras.items()))


def text_of(path: Path) -> str:
    """Read a text file. Raises UserError."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def yaml_of(path: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> dict[str, Any]:
    """Read a YAML mapping. Raises UserError."""
    try:
        document = yaml.load(text_of(path), loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: expected keys and values, found {type(document).__name__}")
    return document


def put(path: Path, text: str) -> None:
    """Write a text file. Raises UserError."""
    try:
        path.write_text(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def numbers(value: Any, count: int | None, where: str) -> list[float]:
    """Return a list of finite numbers. Raises UserError."""
    try:
        found = np.asarray(value, np.float64).ravel()
    except (TypeError, ValueError):
        raise UserError(f"{where}: not numbers: {str(value)[:60]}") from None
    if (count is not None and len(found) != count) or not np.isfinite(found).all():
        raise UserError(f"{where}: {len(found)} numbers; expected {count} finite ones")
    return [float(number) for number in found]


def matrix(value: Any, rows: int, columns: int, where: str) -> Any:
    """Return a matrix (rows, columns). Raises UserError."""
    return np.array(numbers(value, rows * columns, where)).reshape(rows, columns)


def rigid(value: Any, where: str) -> Transform:
    """Return a transform of a matrix (4, 4). Raises UserError."""
    from perception.errors import GeometryError

    try:
        return Transform.from_matrix(matrix(value, 4, 4, where), tolerance=1e-3)
    except GeometryError as error:
        raise UserError(f"{where}: {error}") from None


def missing(document: Any, key: str, where: str) -> Any:
    """Return a value that must be there. Raises UserError."""
    if not isinstance(document, dict) or key not in document:
        raise UserError(f"{where}: '{key}' is missing")
    return document[key]


__all__ = ["Calibration", "matrix", "missing", "numbers", "put", "rigid", "text_of", "yaml_of"]
