"""`perception calibrate intrinsics`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception.cli.calibrate.board import BOARD_HELP
from perception.cli.calibrate.inputs import SOURCE_HELP, TOPIC_HELP, Picture, now, pictures

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from perception.calibrate.boards import Board, BoardView
    from perception.calibrate.intrinsics import IntrinsicsResult
    from perception.calibrate.quality import Coverage
    from perception.geometry.rig_file import CameraFile

MODEL_HELP = "plumb_bob, rational_polynomial, or for a fisheye kannala_brandt, double_sphere or ocam."
PICTURES_SHOWN = 12


def intrinsics(
    source: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    board: Annotated[str, typer.Option(help=BOARD_HELP)],
    out: Annotated[Path, typer.Option(help="The calibration file to write.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "plumb_bob",
    topic: Annotated[str | None, typer.Option(help=TOPIC_HELP)] = None,
    serial: Annotated[str, typer.Option(help="Serial number of the camera, kept with its numbers.")] = "",
    every: Annotated[int, typer.Option(min=1, help="Take every so many pictures.")] = 1,
    seconds: Annotated[float, typer.Option(min=1, help="How long to listen to a running graph.")] = 30.0,
    report: Annotated[Path | None, typer.Option(help="The HTML report; by default beside the file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Calibrate a camera: perception calibrate intrinsics shots/ --board chessboard:9x6:0.024 --out cam_front.yaml.

    Move the board into every part of the picture, the corners too, and tilt it to all sides; 20 pictures are good.
    """
    from perception.calibrate.boards import Board

    parsed = Board.parse(board)
    known_model(model)
    found = find_boards(parsed, pictures(source, topic, seconds=seconds, every=every))
    finish(found, parsed, model, source, serial, out, report or out.with_suffix(".html"), as_json=as_json)


class Found:
    """Views of a board, and the pictures behind them."""

    def __init__(
        self, views: Sequence[BoardView], shown: dict[str, Picture], given: int, size: tuple[int, int]
    ) -> None:
        self.views, self.shown, self.given, self.size = views, shown, given, size


def known_model(model: str) -> None:
    """Refuse a model that there is not. Raises UserError."""
    from perception.errors import UserError, did_you_mean
    from perception.geometry.cameras import COEFFICIENTS

    known = [*COEFFICIENTS, "ocam"]
    if model not in known:
        raise UserError(
            f"--model {model}: there is no such model; expected {', '.join(known)}.{did_you_mean(model, known)}"
        )


def find_boards(board: Board, source: Iterable[Picture]) -> Found:
    """Find the board in pictures of one size. Raises UserError for pictures of two sizes."""
    from perception.errors import UserError

    views: list[BoardView] = []
    shown: dict[str, Picture] = {}
    given, size = 0, (0, 0)
    for picture in source:
        shape = (picture.grey.shape[1], picture.grey.shape[0])
        if given and shape != size:
            raise UserError(
                f"{picture.name} is {shape[0]} x {shape[1]}, others {size[0]} x {size[1]}: one camera, one size"
            )
        size, given = shape, given + 1
        view = board.find(picture.grey, picture.name, picture.t_ns)
        if view is not None:
            views.append(view)
            if len(shown) < PICTURES_SHOWN:
                shown[picture.name] = picture
    return Found(views, shown, given, size)


def finish(
    found: Found, board: Board, model: str, source: str, serial: str, out: Path, report: Path, *, as_json: bool,
    method: str = "",
) -> CameraFile:  # fmt: skip
    """Calibrate, write the file and the report, and say how good it is."""
    from perception.calibrate.calibration_file import camera_file, write_calibration
    from perception.calibrate.intrinsics import calibrate_intrinsics
    from perception.calibrate.quality import complaints_of_intrinsics, coverage_of
    from perception.geometry.rig_file import CalibrationRecord

    result = calibrate_intrinsics(board, found.views, *found.size, model)  # type: ignore[arg-type]
    coverage = coverage_of(result.camera, result.views, result.poses)
    complaints = complaints_of_intrinsics(result, coverage)
    record = CalibrationRecord(
        method=method or f"least squares on corners of a {board.kind}", date=now(), source=source,
        views=len(result.views), residual={"rms_px": round(result.rms_px, 4)},
        coverage={"picture": round(coverage.share, 3), "picture_corners": round(coverage.corner_share, 3),
                  "tilt_deg": round(coverage.tilt_deg, 1)},
        uncertainty={**{name: float(f"{value:.3g}") for name, value in result.deviation.items()},
                     "projection_px": round(result.projection_std_px, 3)},
        complaints=tuple(complaints), content_hash="",
    )  # fmt: skip
    file = camera_file(result.camera, serial, record)
    write_calibration(out, file, f"Intrinsics by perception calibrate; report in {report.name}.")
    write_report(result, coverage, complaints, found, file, report)
    if as_json:
        print(json.dumps(file.model_dump(mode="json"), indent=1))
        return file
    (fx, fy), (cx, cy) = result.camera.focal_px, result.camera.center_px
    print(f"{out}: {model}, {len(result.views)} of {found.given} pictures ({len(found.views)} with the board)")
    print(f"  focal {fx:.2f} {fy:.2f} px, centre {cx:.2f} {cy:.2f} px, residual {result.rms_px:.3f} px rms")
    print(f"  covers {coverage.share:.0%} of the picture, pixels certain to {result.projection_std_px:.2f} px")
    for complaint in complaints:
        print(f"  poor: {complaint}")
    print(f"  report: {report}")
    return file


def write_report(
    result: IntrinsicsResult, coverage: Coverage, complaints: list[str], found: Found, file: CameraFile, path: Path
) -> None:
    """Write the HTML report."""
    import numpy as np

    from perception.calibrate.report import Report, bars, coverage_map, error_scatter, marked, picture
    from perception.geometry.rectification import pinhole_of, undistortion_map
    from perception.ops.remap import remapped

    camera = result.camera
    view = camera.field_of_view()
    assert file.record is not None
    facts = {
        "model": camera.model, "size": f"{camera.width_px} x {camera.height_px} px",
        "focal": "  ".join(f"{value:.3f}" for value in camera.focal_px) + " px",
        "centre": "  ".join(f"{value:.3f}" for value in camera.center_px) + " px",
        "coefficients": "  ".join(f"{value:.6g}" for value in camera.coefficients),
        "field of view": f"{np.degrees(view.horizontal_rad):.1f} x {np.degrees(view.vertical_rad):.1f} degrees",
        "residual": f"{result.rms_px:.3f} px rms over {sum(map(len, result.errors_px))} corners",
        "uncertainty": ", ".join(f"{name} {value:.3g}" for name, value in result.deviation.items()),
        "pixels certain to": f"{result.projection_std_px:.2f} px",
        "coverage": f"{coverage.share:.0%} of the picture, {coverage.corner_share:.0%} of its corners, boards "
                    f"{coverage.tilt_deg:.0f} degrees apart",
        "pictures": f"{len(result.views)} used, {len(found.views)} with the board, {found.given} given",
        "date": file.record.date, "hash": file.record.content_hash,
    }  # fmt: skip
    page = Report("Calibration of intrinsics", facts, complaints)
    page.section("Coverage and residuals")
    corners = np.concatenate([view.pixels for view in result.views])
    page.figure(coverage_map(coverage.cells, corners, found.size), "corners in the picture")
    page.figure(error_scatter(np.concatenate(result.errors_px)), "errors of all corners")
    each = {view.name: float(np.sqrt((error**2).sum(1).mean()))
            for view, error in zip(result.views, result.errors_px, strict=True)}  # fmt: skip
    page.figure(bars(each, "px"), "residual by picture")
    page.section("Overlays: seen (rings) and calibrated (crosses)")
    for view_, error in zip(result.views, result.errors_px, strict=True):
        if view_.name in found.shown:
            overlay = marked(found.shown[view_.name].grey, view_.pixels, view_.pixels + error)
            page.figure(picture(overlay), f"{view_.name}: {each[view_.name]:.3f} px")
    page.section("Straightened")
    for shown in list(found.shown.values())[:2]:
        straight = remapped(shown.grey, undistortion_map(camera, pinhole_of(camera)))
        page.figure(picture(straight), f"{shown.name} without distortion")
    if result.left_out:
        page.section("Left out")
        page.figure("<ul>" + "".join(f"<li>{name}: {why}" for name, why in result.left_out.items()) + "</ul>", "")
    page.write(path)


__all__ = ["find_boards", "finish", "intrinsics", "known_model"]
