"""`perception calibrate stereo`."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception.cli.calibrate.board import BOARD_HELP
from perception.cli.calibrate.inputs import SOURCE_HELP, Picture, now, pictures
from perception.cli.calibrate.intrinsics import MODEL_HELP, known_model

if TYPE_CHECKING:
    from perception.calibrate.boards import Board, BoardView
    from perception.calibrate.stereo import StereoResult
    from perception.geometry.cameras import Camera
    from perception.geometry.rig_file import ExtrinsicsFile

PAIRS_SHOWN = 6


def stereo(
    left: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    right: Annotated[str, typer.Argument(help="The same for the right camera; may be the same log or endpoint.")],
    board: Annotated[str, typer.Option(help=BOARD_HELP)],
    out: Annotated[Path, typer.Option(help="The calibration file to write.")],
    left_camera: Annotated[Path | None, typer.Option(help="Intrinsics; else they are calibrated from LEFT.")] = None,
    right_camera: Annotated[Path | None, typer.Option(help="Intrinsics; else they are calibrated from RIGHT.")] = None,
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "plumb_bob",
    left_topic: Annotated[str | None, typer.Option(help="The left topic of a log or a running graph.")] = None,
    right_topic: Annotated[str | None, typer.Option(help="The right topic.")] = None,
    names: Annotated[str, typer.Option(help="Names of the two cameras in the rig.")] = "cam_left,cam_right",
    tolerance_ms: Annotated[float, typer.Option(min=0, help="How far apart stamps of a pair may be.")] = 5.0,
    every: Annotated[int, typer.Option(min=1, help="Take every so many pairs.")] = 1,
    seconds: Annotated[float, typer.Option(min=1, help="How long to listen to a running graph.")] = 30.0,
    report: Annotated[Path | None, typer.Option(help="The HTML report; by default beside the file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Calibrate a pair: perception calibrate stereo 'shots/left*' 'shots/right*' --board ... --out stereo.yaml.

    Files of two folders or patterns pair in counting order; of logs, by their stamps.
    """
    from perception.calibrate.boards import Board
    from perception.calibrate.calibration_file import extrinsics_file, read_camera, write_calibration
    from perception.calibrate.intrinsics import calibrate_intrinsics
    from perception.calibrate.quality import complaints_of_stereo
    from perception.calibrate.stereo import calibrate_stereo
    from perception.errors import UserError
    from perception.geometry.rig_file import CalibrationRecord

    parsed = Board.parse(board)
    known_model(model)
    left_name, comma, right_name = names.partition(",")
    if not (left_name and comma and right_name):
        raise UserError(f"--names {names}: expected two names, such as cam_left,cam_right")
    sides = ((left, left_topic), (right, right_topic or left_topic))
    with ThreadPoolExecutor(2) as both:  # of a running graph, both at once
        shown = list(both.map(lambda side: list(pictures(*side, seconds=seconds)), sides))
    pairs, given = _pairs(shown[0], shown[1], tolerance_ms)
    pairs = pairs[::every]
    found = [(parsed.find(a.grey, a.name, a.t_ns), parsed.find(b.grey, b.name, b.t_ns), a, b) for a, b in pairs]
    views = [(a, b) for a, b, _, _ in found if a is not None and b is not None]
    cameras: list[Camera] = []
    for side, file in enumerate((left_camera, right_camera)):
        if file is not None:
            cameras.append(read_camera(file))
            continue
        height, width = pairs[0][side].grey.shape if pairs else (1, 1)
        seen = [view for entry in found if (view := entry[side]) is not None]
        cameras.append(calibrate_intrinsics(parsed, seen, width, height, model).camera)  # type: ignore[arg-type]
    result = calibrate_stereo(parsed, views, *cameras)
    complaints = complaints_of_stereo(result, cameras[0].width_px)
    record = CalibrationRecord(
        method=f"least squares on corners of a {parsed.kind} in both pictures", date=now(), source=f"{left}, {right}",
        views=len(result.pairs),
        residual={"rms_px": round(result.rms_px, 4)}
        | ({} if result.epipolar_rms_px is None else {"epipolar_rms_px": round(result.epipolar_rms_px, 4)}),
        uncertainty={**_named("rotation_{}_rad", result.rotation_std_rad),
                     **_named("translation_{}_m", result.translation_std_m)},
        complaints=tuple(complaints), content_hash="",
    )  # fmt: skip
    key = f"{right_name}_optical_from_{left_name}_optical"
    file_ = extrinsics_file({key: result.right_from_left}, record)
    write_calibration(out, file_, f"Extrinsics by perception calibrate; baseline {result.baseline_m * 1e3:.2f} mm.")
    page = report or out.with_suffix(".html")
    _write_report(result, complaints, parsed, found, cameras, file_, page)
    if as_json:
        print(json.dumps(file_.model_dump(mode="json") | {"baseline_m": result.baseline_m}, indent=1))
        return
    print(f"{out}: {len(result.pairs)} of {given} pairs, residual {result.rms_px:.3f} px rms")
    print(f"  baseline {result.baseline_m * 1e3:.2f} mm, turned by {_degrees(result):.3f} degrees")
    if result.epipolar_rms_px is not None:
        print(f"  rows differ by {result.epipolar_rms_px:.3f} px rms after rectification")
    for complaint in complaints:
        print(f"  poor: {complaint}")
    print(f"  report: {page}")


def _degrees(result: StereoResult) -> float:
    return result.right_from_left.angle_rad() * 180 / 3.141592653589793


def _named(pattern: str, values: object) -> dict[str, float]:
    return {pattern.format(axis): float(f"{value:.3g}") for axis, value in zip("xyz", values, strict=True)}  # type: ignore[call-overload]


def _pairs(left: list[Picture], right: list[Picture], tolerance_ms: float) -> tuple[list[tuple[Picture, Picture]], int]:
    """Pair by stamps where both have them, else by order. Raises UserError for folders of different lengths."""
    from perception.errors import UserError

    if all(picture.t_ns for picture in (*left, *right)):
        pairs = []
        for picture in left:
            nearest = min(right, key=lambda other: abs(other.t_ns - picture.t_ns))
            if abs(nearest.t_ns - picture.t_ns) <= tolerance_ms * 1e6:
                pairs.append((picture, nearest))
        return pairs, len(left)
    if len(left) != len(right):
        raise UserError(f"{len(left)} left and {len(right)} right pictures without stamps do not pair by order")
    return list(zip(left, right, strict=True)), len(left)


def _write_report(
    result: StereoResult, complaints: list[str], board: Board,
    found: list[tuple[BoardView | None, BoardView | None, Picture, Picture]], cameras: list[Camera],
    file: ExtrinsicsFile, path: Path,
) -> None:  # fmt: skip
    import numpy as np

    from perception.calibrate.report import Report, bars, error_scatter, picture
    from perception.errors import GeometryError
    from perception.geometry.rectification import stereo_rectification
    from perception.ops.remap import remapped

    shift = result.right_from_left.translation_m
    page = Report("Calibration of a stereo pair", {
        "baseline": f"{result.baseline_m * 1e3:.3f} mm",
        "translation": "  ".join(f"{value * 1e3:.3f}" for value in shift) + " mm, right from left",
        "rotation": f"{_degrees(result):.4f} degrees",
        "residual": f"{result.rms_px:.3f} px rms",
        "rows after rectification": "not measured" if result.epipolar_rms_px is None
        else f"{result.epipolar_rms_px:.3f} px rms",
        "uncertainty": ", ".join(f"{key} {value:.2g}" for key, value in file.record.uncertainty.items()),
        "pairs": f"{len(result.pairs)} used of {len(found)}", "board": board.kind,
        "date": file.record.date, "hash": file.record.content_hash,
    }, complaints)  # fmt: skip
    page.section("Residuals")
    page.figure(error_scatter(np.concatenate(result.left_errors_px)), "left")
    page.figure(error_scatter(np.concatenate(result.right_errors_px)), "right")
    each = {name: float(np.sqrt((np.concatenate(errors) ** 2).sum(1).mean())) for name, *errors in
            zip(result.pairs, result.left_errors_px, result.right_errors_px, strict=True)}  # fmt: skip
    page.figure(bars(each, "px"), "residual by pair")
    page.section("Rectified: every point lies on one row")
    try:
        rectified = stereo_rectification(cameras[0], cameras[1], result.right_from_left)
    except GeometryError as error:
        page.figure(f"<p>{error}</p>", "")
    else:
        for _, _, a, b in [entry for entry in found if entry[0] is not None][:PAIRS_SHOWN]:
            both = np.concatenate((remapped(a.grey, rectified.left), remapped(b.grey, rectified.right)), axis=1)
            both = np.repeat(both[..., None], 3, axis=2)
            both[both.shape[0] // 12 :: both.shape[0] // 12, :, 1] = 255
            page.figure(picture(both, 900), a.name)
    page.write(path)


__all__ = ["stereo"]
