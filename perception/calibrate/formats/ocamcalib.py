"""OCamCalib's calib_results.txt (Scaramuzza): both polynomials, centre, affine part and size of one camera."""

from __future__ import annotations

from pathlib import Path

from perception.calibrate.formats.calibration import Calibration, numbers, put, text_of
from perception.errors import UserError
from perception.geometry.camera_models.ocam import parts
from perception.geometry.cameras import Camera


def read(path: Path) -> Calibration:
    """Read a result. Raises UserError; GeometryError for numbers that no camera has."""
    lines = [line.split() for line in text_of(path).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) < 5:
        raise UserError(
            f"{path}: {len(lines)} lines of numbers; expected 5: two polynomials, centre, affine part, size"
        )
    by_radius, by_angle = (numbers(line, None, f"{path}: polynomial") for line in lines[:2])
    row, column = numbers(lines[2], 2, f"{path}: centre")
    c, d, e = numbers(lines[3], 3, f"{path}: affine part")
    height, width = numbers(lines[4], 2, f"{path}: size")
    for name, values in (("direct", by_radius), ("inverse", by_angle)):
        if not values or values[0] != len(values) - 1:
            raise UserError(f"{path}: the {name} polynomial says {values[:1]} coefficients, {len(values) - 1} follow")
    camera = Camera("ocam", int(width), int(height), (1.0, 1.0), (column, row), (c, d, e, *by_radius, *by_angle))
    return Calibration({path.stem: camera})


def write(path: Path, calibration: Calibration) -> None:
    """Write a result. Raises UserError for several cameras, or one of another model."""
    name, camera = calibration.only_camera("calib_results.txt")
    if camera.model != "ocam" or camera.focal_px != (1.0, 1.0):
        raise UserError(f"{name}: OCamCalib has ocam cameras at the size of calibration only, not {camera.model}")
    (c, d, e), by_radius, by_angle = parts(camera.coefficients)
    put(path, "\n".join((
        "#polynomial coefficients for the DIRECT mapping function (ocam_model.ss in MATLAB): cam2world",
        _row([len(by_radius), *by_radius]),
        "#polynomial coefficients for the inverse mapping function (ocam_model.invpol in MATLAB): world2cam",
        _row([len(by_angle), *by_angle]),
        '#center: "row" and "column", starting from 0 (C convention)', _row([camera.center_px[1], camera.center_px[0]]),
        '#affine parameters "c", "d", "e"', _row([c, d, e]),
        '#image size: "height" and "width"', f"{camera.height_px} {camera.width_px}", "",
    )))  # fmt: skip


def _row(values: list[float]) -> str:
    return " ".join(str(value) if isinstance(value, int) else repr(float(value)) for value in values)


__all__ = ["read", "write"]
