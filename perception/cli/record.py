"""`perception record`."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from perception.cli.recording import Last, MaxBytes, SplitBytes, SplitSeconds, end_of, files_written, writer_of
from perception.cli.wire import DEFAULT_ENDPOINT, Endpoint, Keys, nothing_came


def record(
    out: Annotated[Path, typer.Argument(help="The MCAP file to make; it must not exist.")],
    endpoint: Endpoint = DEFAULT_ENDPOINT,
    keys: Keys = None,
    topics: Annotated[list[str] | None, typer.Option("--topic", help="Only this topic; may be repeated.")] = None,
    duration: Annotated[float, typer.Option(min=0, help="End after so many seconds; 0 goes on till Ctrl-C.")] = 0.0,
    max_bytes: MaxBytes = None,
    split_bytes: SplitBytes = None,
    split_s: SplitSeconds = None,
    last: Last = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the first message.")] = 10.0,
) -> None:
    """Record what a running graph publishes, for example: perception record drive.mcap --duration 60.

    Sensor data does not leave the graph over ZeroMQ: perception launch --record OUT records every topic. The recording
    holds the graph's launch file, calibration, cards and hashes, which it is asked for.
    """
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
        files = _files(endpoint, keys)
        writer = writer_of(out, files, split_bytes=split_bytes, split_s=split_s, last=last)
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
            end_of(writer)
            recorder.close()
    dropped = lost + sum(recorder.dropped.values())
    why = f"; {recorder.stopped}" if recorder.stopped else ""
    print(f"{out}: {count} messages{files_written(writer)}, {dropped} lost on the way{why}")


def _files(endpoint: str, keys: Path | None) -> dict[str, bytes]:
    """Ask the graph for its files; a recording goes on without them, and says so."""
    from perception.errors import ChannelError
    from perception.runtime.snapshot_socket import ask_files

    try:
        files = ask_files(endpoint, keys=keys)
        why = "the graph gives them to nobody, since its endpoint is open to other machines without CURVE keys"
    except ChannelError as error:
        files, why = {}, str(error)
    if not files:
        print(f"warning: recorded without launch file, calibration, cards and hashes: {why}", file=sys.stderr)
    return files
