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


def check(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="An ordinary recording of a drive, 10 s or longer.")],
    launch_file: Annotated[Path, typer.Argument(metavar="FILE", help="The launch file whose rig is checked.")],
    seconds: Annotated[float, typer.Option(min=2, help="How much of the recording is looked at.")] = 20.0,
    ego: Annotated[str | None, typer.Option(help="The Odometry topic; by default the log's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Find a sensor that was bumped, without a board: perception calibrate check drive.mcap car.yaml.

    The LiDAR is held against the odometry and the road; each camera against the LiDAR, the odometry and other cameras.
    Ends 1 when a sensor moved.
    """
    from perception.cli.calibrate.inputs import odometry_of
    from perception.cli.graph_of import graph_of
    from perception.errors import UserError
    from perception.logs.open_log import open_log

    opened = open_log(log)
    graph = graph_of(launch_file) if _names_a_rig(launch_file) else graph_of(launch_file, log)
    if graph.rig is None:
        raise UserError(f"{launch_file}: it names no rig, and {log} brings none")
    findings = check_rig(opened, graph.rig, ego or odometry_of(str(log)) or "ego", seconds)
    if as_json:
        print(json.dumps([_document(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(finding.text())
        print(_verdict(findings))
    return 1 if any(finding.state == "moved" for finding in findings) else 0


def check_rig(log: Log, rig: Rig, ego_topic: str, seconds: float = 20.0) -> list[Finding]:
    """Check a rig against a recording.

    Raises:
        UserError: the recording has no odometry, or no LiDAR of the rig.
    """
    from perception.calibrate.bump.recording import recording_of
    from perception.calibrate.bump.rig_check import RigCheck
    from perception.cli.calibrate.inputs import grey_of
    from perception.errors import UserError
    from perception.messages import Image, Odometry, PointCloud

    topics = log.topics()
    lidar = next(
        (s for s in rig.sensors.values() if s.kind == "lidar" and topics.get(f"{s.name}/points") is PointCloud), None
    )
    if lidar is None:
        raise UserError(f"{log.path}: no LiDAR of rig '{rig.name}' is in it; the check holds everything against one")
    if topics.get(ego_topic) is not Odometry:
        known = [name for name, kind in topics.items() if kind is Odometry]
        raise UserError(f"{log.path}: no odometry on '{ego_topic}'; it has {', '.join(known) or 'none'}: --ego TOPIC")
    cameras = [s.name for s in rig.sensors.values() if s.camera is not None and topics.get(f"{s.name}/image") is Image]
    wanted = [f"{lidar.name}/points", ego_topic, *(f"{camera}/image" for camera in cameras)]
    until_ns = log.span().start_ns + round(seconds * 1e9)
    messages = log.messages(until_ns=until_ns, topics=wanted)
    try:
        recording = recording_of(messages, lidar.name, ego_topic, cameras, grey_of)
    except UserError as error:
        raise UserError(f"{log.path}: {error}") from None
    return RigCheck(recording).findings(rig)


def _verdict(findings: list[Finding]) -> str:
    moved = [finding.sensor for finding in findings if finding.state == "moved"]
    if moved:
        return f"moved: {', '.join(moved)}; calibrate again"
    if all(finding.state == "ok" for finding in findings):
        return "no sensor has moved"
    return (
        "no sensor is seen to have moved, but not everything is observable: record longer, with turns, and with poles, "
        "parked vehicles and house corners within 10 m"
    )


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
    numbers = {} if finding.state == "unknown" else {
        "moved_rad_m": [float(value) for value in finding.moved],
        "deviation_rad_m": [float(value) for value in finding.deviation],
    }  # fmt: skip
    return {
        "sensor": finding.sensor,
        "state": finding.state,
        "not_observable": list(finding.blind),
        "or": list(finding.rivals),
        "reason": finding.reason,
        **numbers,
    }


__all__ = ["check", "check_rig"]
