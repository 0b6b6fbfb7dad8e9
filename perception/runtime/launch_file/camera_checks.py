"""Can these intrinsics be those of this camera? Size, centre, focal lengths, distortion, exposure."""

from __future__ import annotations

import math

import numpy as np

from perception.errors import GeometryError
from perception.geometry.cameras import Camera
from perception.geometry.rig_file import CameraFile, SensorFile
from perception.runtime.launch_file.faults import Faults
from perception.runtime.launch_file.yaml_lines import Document

WIDE = ("kannala_brandt", "double_sphere", "ocam")
"""Models of lenses that see more than a half sphere."""
OFF_CENTRE = 0.2
"""Share of the size by which the principal point may be off in both directions; pictures are cropped in one of them."""


def check_camera(
    name: str, document: Document, camera: CameraFile, rig: Document, sensor: SensorFile, faults: Faults
) -> None:
    """Report what cannot be.

    Args:
        name: of the sensor.
        document: the camera's file.
        camera: its content.
        rig: the document of rig.yaml.
        sensor: the sensor's entry there.
        faults: takes the faults.
    """
    _check_size(name, document, camera, sensor, faults)
    _check_numbers(document, camera, faults)
    if sensor.exposure_ms > 1000 / sensor.rate_hz:
        what = f"'{name}' exposes {sensor.exposure_ms:g} ms at {sensor.rate_hz:g} Hz"
        faults.add("exposure", rig.file, rig.line("sensors", name, "exposure_ms"), what, "less than the period")
    size = (camera.width_px, camera.height_px)
    try:
        made = Camera(camera.model, *size, camera.focal_px, camera.center_px, camera.coefficients)
    except GeometryError as error:
        if "focal_px" not in str(error):  # said above
            faults.add("coefficients", document.file, document.line("coefficients"), str(error), "what the model has")
        return
    if camera.model in WIDE:
        return
    right, bottom = size[0] - 1, size[1] - 1
    border = [(0, 0), (right, 0), (0, bottom), (right, bottom), (right / 2, 0), (0, bottom / 2)]
    if not made.unproject(np.array(border, np.float64))[1].all():
        faults.add(
            "distortion-folds", document.file, document.line("coefficients"), "a corner of the picture has no ray",
            "coefficients that hold up to the corners",
        )  # fmt: skip


def _check_size(name: str, document: Document, camera: CameraFile, sensor: SensorFile, faults: Faults) -> None:
    size = (camera.width_px, camera.height_px)
    if sensor.image is not None and (sensor.image.width_px, sensor.image.height_px) != size:
        delivered = f"{sensor.image.width_px} x {sensor.image.height_px}"
        faults.add(
            "intrinsics-size", document.file, document.line("width_px"),
            f"is of {size[0]} x {size[1]}, '{name}' delivers {delivered}", "intrinsics of the delivered size",
        )  # fmt: skip


def _check_numbers(document: Document, camera: CameraFile, faults: Faults) -> None:
    (width, height), (cx, cy) = (camera.width_px, camera.height_px), camera.center_px
    line, off = document.line("center_px"), (abs(cx / width - 0.5), abs(cy / height - 0.5))
    if not (0 <= cx < width and 0 <= cy < height):
        what = f"({cx:g}, {cy:g}) lies outside {width} x {height}"
        faults.add("intrinsics-center", document.file, line, what, "a point inside")
    elif min(off) > OFF_CENTRE:
        what = f"({cx:g}, {cy:g}) is far from the middle of {width} x {height}"
        faults.add("intrinsics-center", document.file, line, what, "intrinsics of this picture size")
    elif camera.model != "ocam" and not _is_lens(camera):
        fx, fy = camera.focal_px
        what = f"({fx:g}, {fy:g}) on {width} x {height} pixels"
        expected = "a view of 2 to 170 degrees (fisheyes: 360), fx about fy"
        faults.add("intrinsics-focal", document.file, document.line("focal_px"), what, expected)


def _is_lens(camera: CameraFile) -> bool:
    fx, fy = camera.focal_px
    if min(fx, fy) <= 0 or not 0.5 < fx / fy < 2:
        return False
    half = camera.width_px / 2 / fx
    angle, most = (2 * half, 360) if camera.model in WIDE else (2 * math.atan(half), 170)
    return 2 < math.degrees(angle) < most


__all__ = ["check_camera"]
