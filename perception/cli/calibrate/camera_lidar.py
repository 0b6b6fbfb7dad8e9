"""`perception calibrate camera-lidar`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception.cli.calibrate.board import BOARD_HELP
from perception.cli.calibrate.inputs import Picture, grey_of, now, odometry_of, topics_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from perception.calibrate.bump.camera_edges import Shot
    from perception.calibrate.bump.ego_track import EgoTrack
    from perception.calibrate.bump.sweep import Sweep
    from perception.geometry.rig import Rig
    from perception.geometry.transforms import Transform

PICTURES_SHOWN = 8
MOST_PICTURES = 40


def camera_lidar(
    source: Annotated[str, typer.Argument(help="A log with pictures and sweeps, or the endpoint of a running graph.")],
    rig: Annotated[Path, typer.Argument(metavar="RIG", help="The rig's folder, or a log that has one: a first guess.")],
    camera: Annotated[str, typer.Option(help="The camera, by its name in the rig.")],
    lidar: Annotated[str, typer.Option(help="The LiDAR, by its name in the rig.")],
    out: Annotated[Path, typer.Option(help="The calibration file to write.")],
    board: Annotated[str | None, typer.Option(help=f"A board at rest, {BOARD_HELP} Without one: by edges.")] = None,
    edges: Annotated[bool, typer.Option("--edges", help="After the board, refine by edges.")] = False,
    only: Annotated[str, typer.Option(help="By edges: all, or rotation, which keeps the place of the guess.")] = "all",
    ego: Annotated[str | None, typer.Option(help="Odometry, if the vehicle moves; by default the log's.")] = None,
    tolerance_ms: Annotated[float, typer.Option(min=0, help="How far apart picture and sweep may be.")] = 60.0,
    seconds: Annotated[float, typer.Option(min=1, help="How long to listen to a running graph.")] = 30.0,
    report: Annotated[Path | None, typer.Option(help="The HTML report; by default beside the file.")] = None,
) -> None:
    """A camera on a LiDAR: perception calibrate camera-lidar LOG RIG --camera cam --lidar lidar --board B --out x.yaml.

    Hold a large board at rest in ten and more places, 2 to 6 m away, tilted to all sides. Without a board, the edges of
    what both see in an ordinary drive calibrate, from a guess that is good to a degree and 10 cm; with --edges, both.
    """
    from perception.errors import UserError

    if only not in ("all", "rotation"):
        raise UserError(f"--only {only}: expected all or rotation")
    taken = _taken(source, _rig(rig), camera, lidar, ego, seconds)
    by_boards = None if board is None else _by_boards(taken, board, tolerance_ms)
    found = by_boards
    if found is None or edges:
        found = _by_edges(taken, by_boards, tolerance_ms, only)
    _write(taken, found, [step for step in (by_boards, found) if step is not None], out, report)


@dataclass(frozen=True, eq=False)
class _Taken:
    """What was recorded of a camera and a LiDAR, and the guess."""

    source: str
    rig: Rig
    camera: str
    lidar: str
    pictures: list[Picture]
    sweeps: list[Sweep]
    track: EgoTrack | None
    """None where nothing says how the vehicle moved."""

    @property
    def stamps(self) -> NDArray[np.int64]:
        import numpy as np

        return np.array([sweep.t_ns for sweep in self.sweeps], np.int64)

    @property
    def frame(self) -> str:
        return self.rig.sensor(self.camera).frame

    @property
    def base_link_from_lidar(self) -> Transform:
        return self.rig.base_link_from(self.rig.sensor(self.lidar).frame)

    @property
    def guess(self) -> Transform:
        """optical_from_lidar."""
        return self.rig.transform(self.frame, self.rig.sensor(self.lidar).frame)


@dataclass(frozen=True, eq=False)
class _Found:
    """A solution, with what the record, the report and the console say of it."""

    optical_from_lidar: Transform
    covariance: NDArray[np.float64]
    """(6, 6) in the camera's axes."""
    method: str
    views: int
    residual: dict[str, float]
    coverage: dict[str, float]
    complaints: list[str]
    facts: dict[str, str]
    title: str
    overlays: list[tuple[Picture, NDArray[np.float64], NDArray[np.float64]]]
    """Pictures with what is marked by rings, and by crosses."""


def _by_boards(taken: _Taken, word: str, tolerance_ms: float) -> _Found:
    import numpy as np

    from perception.calibrate.boards import Board
    from perception.calibrate.camera_lidar import calibrate_camera_lidar, complaints_of_camera_lidar
    from perception.calibrate.intrinsics import different_views

    board, intrinsics = Board.parse(word), taken.rig.camera(taken.camera)
    shown = {shot.name: shot for shot in taken.pictures}
    views = [view for shot in taken.pictures if (view := board.find(shot.grey, shot.name, shot.t_ns)) is not None]
    pairs, stamps = [], taken.stamps
    for view in different_views(views, intrinsics.width_px, {}):
        nearest = int(np.abs(stamps - view.t_ns).argmin())
        if abs(int(stamps[nearest]) - view.t_ns) <= tolerance_ms * 1e6:
            pairs.append((view, taken.sweeps[nearest].xyz_m))
    result = calibrate_camera_lidar(intrinsics, board, pairs, taken.guess)
    overlays = []
    for (view, _), on in list(zip(pairs, result.on_board, strict=False))[:PICTURES_SHOWN]:
        pixels, seen = intrinsics.project(result.optical_from_lidar.apply(on))
        overlays.append((shown[view.name], view.pixels, pixels[seen]))
    return _Found(
        result.optical_from_lidar, result.covariance, f"points of the LiDAR on the planes of a {board.kind}",
        result.boards, {"rms_m": round(result.rms_m, 4)}, {"normals_spread": round(result.normals_spread, 3)},
        complaints_of_camera_lidar(result),
        {"boards": f"{result.boards} of {len(views)} views", "points": str(result.points),
         "residual": f"{result.rms_m * 100:.2f} cm rms"},
        "Points of the LiDAR on the boards (crosses), corners (rings)", overlays,
    )  # fmt: skip


def _by_edges(taken: _Taken, before: _Found | None, tolerance_ms: float, only: str) -> _Found:
    from perception.calibrate.bump.estimate import PRIOR
    from perception.calibrate.camera_lidar_edges import calibrate_by_edges, complaints_of_edges, prior_of

    intrinsics, lidar = taken.rig.camera(taken.camera), taken.base_link_from_lidar
    guess = lidar @ (taken.guess if before is None else before.optical_from_lidar).inverse()
    prior = PRIOR if before is None else prior_of(before.covariance, guess)
    shots = _shots(taken, tolerance_ms)
    result = calibrate_by_edges(
        intrinsics, guess, [shot for _, shot in shots], prior=prior, keep_translation=only == "rotation"
    )
    overlays = []
    for shown, shot in shots[:: max(1, len(shots) // PICTURES_SHOWN)][:PICTURES_SHOWN]:
        (was, was_seen), (now_, now_seen) = (intrinsics.project(place.inverse().apply(shot.base_m))
                                             for place in (guess, result.base_link_from_optical))  # fmt: skip
        overlays.append((shown, was[was_seen], now_[now_seen]))
    kept = ", translation of the guess" if only == "rotation" else ""
    return _Found(
        result.base_link_from_optical.inverse() @ lidar, result.covariance,
        f"{'' if before is None else before.method + ', then '}edges of depth on edges of pictures{kept}",
        result.pictures, {} if before is None else before.residual, {"edges": float(result.edges)},
        complaints_of_edges(result), {"edges": f"{result.edges} in {result.pictures} pictures"},
        "Edges of depth, before (rings) and calibrated (crosses)", overlays,
    )  # fmt: skip


def _shots(taken: _Taken, tolerance_ms: float) -> list[tuple[Picture, Shot]]:
    """Return pictures, at most MOST_PICTURES, with the lines of the sweeps around them."""
    import numpy as np

    from perception.calibrate.bump.camera_edges import LATEST_S, make_shot
    from perception.calibrate.bump.ego_track import EgoTrack
    from perception.calibrate.bump.lidar_edges import SceneLines, scene_lines

    stamps, found = taken.stamps, []
    for shown in taken.pictures[:: max(1, len(taken.pictures) // MOST_PICTURES)]:
        if taken.track is None:  # nothing says where else the vehicle was: one sweep, as if of the picture's instant
            near = [int(np.abs(stamps - shown.t_ns).argmin())]
            track, latest_s = EgoTrack.standing(), np.inf
            near = [index for index in near if abs(int(stamps[index]) - shown.t_ns) <= tolerance_ms * 1e6]
        else:
            after = int(np.searchsorted(stamps, shown.t_ns))
            near = [index for index in (after - 1, after, after + 1) if 0 <= index < len(stamps)]
            track, latest_s = taken.track, LATEST_S
        if near and track.covers(np.array([shown.t_ns])).all():
            lines = [scene_lines(taken.sweeps[index], taken.base_link_from_lidar) for index in near]
            found.append((shown, make_shot(shown.t_ns, shown.grey, SceneLines.together(lines), track, latest_s)))
    return found


def _write(taken: _Taken, found: _Found, steps: list[_Found], out: Path, report: Path | None) -> None:
    """Write the file and the report, and say how good it is."""
    import numpy as np

    from perception.calibrate.calibration_file import extrinsics_file, write_calibration
    from perception.calibrate.report import Report, marked, picture
    from perception.geometry.rig_file import CalibrationRecord

    deviation = np.sqrt(np.diag(found.covariance))
    turn_deg, shift_m = np.degrees(deviation[:3].max()), deviation[3:].max()
    record = CalibrationRecord(
        method=found.method, date=now(), source=taken.source, views=found.views, residual=found.residual,
        coverage=found.coverage, complaints=tuple(found.complaints), content_hash="",
        uncertainty={"rotation_rad": float(f"{deviation[:3].max():.3g}"), "translation_m": float(f"{shift_m:.3g}")},
    )  # fmt: skip
    camera, lidar, frame = taken.camera, taken.lidar, taken.frame
    base_link_from_optical = taken.base_link_from_lidar @ found.optical_from_lidar.inverse()
    transforms = {f"{frame}_from_{lidar}": found.optical_from_lidar, f"base_link_from_{frame}": base_link_from_optical}
    file = extrinsics_file(transforms, record)
    write_calibration(out, file, f"{camera} against {lidar} by perception calibrate camera-lidar.")
    moved = taken.guess @ found.optical_from_lidar.inverse()
    off = f"{np.linalg.norm(moved.translation_m) * 100:.1f} cm and {np.degrees(moved.angle_rad()):.2f} degrees"
    facts = {key: value for step in steps for key, value in step.facts.items()}
    page = Report("Camera and LiDAR", {
        **facts, "uncertainty": f"{shift_m * 1e3:.1f} mm, {turn_deg:.3f} degrees", "off the guess by": off,
        "date": record.date, "hash": file.record.content_hash,
    }, found.complaints)  # fmt: skip
    for step in dict.fromkeys(steps):
        page.section(step.title)
        for shown, rings, crosses in step.overlays:
            page.figure(picture(marked(shown.grey, rings, crosses), 640), shown.name)
    page.write(report or out.with_suffix(".html"))
    print(f"{out}: {', '.join(f'{key} {value}' for key, value in facts.items())}")
    print(f"  {off} off the guess, certain to {shift_m * 1e3:.1f} mm and {turn_deg:.3f} degrees")
    for complaint in found.complaints:
        print(f"  poor: {complaint}")


def _rig(path: Path) -> Rig:
    """Return the rig of a folder, or of a log. Raises UserError where there is none."""
    from perception.errors import UserError
    from perception.geometry.rig import load_rig
    from perception.logs.open_log import open_log

    if (path / "rig.yaml").is_file():
        return load_rig(path)
    rig = open_log(path).rig
    if rig is None:
        raise UserError(f"{path}: no rig.yaml, and no log that has a rig; expected the folder of a rig")
    return rig


def _taken(source: str, rig: Rig, camera: str, lidar: str, ego: str | None, seconds: float) -> _Taken:
    """Return pictures, sweeps and motion. Raises UserError where one of the topics is not there."""
    from perception.calibrate.bump.recording import sweep_of, track_of
    from perception.errors import UserError
    from perception.messages import Image, Odometry, PointCloud

    ego = ego or odometry_of(source)
    wanted: dict[str, Any] = {f"{camera}/image": Image, f"{lidar}/points": PointCloud}
    wanted |= {ego: Odometry} if ego else {}
    pictures, sweeps, poses = [], [], []
    for _, message in topics_of(source, wanted, seconds=seconds):
        t_ns = message.header.t_sensor_ns
        if isinstance(message, Image):
            pictures.append(Picture(str(t_ns), t_ns, grey_of(message)))
        elif isinstance(message, PointCloud):
            sweeps.append(sweep_of(message))
        else:
            poses.append(message)
    for topic, some in ((f"{lidar}/points", sweeps), (f"{camera}/image", pictures)):
        if not some:
            raise UserError(f"{source}: nothing on '{topic}'")
    return _Taken(source, rig, camera, lidar, pictures, sweeps, track_of(poses) if len(poses) > 1 else None)


__all__ = ["camera_lidar"]
