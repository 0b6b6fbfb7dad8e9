"""`perception keys`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def keys() -> None:
    """CURVE keys for planners on other machines."""


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="Folder of the keys, named in the launch file: network: curve_keys.")],
    client: Annotated[str, typer.Option(help="Name of the client that may connect.")] = "planner",
) -> None:
    """Make keys for a client, and the publisher's once: perception keys new keys --client planner."""
    from perception.runtime.curve_keys import new_keys

    made = new_keys(folder, client)
    print(f"{folder}: '{client}' may connect; remove clients/{client}.key to lock it out")
    print(f"move {made} to the client's machine: perception.subscribe(ENDPOINT, keys=FOLDER)")


__all__ = ["app"]
