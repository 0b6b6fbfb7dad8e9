"""`perception record`."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception.cli.wire import DEFAULT_ENDPOINT, Endpoint, Keys, nothing_came

if TYPE_CHECKING:
    from perception.logs.vehicle_writers import SnapshotWriter, SplitWriter


def record(
    out: Annotated[Path, typer.Argument(help="The MCAP file to make; it must not exist.")],
    endpoint: Endpoint = DEFAULT_ENDPOINT,
    keys: Keys = None,
    topics: Annotated[list[str] | None, typer.Option("--topic", help="Only this topic; may be repeated.")] = None,
    duration: Annotated[float, typer.Option(min=0, help="End after so many seconds; 0 goes on till Ctrl-C.")] = 0.0,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="End when the file is so large.")] = None,
    split_bytes: Annotated[int | None, typer.Option(min=1, help="Begin a new file when one is so large.")] = None,
    split_s: Annotated[
        float | None, typer.Option("--split-seconds", min=0.1, help="And after so many seconds.")
    ] = None,
    last: Annotated[
        float | None,
        typer.Option(min=0.1, help="Hold so many seconds in memory; write them on SIGUSR1 and at the end."),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the first message.")] = 10.0,
) -> None:
    """Record what a running graph publishes, for example: perception record drive.mcap --duration 60.

    Sensor data does not leave the graph over ZeroMQ: perception launch --record OUT records every topic.
    """
    from perception.logs.vehicle_writers import SnapshotWriter
    from perception.messages.codec import encode
    from perception.runtime.recorder import Recorder
    from perception.runtime.subscriber import Received, Subscription

    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: stopped.append(got))
    lost = count = 0
    with Subscription(endpoint, topics or [], keep="all", keys=keys) as subscription:
        first = subscription.receive(timeout)
        if first is None:
            raise nothing_came(endpoint, timeout, keys)
        writer = _writer(out, split_bytes, split_s, last)
        recorder = Recorder(writer, max_bytes)
        started_s = time.monotonic()
        received: Received | None = first
        try:
            while not stopped and not recorder.stopped and not (duration and time.monotonic() - started_s > duration):
                if received is not None:
                    recorder.record(received.topic, encode(received.message).to_bytes(), received.t_received_ns)
                    lost, count = lost + received.gap, count + 1
                received = subscription.receive(0.1)
        finally:
            if isinstance(writer, SnapshotWriter):
                writer.trigger()
            recorder.close()
    dropped = lost + sum(recorder.dropped.values())
    why = f"; {recorder.stopped}" if recorder.stopped else ""
    files = "" if len(writer.files) == 1 else f" in {len(writer.files)} files, the last {writer.path.name}"
    print(f"{out}: {count} messages{files}, {dropped} lost on the way{why}")


def _writer(
    out: Path, split_bytes: int | None, split_s: float | None, last_s: float | None
) -> SplitWriter | SnapshotWriter:
    from perception.errors import UserError
    from perception.logs.vehicle_writers import SnapshotWriter, SplitWriter

    if last_s is None:
        return SplitWriter(out, max_bytes=split_bytes, max_ns=None if split_s is None else round(split_s * 1e9))
    if split_bytes is not None or split_s is not None:
        raise UserError("--last holds the newest seconds, --split-... writes all of them: give one of the two")
    snapshots = SnapshotWriter(out, last_ns=round(last_s * 1e9))
    signal.signal(signal.SIGUSR1, lambda *_: snapshots.trigger())
    return snapshots
