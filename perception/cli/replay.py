"""`perception replay`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception.cli.wire import DEFAULT_ENDPOINT, Endpoint, Keys

if TYPE_CHECKING:
    from perception.runtime.replay_request import ReplayRequest

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True,
    help="Pause, step, seek and change the pace of a running realtime replay, for example: perception replay seek 12.5",
)  # fmt: skip
Graph = Annotated[str, typer.Option(help="Name of a graph of this machine, in place of its endpoint.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def status(endpoint: Endpoint = DEFAULT_ENDPOINT, graph: Graph = "", keys: Keys = None, as_json: Json = False) -> None:
    """Say where the replay is, and at what pace."""
    _ask(_request("status"), endpoint, graph, keys, as_json)


@app.command()
def pause(endpoint: Endpoint = DEFAULT_ENDPOINT, graph: Graph = "", keys: Keys = None, as_json: Json = False) -> None:
    """Let the log stand still; what is under way is finished."""
    _ask(_request("pause"), endpoint, graph, keys, as_json)


@app.command()
def resume(endpoint: Endpoint = DEFAULT_ENDPOINT, graph: Graph = "", keys: Keys = None, as_json: Json = False) -> None:
    """Go on from where it is."""
    _ask(_request("resume"), endpoint, graph, keys, as_json)


@app.command()
def step(
    frames: Annotated[int, typer.Argument(min=1, help="How many.")] = 1,
    endpoint: Endpoint = DEFAULT_ENDPOINT,
    graph: Graph = "",
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Pause, and give out what comes up to the next frame: a picture, a sweep or a packet of events."""
    _ask(_request("step", frames), endpoint, graph, keys, as_json)


@app.command(context_settings={"ignore_unknown_options": True})
def seek(
    seconds: Annotated[str, typer.Argument(help="From the log's start; +5 and -5 are from where it is.")],
    endpoint: Endpoint = DEFAULT_ENDPOINT,
    graph: Graph = "",
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Go on elsewhere in the log; what was before is forgotten everywhere."""
    from perception.errors import UserError

    try:
        value = float(seconds)
    except ValueError:
        raise UserError(f"seek {seconds}: expected seconds, such as 12.5, +5 or -5") from None
    _ask(_request("skip" if seconds[0] in "+-" else "seek", value), endpoint, graph, keys, as_json)


@app.command()
def rate(
    times: Annotated[float, typer.Argument(help="Seconds of the log in one second.")],
    endpoint: Endpoint = DEFAULT_ENDPOINT,
    graph: Graph = "",
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Go on at another pace."""
    _ask(_request("rate", times), endpoint, graph, keys, as_json)


def _request(action: str, value: float = 1.0) -> ReplayRequest:
    from perception.runtime.replay_request import request_of

    return request_of(json.dumps({"action": action, "value": value}).encode())


def _ask(request: ReplayRequest, endpoint: str, graph: str, keys: Path | None, as_json: bool) -> None:
    import msgspec

    from perception.runtime.replay_request import told
    from perception.runtime.run_lock import endpoint_of
    from perception.runtime.snapshot_socket import ask_replay

    answer = ask_replay(endpoint_of(graph) if graph else endpoint, request, keys=keys)
    print(json.dumps(msgspec.to_builtins(answer)) if as_json else told(answer))


__all__ = ["app"]
