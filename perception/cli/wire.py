"""What the commands that subscribe to a running graph share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from perception.errors import ChannelError
    from perception.messages import Message
    from perception.runtime.subscriber import Received, Subscription

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5560"
SHOWN_NUMBERS = 8
LISTEN_S = 1.5

Endpoint = Annotated[str, typer.Option(help="The graph's endpoint; `perception launch` prints it.")]
Keys = Annotated[
    Path | None, typer.Option(help="This client's CURVE keys: the folder that `perception keys new` made for it.")
]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds without a message after which the command fails.")]


def messages_of(
    subscription: Subscription, topic: str, timeout_s: float, keys: Path | None = None
) -> Iterator[Received]:
    """Yield the messages of one topic.

    Raises:
        UserError: the graph publishes, but no topic of this name.
        ChannelError: nothing comes from the endpoint.
    """
    first = subscription.receive(timeout_s)
    if first is None:
        _tell_what_is_there(subscription.endpoint, topic, timeout_s, keys)
    else:
        yield first
        yield from subscription


def _tell_what_is_there(endpoint: str, topic: str, timeout_s: float, keys: Path | None) -> NoReturn:
    from perception.errors import UserError, did_you_mean
    from perception.runtime.subscriber import Subscription

    seen: set[str] = set()
    with Subscription(endpoint, keys=keys) as everything:
        until_s = time.monotonic() + LISTEN_S
        while time.monotonic() < until_s:
            received = everything.receive(LISTEN_S)
            seen |= {received.topic} if received is not None else set()
    if not seen:
        raise nothing_came(endpoint, timeout_s, keys)
    raise UserError(
        f"nothing came on '{topic}' within {timeout_s:g} s. Topics of {endpoint}: "
        f"{', '.join(sorted(seen))}.{did_you_mean(topic, seen)}"
    )


def nothing_came(endpoint: str, timeout_s: float, keys: Path | None) -> ChannelError:
    """Return the error of an endpoint that stays silent."""
    from perception.errors import ChannelError
    from perception.runtime.run_lock import is_it_running

    locked = "" if keys is not None else " One with CURVE keys answers only with --keys."
    return ChannelError(f"nothing came from {endpoint} within {timeout_s:g} s; {is_it_running(endpoint)}{locked}")


def as_document(message: Message, *, full: bool = False) -> dict[str, Any]:
    """Return a message as plain values; long arrays are shortened unless `full`."""
    return {name: _plain(getattr(message, name), full) for name in message.__struct_fields__}


def _plain(value: Any, full: bool) -> Any:
    import msgspec
    import numpy as np

    if not isinstance(value, np.ndarray):
        return msgspec.to_builtins(value, enc_hook=lambda array: _plain(array, full))
    if full or value.size <= SHOWN_NUMBERS:
        return value.tolist()
    first = ", ".join(f"{number:g}" for number in value.reshape(-1)[:3].tolist())
    return f"{value.dtype} {tuple(value.shape)}: {first}, ..."


__all__ = ["DEFAULT_ENDPOINT", "Endpoint", "Keys", "Timeout", "as_document", "messages_of", "nothing_came"]
