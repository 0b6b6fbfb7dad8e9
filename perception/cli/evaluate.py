"""`perception evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

SHOWN = ("sAMOTA", "AMOTA", "AMOTP", "MOTA", "MOTP", "IDS", "FRAG", "TP", "FP", "FN", "MT", "ML")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def evaluate() -> None:
    """Score results against the truth by published rules."""


@app.command()
def tracking(
    rules: Annotated[Literal["ab3dmot", "kitti"], typer.Option(help="ab3dmot: boxes in space; kitti: in the image.")],
    truth: Annotated[Path, typer.Option(help="Folder with KITTI tracking labels NAME.txt.")],
    results: Annotated[Path, typer.Option(help="Folder with KITTI tracking results NAME.txt.")],
    sequence: Annotated[list[str] | None, typer.Option(help="Only this sequence; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score tracks: perception evaluate tracking --rules ab3dmot --truth label --results tracks."""
    from perception.evaluation.tracking import evaluate_tracking

    found = evaluate_tracking(rules, truth, results, tuple(sequence or ()))
    if as_json:
        print(json.dumps({"rules": rules, **found}, indent=1))
        return
    for overlap, classes in found.items():
        names = [name for name in SHOWN if any(name in figures for figures in classes.values())]
        print(f"{overlap:<14}" + "".join(f"{name:>9}" for name in names))
        for label, figures in classes.items():
            cells = (
                f"{figures[name]:>9.2f}" if isinstance(figures[name], float) else f"{figures[name]:>9}"
                for name in names
            )
            print(f"{label:<14}" + "".join(cells))


__all__ = ["app"]
