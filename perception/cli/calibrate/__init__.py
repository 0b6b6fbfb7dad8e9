"""`perception calibrate`: one file per subcommand."""

from __future__ import annotations

import typer

from perception.cli.calibrate.board import board
from perception.cli.calibrate.camera_lidar import camera_lidar
from perception.cli.calibrate.check import check
from perception.cli.calibrate.convert import convert
from perception.cli.calibrate.event import event
from perception.cli.calibrate.ground import ground
from perception.cli.calibrate.intrinsics import intrinsics
from perception.cli.calibrate.stereo import stereo
from perception.cli.calibrate.time_offset import time_offset

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def calibrate() -> None:
    r"""Calibrate cameras, LiDARs and clocks, and check a calibration against an ordinary recording.

    Needs the extra `camera` where pictures are looked at: pip install 'perception-runtime\[camera]'.
    """


app.command("board")(board)
app.command("intrinsics")(intrinsics)
app.command("stereo")(stereo)
app.command("camera-lidar")(camera_lidar)
app.command("event")(event)
app.command("time-offset")(time_offset)
app.command("ground")(ground)
app.command("check")(check)
app.command("convert")(convert)

__all__ = ["app"]
