"""`perception simulate`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer


def simulate(
    launch_file: Annotated[Path, typer.Argument(metavar="FILE", help="A launch file with a simulator, for its rig.")],
    out: Annotated[Path, typer.Option(help="The MCAP file to make; it must not exist.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 1,
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds of driving.")] = 10.0,
    speed: Annotated[float, typer.Option(min=0, max=40, help="Of the vehicle, m/s.")] = 8.0,
    weather: Annotated[str, typer.Option(help="day, dusk or rain.")] = "day",
    sensor: Annotated[list[str] | None, typer.Option(help="Only this sensor; may be given several times.")] = None,
    processes: Annotated[int, typer.Option(min=0, max=64, help="0 is one per core; the bytes are equal.")] = 0,
) -> None:
    """Write a simulated drive with its truth, as fast as it goes: perception simulate car.yaml --out drive.mcap.

    Sensors stand under their topics, the truth under truth/...; perception launch replay.yaml --replay drive.mcap.
    """
    from perception.cli.graph_of import graph_of
    from perception.errors import UserError
    from perception.logs.mcap_writer import McapWriter
    from perception.runtime.fingerprint import fingerprint_file
    from perception.runtime.recorded_files import calibration_files
    from perception.simulation.drive import Drive
    from perception.simulation.motion import Motion
    from perception.simulation.parallel import records

    graph = graph_of(launch_file)
    if graph.rig is None:
        raise UserError(f"{launch_file}: its rig is that of a log; expected one that names a rig, such as car.yaml")
    drive = Drive(
        graph.rig, seed, START_NS, Motion(speed_mps=speed), weather=weather, sensors=sensor or None,
    )  # fmt: skip
    started_s, count = time.monotonic(), 0
    stored = {"fingerprint.json": fingerprint_file(), **calibration_files(graph.rig.files)}
    with McapWriter(out, stored, flush_s=None) as writer:
        for topic, record, t_ns in records(drive, duration, processes or len(os.sched_getaffinity(0))):
            writer.write(topic, record, t_ns)
            count += 1
    took_s = time.monotonic() - started_s
    times = duration / took_s
    print(f"{out}: {count} messages, {duration:g} s of driving in {took_s:.1f} s ({times:.1f} times real time)")


START_NS = 1_700_000_000_000_000_000
"""A drive's stamps do not depend on when it is made."""
