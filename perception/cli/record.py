"""`perception record`."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from perception.cli.wire import DEFAULT_ENDPOINT, Endpoint


def record(
    out: Annotated[Path, typer.Argument(help="The MCAP file to make; it must not exist.")],
    endpoint: Endpoint = DEFAULT_ENDPOINT,
    topics: Annotated[list[str] | None, typer.Option("--topic", help="Only this topic; may be repeated.")] = None,
    duration: Annotated[float, typer.Option(min=0, help="End after so many seconds; 0 goes on till Ctrl-C.")] = 0.0,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="End when the file is so large.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the first message.")] = 10.0,
) -> None:
    """Record what a running graph publishes, for example: perception record drive.mcap --duration 60.

    Sensor data does not leave the graph over ZeroMQ: perception launch --record OUT records every topic.
    """
    from perception.errors import ChannelError
    from perception.logs.mcap_writer import McapWriter
    from perception.messages.codec import encode
    from perception.runtime.recorder import Recorder
    from perception.runtime.subscriber import Received, Subscription

    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: stopped.append(got))
    lost = count = 0
    with Subscription(endpoint, topics or [], keep="all") as subscription:
        first = subscription.receive(timeout)
        if first is None:
            raise ChannelError(f"nothing came from {endpoint} within {timeout:g} s; is the graph running?")
        recorder = Recorder(McapWriter(out), max_bytes)
        started_s = time.monotonic()
        received: Received | None = first
        try:
            while not stopped and not recorder.stopped and not (duration and time.monotonic() - started_s > duration):
                if received is not None:
                    recorder.record(received.topic, encode(received.message).to_bytes(), received.t_received_ns)
                    lost, count = lost + received.gap, count + 1
                received = subscription.receive(0.1)
        finally:
            recorder.close()
    dropped = lost + sum(recorder.dropped.values())
    why = f"; {recorder.stopped}" if recorder.stopped else ""
    print(f"{out}: {count} messages, {dropped} lost on the way{why}")
