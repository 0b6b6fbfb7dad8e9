"""`perception calibrate camera-lidar`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception.cli.calibrate.board import BOARD_HELP
from perception.cli.calibrate.inputs import Picture, grey_of, now

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from perception.calibrate.boards import BoardView

PICTURES_SHOWN = 8


def camera_lidar(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="A log with pictures and sweeps of a board at rest.")],
    rig: Annotated[Path, typer.Argument(metavar="RIG", help="The rig's folder: intrinsics, and a first guess.")],
    camera: Annotated[str, typer.Option(help="The camera, by its name in the rig.")],
    lidar: Annotated[str, typer.Option(help="The LiDAR, by its name in the rig.")],
    board: Annotated[str, typer.Option(help=BOARD_HELP)],
    out: Annotated[Path, typer.Option(help="The calibration file to write.")],
    tolerance_ms: Annotated[float, typer.Option(min=0, help="How far apart picture and sweep may be.")] = 60.0,
    report: Annotated[Path | None, typer.Option(help="The HTML report; by default beside the file.")] = None,
) -> None:
    """A camera on a LiDAR: perception calibrate camera-lidar LOG RIG --camera cam --lidar lidar --board ... --out x.yaml.

    Hold a large board at rest in ten and more places, 2 to 6 m away, tilted to all sides. `calibrate check` then tells
    from any drive whether the edges of what both see agree, too.
    """
    import numpy as np

    from perception.calibrate.boards import Board
    from perception.calibrate.calibration_file import extrinsics_file, write_calibration
    from perception.calibrate.camera_lidar import calibrate_camera_lidar, complaints_of_camera_lidar
    from perception.calibrate.intrinsics import different_views
    from perception.calibrate.report import Report, marked, picture
    from perception.geometry.rig import load_rig
    from perception.geometry.rig_file import CalibrationRecord

    parsed, known = Board.parse(board), load_rig(rig)
    intrinsics, frame = known.camera(camera), known.sensor(camera).frame
    pictures, sweeps = _recorded(log, camera, lidar)
    views: list[BoardView] = []
    shown: dict[str, Picture] = {}
    for shot in pictures:
        view = parsed.find(shot.grey, shot.name, shot.t_ns)
        if view is not None:
            views.append(view)
            shown[shot.name] = shot
    left_out: dict[str, str] = {}
    chosen = different_views(views, intrinsics.width_px, left_out)
    pairs = []
    for view in chosen:
        t_ns, points = min(sweeps, key=lambda sweep: abs(sweep[0] - view.t_ns))
        if abs(t_ns - view.t_ns) <= tolerance_ms * 1e6:
            pairs.append((view, points))
    result = calibrate_camera_lidar(intrinsics, parsed, pairs, known.transform(frame, known.sensor(lidar).frame))
    complaints = complaints_of_camera_lidar(result)
    record = CalibrationRecord(
        method=f"points of the LiDAR on the planes of a {parsed.kind}", date=now(), source=str(log),
        views=result.boards, residual={"rms_m": round(result.rms_m, 4)},
        coverage={"normals_spread": round(result.normals_spread, 3)},
        uncertainty={"rotation_rad": float(f"{result.rotation_std_rad.max():.3g}"),
                     "translation_m": float(f"{result.translation_std_m.max():.3g}")},
        complaints=tuple(complaints), content_hash="",
    )  # fmt: skip
    base_link_from_optical = known.base_link_from(known.sensor(lidar).frame) @ result.optical_from_lidar.inverse()
    transforms = {f"{frame}_from_{lidar}": result.optical_from_lidar, f"base_link_from_{frame}": base_link_from_optical}
    file = extrinsics_file(transforms, record)
    write_calibration(out, file, f"{camera} against {lidar} by perception calibrate camera-lidar.")
    moved = known.transform(frame, known.sensor(lidar).frame) @ result.optical_from_lidar.inverse()
    page = Report("Camera and LiDAR", {
        "boards": f"{result.boards} of {len(views)} views", "points": str(result.points),
        "residual": f"{result.rms_m * 100:.2f} cm rms",
        "uncertainty": f"{result.translation_std_m.max() * 1e3:.1f} mm, "
                       f"{np.degrees(result.rotation_std_rad.max()):.3f} degrees",
        "off the guess by": f"{np.linalg.norm(moved.translation_m) * 100:.1f} cm, "
                            f"{np.degrees(moved.angle_rad()):.2f} degrees",
        "date": record.date, "hash": file.record.content_hash,
    }, complaints)  # fmt: skip
    page.section("Points of the LiDAR on the boards (crosses), corners (rings)")
    for (view, _), on in list(zip(pairs, result.on_board, strict=False))[:PICTURES_SHOWN]:
        pixels, seen = intrinsics.project(result.optical_from_lidar.apply(on))
        page.figure(picture(marked(shown[view.name].grey, view.pixels, pixels[seen])), view.name)
    page.write(report or out.with_suffix(".html"))
    print(f"{out}: {result.boards} boards, {result.points} points, residual {result.rms_m * 100:.2f} cm rms")
    shift_cm, turn_deg = np.linalg.norm(moved.translation_m) * 100, np.degrees(moved.angle_rad())
    print(f"  {shift_cm:.1f} cm and {turn_deg:.2f} degrees off the guess")
    for complaint in complaints:
        print(f"  poor: {complaint}")


def _recorded(log: Path, camera: str, lidar: str) -> tuple[list[Picture], list[tuple[int, NDArray[np.float64]]]]:
    """Return pictures and sweeps (stamp, points). Raises UserError where one of the topics is not there."""
    import numpy as np

    from perception.errors import UserError
    from perception.logs.open_log import open_log
    from perception.messages import Image, PointCloud, host

    opened = open_log(log)
    wanted: dict[str, Any] = {f"{camera}/image": Image, f"{lidar}/points": PointCloud}
    for topic, kind in wanted.items():
        if opened.topics().get(topic) is not kind:
            raise UserError(f"{log}: no {kind.__name__} on '{topic}'; it has {', '.join(opened.topics())}")
    pictures, sweeps = [], []
    for _, message in opened.messages(topics=list(wanted)):
        t_ns = message.header.t_sensor_ns
        if isinstance(message, Image):
            pictures.append(Picture(str(t_ns), t_ns, grey_of(message)))
        elif isinstance(message, PointCloud):
            sweeps.append((t_ns, host(message.xyz_m).astype(np.float64)))
    return pictures, sweeps


__all__ = ["camera_lidar"]
