"""`perception log cut|merge|recover|export|compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from perception.logs.ledger import LedgerEntry
    from perception.logs.rewrite import Rewritten

Source = Annotated[Path, typer.Argument(metavar="LOG", help="A recorded file or folder of any known format.")]
Out = Annotated[Path, typer.Option("--out", help="The file to make; it must not exist.")]
Rate = Annotated[float, typer.Option(min=0.01, help="Rate in Hz of sensors whose log has no times.")]


def cut(
    log: Source,
    out: Out,
    from_s: Annotated[float, typer.Option("--from", help="Start so many seconds into the log.")] = 0.0,
    until_s: Annotated[float | None, typer.Option("--until", help="End so many seconds into the log.")] = None,
    topic: Annotated[list[str] | None, typer.Option(help="Only this topic; may be repeated.")] = None,
    assume_rate: Rate = 10.0,
) -> int:
    """Write a part of a log: perception log cut drive.mcap --from 10 --until 20 --out part.mcap."""
    from perception.logs.open_log import open_log
    from perception.logs.rewrite import rewrite

    opened = open_log(log, assume_rate_hz=assume_rate)
    start = opened.span().start_ns
    until = None if until_s is None else start + round(until_s * 1e9)
    return _tell(out, rewrite(opened, out, from_ns=start + round(from_s * 1e9), until_ns=until, topics=topic))


def merge(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG...", help="Of any formats; parts of one recording, too.")],
    out: Out,
    assume_rate: Rate = 10.0,
) -> int:
    """Write several logs on one timeline: perception log merge lidar.pcap events.raw --out both.mcap."""
    from perception.logs.open_log import open_logs
    from perception.logs.rewrite import rewrite

    opened = open_logs(logs, assume_rate_hz=assume_rate)
    for note in opened.notes:
        print(f"  {note}")
    return _tell(out, rewrite(opened, out))


def recover(log: Source, out: Out) -> int:
    """Write all that a damaged log still holds: perception log recover cut.mcap --out whole.mcap."""
    from perception.logs.open_log import open_log
    from perception.logs.rewrite import rewrite

    opened = open_log(log)
    for note in opened.notes:
        print(f"{log}: {note}")
    return _tell(out, rewrite(opened, out))


def export(
    log: Source,
    out: Out,
    form: Annotated[Literal["foxglove", "ros2"], typer.Option("--format", help="What to write.")] = "foxglove",
    assume_rate: Rate = 10.0,
) -> None:
    """Write a log for other tools: perception log export drive.mcap --format foxglove --out view.mcap."""
    from perception.logs.open_log import open_log

    opened = open_log(log, assume_rate_hz=assume_rate)
    if form == "foxglove":
        from perception.logs.foxglove_export import export_foxglove

        left_out = export_foxglove(opened, out)
    else:
        from perception.logs.ros.export import export_ros2

        left_out = export_ros2(opened, out)
    print(f"{out}: written")
    for topic, count in left_out.items():
        print(f"  {topic}: {count} messages left out, there is no counterpart")
    for reason, count in opened.skipped.items():
        print(f"  {count} could not be read: {reason}")


def compare(
    a: Annotated[Path, typer.Argument(help="A recording.")],
    b: Annotated[Path, typer.Argument(help="Another, of the same log and graph.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Tell where two recordings first differ, by a hash of every message: perception log compare a.mcap b.mcap."""
    from dataclasses import asdict

    from perception.logs.ledger import differences

    found = differences(a, b)
    if as_json:
        print(json.dumps({"equal": not found, "differences": [asdict(d) for d in found]}, indent=1))
    elif not found:
        print("equal: every message, but for its timing")
    for d in () if as_json else found:
        print(f"{d.topic}: equal for {d.place} messages, then {_entry(d.a)} | {_entry(d.b)}")
    return 1 if found else 0


def _entry(entry: LedgerEntry | None) -> str:
    return "no more" if entry is None else f"seq {entry.seq} at {entry.t_sensor_ns} ns, {entry.digest}"


def _tell(out: Path, written: Rewritten) -> int:
    """Say what was written; 1 where that is nothing."""
    print(f"{out}: {written.messages} messages{'' if written.messages else '; nothing of it is read here'}")
    for reason, count in written.skipped.items():
        print(f"  {count} left out: {reason}")
    return 0 if written.messages else 1
