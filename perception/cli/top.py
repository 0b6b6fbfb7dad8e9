"""`perception top`."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Annotated

import typer

from perception.cli.wire import DEFAULT_ENDPOINT, Endpoint, Keys, Timeout

if TYPE_CHECKING:
    from rich.console import Group

    from perception.messages import GraphState, NodeStatus

REFRESH_S = 0.5
WIDE = 160
"""Columns where the table does not go to a terminal."""


def top(
    endpoint: Endpoint = DEFAULT_ENDPOINT,
    keys: Keys = None,
    once: Annotated[bool, typer.Option("--once", help="Print the table once, and end.")] = False,
    timeout: Timeout = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Once, as JSON.")] = False,
) -> None:
    """Show rates, latencies, drops, memory and states of a running graph, for example: perception top."""
    from rich.console import Console
    from rich.live import Live

    from perception.runtime.subscriber import Subscription

    picture = _Picture()
    with Subscription(endpoint, ["status", "state"], keep="all", timeout_s=timeout, keys=keys) as subscription:
        until_s = time.monotonic() + 3 * REFRESH_S
        for received in subscription:
            picture.take(received.message, received.t_received_ns)
            if time.monotonic() >= until_s:
                break
        if as_json:
            print(json.dumps(picture.document(), indent=1))
            return
        console = Console(width=None if sys.stdout.isatty() else WIDE)
        if once:
            console.print(picture.screen())
            return
        with Live(picture.screen(), console=console, auto_refresh=False) as live:
            drawn_s = 0.0
            for received in subscription:
                picture.take(received.message, received.t_received_ns)
                if time.monotonic() - drawn_s >= REFRESH_S:
                    drawn_s = time.monotonic()
                    live.update(picture.screen(), refresh=True)


class _Picture:
    """What the status messages of a graph say, put together."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeStatus] = {}
        self.state: GraphState | None = None
        self._counts: dict[str, deque[tuple[int, int]]] = {}

    def take(self, message: object, t_ns: int) -> None:
        from perception.messages import GraphState, Status

        if isinstance(message, GraphState):
            self.state = message
        elif isinstance(message, Status):
            for node in message.nodes:
                self.nodes[node.node] = node
                history = self._counts.setdefault(node.node, deque(maxlen=12))
                history.append((t_ns, sum(node.published.values())))

    def rate_hz(self, node: str) -> float:
        history = self._counts.get(node, deque())
        if len(history) < 2 or history[-1][0] <= history[0][0]:
            return 0.0
        return (history[-1][1] - history[0][1]) / ((history[-1][0] - history[0][0]) * 1e-9)

    def screen(self) -> Group:
        from perception.cli.live_view import status_screen

        title = "no state yet"
        if self.state is not None:
            reasons = f": {'; '.join(self.state.reasons)}" if self.state.reasons else ""
            title = f"{self.state.header.run} {self.state.state}{reasons}"
        states = {} if self.state is None else self.state.nodes
        return status_screen(list(self.nodes.values()), title, states, self.rate_hz)

    def document(self) -> dict[str, object]:
        import msgspec

        return {
            "state": None if self.state is None else msgspec.to_builtins(self.state),
            "nodes": {
                name: msgspec.to_builtins(node) | {"rate_hz": round(self.rate_hz(name), 2)}
                for name, node in self.nodes.items()
            },
        }
