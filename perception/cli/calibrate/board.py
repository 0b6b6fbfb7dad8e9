"""`perception calibrate board`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BOARD_HELP = "chessboard:9x6:0.024 (inner corners), charuco:8x6:0.030:0.022 or aprilgrid:6x6:0.088:0.3; metres."


def board(
    board: Annotated[str, typer.Argument(metavar="BOARD", help=BOARD_HELP)],
    out: Annotated[Path, typer.Option(help="The PNG to write.")],
    dpi: Annotated[float, typer.Option(min=50, max=2400, help="Dots per inch.")] = 300.0,
) -> None:
    """Draw a board for printing at its true size: perception calibrate board charuco:8x6:0.030:0.022 --out board.png.

    Measure a printed square before you trust its size, and glue the board onto something flat.
    """
    from PIL import Image

    from perception.calibrate.boards import Board
    from perception.errors import UserError

    drawn = Board.parse(board).drawn(dpi / 0.0254, 0.01)
    try:
        Image.fromarray(drawn).save(out, dpi=(dpi, dpi))
    except (OSError, ValueError) as error:
        raise UserError(f"{out}: cannot be written: {error}") from None
    height, width = drawn.shape
    print(f"{out}: {board}, {width / dpi * 25.4:.0f} x {height / dpi * 25.4:.0f} mm at {dpi:g} dots per inch")


__all__ = ["BOARD_HELP", "board"]
