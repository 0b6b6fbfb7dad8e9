"""`perception echo`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from perception.cli.wire import DEFAULT_ENDPOINT, Endpoint, Keys, Timeout


def echo(
    topic: Annotated[str, typer.Argument(help="A published topic, such as objects.")],
    endpoint: Endpoint = DEFAULT_ENDPOINT,
    keys: Keys = None,
    count: Annotated[int, typer.Option(min=0, help="End after so many messages; 0 goes on.")] = 0,
    timeout: Timeout = 10.0,
    full: Annotated[bool, typer.Option("--full", help="Print arrays whole.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print the messages of a published topic, for example: perception echo objects --count 1."""
    import yaml

    from perception.cli.wire import as_document, messages_of
    from perception.runtime.subscriber import Subscription

    with Subscription(endpoint, [topic], keep="all", timeout_s=timeout, keys=keys) as subscription:
        for number, received in enumerate(messages_of(subscription, topic, timeout, keys), start=1):
            document = as_document(received.message, full=full)
            if as_json:
                print(json.dumps(document | {"gap": received.gap, "restarted": received.restarted}), flush=True)
            else:
                print(yaml.safe_dump(document, sort_keys=False, width=120), end="---\n", flush=True)
            if number == count:
                return
