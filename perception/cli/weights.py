"""`perception weights`: make weights files of published checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def _weights() -> None:
    """Weights files: made of published checkpoints, found by their address."""


@app.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="A published checkpoint (.pth, .pt, .ckpt).")],
    network: Annotated[str, typer.Option(help="The network (the shipped card that fits is taken), or a card.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; by default into the user's cache.")] = None,
) -> None:
    """Read CHECKPOINT without running what is in it and write safetensors, for example: --network ddrnet."""
    from perception.networks.import_weights import import_weights

    imported = import_weights(checkpoint, network, out)
    for name, shape in imported.dropped.items():
        print(f"not used: {name} {shape}")
    print(f"{imported.entries} entries fit the card {imported.card.name}: {imported.path}")
    print(f"weights: {imported.address}")


@app.command("cards")
def cards() -> None:
    """List the shipped model cards."""
    from perception.networks.card import find_card, shipped_cards

    for name in shipped_cards():
        print(f"{name:<28} {find_card(name).summary}")
