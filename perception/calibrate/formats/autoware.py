"""Autoware's sensor_kit_calibration.yaml: parent frame, child frame, x y z and roll pitch yaw about fixed axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from perception.calibrate.formats.calibration import Calibration, missing, numbers, put, yaml_of
from perception.errors import UserError
from perception.geometry.transforms import Transform

_KEYS = ("x", "y", "z", "roll", "pitch", "yaw")


def read(path: Path) -> Calibration:
    """Read the transforms. Raises UserError."""
    found = Calibration()
    for parent, children in yaml_of(path).items():
        if not isinstance(children, dict):
            raise UserError(f"{path}: '{parent}' holds no frames")
        for child, entry in children.items():
            where = f"{path}: {parent}: {child}"
            x, y, z, roll, pitch, yaw = numbers([missing(entry, key, where) for key in _KEYS], 6, where)
            found.transforms[f"{parent}_from_{child}"] = Transform.from_quaternion(
                (x, y, z), _quaternion(roll, pitch, yaw)
            )
    if not found.transforms:
        raise UserError(f"{path}: no frames; expected sensor_kit_base_link: {{camera0/camera_link: {{x: ...}}}}")
    return found


def write(path: Path, calibration: Calibration) -> None:
    """Write the transforms; intrinsics have no place there. Raises UserError."""
    document: dict[str, dict[str, dict[str, float]]] = {}
    for key, transform in calibration.transforms.items():
        parent, _, child = key.partition("_from_")
        x, y, z = (float(value) for value in transform.translation_m)
        roll, pitch, yaw = _angles(transform)
        document.setdefault(parent, {})[child] = dict(zip(_KEYS, (x, y, z, roll, pitch, yaw), strict=True))
    if not document:
        raise UserError("sensor_kit_calibration.yaml holds transforms; this calibration has none")
    put(path, yaml.safe_dump(document, sort_keys=False))


def _quaternion(roll: float, pitch: float, yaw: float) -> tuple[float, float, float, float]:
    cr, sr, cp, sp = np.cos(roll / 2), np.sin(roll / 2), np.cos(pitch / 2), np.sin(pitch / 2)
    cy, sy = np.cos(yaw / 2), np.sin(yaw / 2)
    return (
        float(sr * cp * cy - cr * sp * sy), float(cr * sp * cy + sr * cp * sy), float(cr * cp * sy - sr * sp * cy),
        float(cr * cp * cy + sr * sp * sy),
    )  # fmt: skip


def _angles(transform: Transform) -> tuple[float, float, float]:
    r = transform.rotation
    pitch = float(np.arcsin(np.clip(-r[2, 0], -1.0, 1.0)))
    if abs(r[2, 0]) > 1 - 1e-9:  # looking straight up or down: only roll minus or plus yaw is defined
        return float(np.arctan2(-r[1, 2], r[1, 1])), pitch, 0.0
    return float(np.arctan2(r[2, 1], r[2, 2])), pitch, float(np.arctan2(r[1, 0], r[0, 0]))


__all__ = ["read", "write"]
