"""`perception calibrate convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from types import ModuleType

FORMATS = ("perception", "kalibr", "ros", "nuscenes", "kitti", "autoware", "ocamcalib", "opencv")


def convert(
    source: Annotated[Path, typer.Argument(help="A calibration file, or a rig's folder.")],
    out: Annotated[Path, typer.Argument(help="The file to write; for perception, a folder.")],
    given: Annotated[str, typer.Option("--from", help=", ".join(FORMATS))],
    wanted: Annotated[str, typer.Option("--to", help="The same.")] = "perception",
) -> None:
    """Turn calibrations into other formats: perception calibrate convert camchain.yaml rig/ --from kalibr.

    What a format cannot hold (a camera model, distortion) is refused.
    """
    reader, writer = _format(given, "--from"), _format(wanted, "--to")
    calibration = reader.read(source)
    extra: dict[str, Any] = {}
    if wanted == "perception":
        from perception.cli.calibrate.inputs import now

        extra = {"source": f"{given}: {source}", "date": now()}
    writer.write(out, calibration, **extra)
    cameras, transforms = ", ".join(calibration.cameras) or "none", ", ".join(calibration.transforms) or "none"
    print(f"{out}: {wanted}; cameras: {cameras}; transforms: {transforms}")


def _format(name: str, option: str) -> ModuleType:
    import importlib

    from perception.errors import UserError, did_you_mean

    if name not in FORMATS:
        raise UserError(f"{option} {name}: no such format; expected {', '.join(FORMATS)}.{did_you_mean(name, FORMATS)}")
    return importlib.import_module(f"perception.calibrate.formats.{'own' if name == 'perception' else name}")


__all__ = ["convert"]
