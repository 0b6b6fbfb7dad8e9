"""`perception log`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception.cli.log_edit import compare, cut, export, merge, recover

if TYPE_CHECKING:
    from perception.logs.log import Log

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def log() -> None:
    """Look into recorded logs of any known format and their files, cut, merge, recover, export and compare them."""


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="A recorded file or folder.")],
    assume_rate: Annotated[float, typer.Option(min=0.01, help="Rate in Hz of sensors whose log has no times.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what a log holds, for example: perception log info drive.mcap."""
    from perception.logs.open_log import open_log

    opened = open_log(path, assume_rate_hz=assume_rate)
    span, counts, types = opened.span(), opened.counts(), opened.topics()
    events, rates = opened.event_counts(), _rates(opened)
    seconds = (span.end_ns - span.start_ns) * 1e-9
    rig = opened.rig
    if as_json:
        document = {
            "path": str(path), "format": opened.FORMAT, "start_ns": span.start_ns, "end_ns": span.end_ns,
            "topics": {
                topic: {"type": types[topic].SCHEMA, "messages": count, "rate_hz": rates.get(topic)}
                | ({"events": events[topic]} if topic in events else {})
                for topic, count in counts.items()
            },
            "events": sum(events.values()), "skipped": dict(opened.skipped),
            "other_topics": {topic: {"type": kind, "messages": n} for topic, (kind, n) in opened.others.items()},
            "notes": opened.notes, "attachments": sorted(opened.attachments()),
            "rig": None if rig is None else {"name": rig.name, "sensors": sorted(rig.sensors)},
        }  # fmt: skip
        print(json.dumps(document, indent=1))
        return
    start = datetime.fromtimestamp(span.start_ns * 1e-9, UTC).isoformat(timespec="milliseconds")
    print(f"{path}: {opened.FORMAT}, {seconds:.3f} s from {start}, {sum(counts.values())} messages")
    width = max(map(len, counts), default=0)
    for topic, count in counts.items():
        rate = f"{rates[topic]:7.2f} Hz" if topic in rates else ""
        held = f" {events[topic]:>9} events" if topic in events else ""
        print(f"  {topic:<{width}}  {types[topic].SCHEMA:<28} {count:>7} messages {rate}{held}")
    for topic, (kind, count) in opened.others.items():
        print(f"  {topic}  {kind}  {count} messages, not read: there is no counterpart here")
    if rig is not None:
        print(f"  rig {rig.name}: {', '.join(sorted(rig.sensors))}")
    for name in sorted(opened.attachments()):
        print(f"  holds {name}")
    for note in opened.notes:
        print(f"  note: {note}")
    for reason, count in opened.skipped.items():
        print(f"  warning: skipped {count}: {reason}")


def _rates(log: Log) -> dict[str, float]:
    """Return messages a second by topic, between its own first and last."""
    counts = log.counts()
    return {
        topic: (counts[topic] - 1) * 1e9 / (span.end_ns - span.start_ns)
        for topic, span in log.topic_spans().items()
        if counts.get(topic, 0) > 1 and span.end_ns > span.start_ns
    }


@app.command()
def files(
    path: Annotated[Path, typer.Argument(metavar="LOG", help="A recording.")],
    out: Annotated[Path | None, typer.Option(help="Write them into this folder, which must not exist.")] = None,
) -> None:
    """List what a recording holds beside its messages, or write it: perception log files drive.mcap --out drive/."""
    from perception.logs.open_log import open_log
    from perception.logs.rewrite import write_attachments

    held = open_log(path).attachments()
    if out is not None:
        write_attachments(held, out)
    for name, data in sorted(held.items()):
        print(f"{len(data):>12} {name}")


@app.command()
def ledger(path: Annotated[Path, typer.Argument(metavar="LOG", help="A recording of ours.")]) -> None:
    """Print a line for each message, with a hash of all but its times: perception log ledger drive.mcap.

    Two runs are equal where these lines are, sorted: on machines that share no disk, `perception log compare` is diff.
    """
    from perception.logs.ledger import ledger as entries_of

    for entry in entries_of(path):
        print(f"{entry.topic} {entry.seq} {entry.t_sensor_ns} {entry.digest}")


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A recorded file or folder.")],
    assume_rate: Annotated[float, typer.Option(min=0.01, help="Rate in Hz of sensors whose log has no times.")] = 10.0,
) -> int:
    """Read every message of a log and count what cannot be read, for example: perception log check drive.mcap."""
    from perception.logs.open_log import open_log

    opened = open_log(path, assume_rate_hz=assume_rate)
    read = sum(1 for _ in opened.messages())
    print(f"{path}: {read} messages read, {sum(opened.skipped.values())} cannot be read")
    for reason, count in opened.skipped.items():
        print(f"  {count}: {reason}")
    return 1 if opened.skipped else 0


for command in (cut, merge, recover, export, compare):
    app.command()(command)
