"""`perception graph`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def graph(
    launch_file: Annotated[Path, typer.Argument(metavar="FILE", help="A path, or the name of a shipped launch file.")],
    out: Annotated[Path | None, typer.Option(help="A .svg, .mmd or .md file; by default Mermaid is shown.")] = None,
    replay: Annotated[Path | None, typer.Option(help="With the sensors of this log.")] = None,
) -> None:
    """Draw the graph of FILE as SVG or Mermaid, for example: perception graph car.yaml --out car.svg."""
    from perception.cli.graph_drawing import mermaid, svg
    from perception.cli.graph_of import graph_of
    from perception.errors import UserError

    if out is not None and out.suffix not in (".svg", ".mmd", ".md"):
        raise UserError(f"--out {out}: expected a name that ends in .svg, .mmd or .md")
    loaded = graph_of(launch_file, replay)
    if out is None:
        print(mermaid(loaded))
        return
    text = svg(loaded) if out.suffix == ".svg" else mermaid(loaded)
    if out.suffix == ".md":
        text = f"```mermaid\n{text}\n```\n"
    try:
        out.write_text(text)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    print(f"{out}: {len(loaded.nodes)} nodes, {len(loaded.message_types)} topics")
