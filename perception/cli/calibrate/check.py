"""`perception calibrate check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from perception.calibrate.bump.findings import Finding
    from perception.geometry.rig import Rig
    from perception.logs.log import Log

MOST_PICTURES = 40


def check(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="An ordinary recording of a drive, 10 s or longer.")],
    launch_file: Annotated[Path, typer.Argument(metavar="FILE", help="The launch file whose rig is checked.")],
    seconds: Annotated[float, typer.Option(min=2, help="How much of the recording is looked at.")] = 20.0,
    ego: Annotated[str | None, typer.Option(help="The Odometry topic; by default the log's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Find a sensor that was bumped, without a board: perception calibrate check drive.mcap car.yaml.

    The LiDAR is held against the odometry and the road, each camera against the LiDAR. Ends 1 when a sensor moved.
    """
    from perception.cli.graph_of import graph_of
    from perception.errors import UserError
    from perception.logs.open_log import open_log

    opened = open_log(log)
    graph = graph_of(launch_file) if _names_a_rig(launch_file) else graph_of(launch_file, log)
    if graph.rig is None:
        raise UserError(f"{launch_file}: it names no rig, and {log} brings none")
    findings = check_rig(opened, graph.rig, ego or _odometry(opened), seconds)
    if as_json:
        print(json.dumps([_document(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(finding.text())
        moved = [finding.sensor for finding in findings if finding.state == "moved"]
        print(f"moved: {', '.join(moved)}; calibrate again" if moved else "no sensor has moved, as far as this tells")
    return 1 if any(finding.state == "moved" for finding in findings) else 0


def check_rig(log: Log, rig: Rig, ego_topic: str, seconds: float = 20.0) -> list[Finding]:
    """Check a rig against a recording.

    Raises:
        UserError: the recording has no odometry, or no LiDAR of the rig.
    """
    import numpy as np

    from perception.calibrate.bump.camera_edges import Shot, camera_moved, make_shot
    from perception.calibrate.bump.ego_track import EgoTrack
    from perception.calibrate.bump.findings import judged
    from perception.calibrate.bump.lidar_edges import SceneLines, scene_lines
    from perception.calibrate.bump.lidar_motion import lidar_moved
    from perception.calibrate.bump.sweep import Sweep
    from perception.errors import PerceptionError, UserError
    from perception.messages import Image, Odometry, PointCloud, host

    topics = log.topics()
    lidar = next(
        (s for s in rig.sensors.values() if s.kind == "lidar" and topics.get(f"{s.name}/points") is PointCloud), None
    )
    if lidar is None:
        raise UserError(f"{log.path}: no LiDAR of rig '{rig.name}' is in it; the check holds everything against one")
    if topics.get(ego_topic) is not Odometry:
        known = [name for name, kind in topics.items() if kind is Odometry]
        raise UserError(f"{log.path}: no odometry on '{ego_topic}'; it has {', '.join(known) or 'none'}: --ego TOPIC")
    cameras = [s for s in rig.sensors.values() if s.camera is not None and topics.get(f"{s.name}/image") is Image]
    sweeps: list[Sweep] = []
    poses: list[Odometry] = []
    shown: dict[str, list[tuple[int, Any]]] = {camera.name: [] for camera in cameras}
    start_ns = log.span().start_ns
    wanted = [f"{lidar.name}/points", ego_topic, *(f"{camera.name}/image" for camera in cameras)]
    for topic, message in log.messages(until_ns=start_ns + round(seconds * 1e9), topics=wanted):
        t_ns = message.header.t_sensor_ns
        if isinstance(message, PointCloud):
            offsets = None if message.t_offset_ns is None else host(message.t_offset_ns).astype(np.int64)
            xyz = host(message.xyz_m).astype(np.float64)
            finite = np.isfinite(xyz).all(axis=1) & (np.abs(xyz).max(axis=1) > 1e-3)
            times = np.full(len(xyz), t_ns) if offsets is None else t_ns + offsets
            ring = None if message.ring is None else host(message.ring).astype(np.int64)[finite]
            if finite.sum() > 100:
                sweeps.append(Sweep(t_ns, xyz[finite], times[finite], ring))
        elif isinstance(message, Odometry):
            poses.append(message)
        elif isinstance(message, Image):
            try:
                shown[topic.partition("/")[0]].append((t_ns, _grey(message)))
            except PerceptionError:
                continue
    track = EgoTrack.of(
        [p.header.t_sensor_ns for p in poses], [p.translation_m for p in poses], [p.rotation_xyzw for p in poses]
    )
    if track.distance_m() < 10:
        raise UserError(f"{log.path}: the vehicle drove {track.distance_m():.1f} m; the check needs 10 m and more")
    base_link_from_lidar = rig.base_link_from(lidar.frame)
    estimates = {lidar.name: lidar_moved(sweeps, base_link_from_lidar, track)}
    place = (
        base_link_from_lidar if (moved := estimates[lidar.name]) is None else _corrected(base_link_from_lidar, moved)
    )
    lines: dict[int, SceneLines] = {}
    stamps = np.array([sweep.t_ns for sweep in sweeps])
    found = {}
    for camera in cameras:
        shots: list[Shot] = []
        pictures = shown[camera.name]
        for t_ns, grey in pictures[:: max(1, len(pictures) // MOST_PICTURES)]:
            after = int(np.searchsorted(stamps, t_ns))
            if after + 1 >= len(sweeps) or not track.covers(np.array([t_ns])).all():
                continue
            for index in (after, after + 1):
                if index not in lines:
                    lines[index] = scene_lines(sweeps[index], place)
            shots.append(make_shot(t_ns, grey, SceneLines.together([lines[after], lines[after + 1]]), track))
        assert camera.camera is not None
        found[camera.name] = camera_moved(camera.camera, rig.base_link_from(camera.frame), shots)
    return judged(estimates, found)


def _odometry(log: Log) -> str:
    """Return the Odometry topic of a log; one that is no truth, if there are several."""
    from perception.messages import Odometry

    known = [topic for topic, kind in log.topics().items() if kind is Odometry]
    return next((topic for topic in sorted(known, key=lambda topic: (topic.startswith("truth/"), topic))), "ego")


def _corrected(base_link_from_lidar: Any, moved: Any) -> Any:
    """Return where the LiDAR is, as far as it surely is elsewhere: cameras are not blamed for what it did."""
    import numpy as np

    from perception.calibrate.bump.camera_edges import turned_in_place

    sure = np.abs(moved.moved) > np.maximum(3 * moved.deviation, [0.003, 0.003, 0.003, 0.02, 0.02, 0.02])
    return turned_in_place(base_link_from_lidar, np.where(sure, moved.moved, 0.0))


def _grey(message: Any) -> Any:
    from perception.cli.calibrate.inputs import grey_of

    return grey_of(message)


def _names_a_rig(launch_file: Path) -> bool:
    from perception.errors import LaunchFileError
    from perception.runtime.launch_file.files import find_launch_file

    file = find_launch_file(launch_file)
    try:
        return "from_log" not in [line.partition(":")[2].split("#")[0].strip() for line in file.read_text().splitlines()
                                  if line.startswith("rig:")]  # fmt: skip
    except (OSError, UnicodeDecodeError) as error:
        raise LaunchFileError(f"{file}: cannot be read: {error}") from None


def _document(finding: Finding) -> dict[str, Any]:
    estimate = finding.estimate
    numbers = {} if estimate is None else {
        "moved_rad_m": [float(value) for value in estimate.moved],
        "deviation_rad_m": [float(value) for value in estimate.deviation],
    }  # fmt: skip
    return {
        "sensor": finding.sensor,
        "state": finding.state,
        "blind": list(finding.blind),
        "reason": finding.reason,
        **numbers,
    }


__all__ = ["check", "check_rig"]
