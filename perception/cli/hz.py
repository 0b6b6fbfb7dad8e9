"""`perception hz`."""

from __future__ import annotations

import json
import statistics
import time
from collections import deque
from typing import Annotated

import typer

from perception.cli.wire import DEFAULT_ENDPOINT, Endpoint, Keys, Timeout


def hz(
    topic: Annotated[str, typer.Argument(help="A published topic, such as objects.")],
    endpoint: Endpoint = DEFAULT_ENDPOINT,
    keys: Keys = None,
    window: Annotated[int, typer.Option(min=2, help="Messages that the rate is taken over.")] = 50,
    duration: Annotated[float, typer.Option(min=0, help="End after so many seconds; 0 goes on.")] = 0.0,
    timeout: Timeout = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Measure rate, age and gaps of a published topic once a second, for example: perception hz objects."""
    from perception.cli.wire import messages_of
    from perception.runtime.subscriber import Subscription

    arrivals: deque[int] = deque(maxlen=window)
    ages: deque[float] = deque(maxlen=window)
    lost = count = 0
    with Subscription(endpoint, [topic], keep="all", timeout_s=timeout, keys=keys) as subscription:
        started_s = told_s = time.monotonic()
        for received in messages_of(subscription, topic, timeout, keys):
            arrivals.append(received.t_received_ns)
            ages.append(received.age_ms)
            lost += received.gap
            count += 1
            now_s = time.monotonic()
            over = bool(duration) and now_s - started_s >= duration
            if (now_s - told_s >= 1.0 or over) and len(arrivals) > 1:
                told_s = now_s
                rate = (len(arrivals) - 1) / max(1e-9, (arrivals[-1] - arrivals[0]) * 1e-9)
                age_ms = round(statistics.median(ages), 1)
                said = {"topic": topic, "rate_hz": round(rate, 2), "age_ms": age_ms,
                        "messages": count, "lost": lost}  # fmt: skip
                line = f"{rate:.1f} Hz over {len(arrivals)}, median age {age_ms} ms, {count} messages, {lost} lost"
                print(json.dumps(said) if as_json else line, flush=True)
            if over:
                return
