"""`perception track`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def track(
    detections: Annotated[
        Path, typer.Argument(help="Folder with NAME.txt per sequence, or one such folder per class.")
    ],
    calib: Annotated[Path, typer.Option(help="Folder with the calibration NAME.txt of each sequence.")],
    out: Annotated[Path, typer.Option(help="Folder for the tracks, NAME.txt each.")],
    file_format: Annotated[
        Literal["kitti"], typer.Option("--format", help="Format of detections and results.")
    ] = "kitti",
    rate_hz: Annotated[float, typer.Option(min=0.1, max=1000, help="Frames per second of the recording.")] = 10.0,
) -> None:
    """Track recorded detections, for example: perception track detection --format kitti --calib calib --out tracks.

    Detections are 15 numbers with commas between (frame,class,left,top,right,bottom,score,h,w,l,x,y,z,rotation_y,alpha)
    or KITTI tracking rows; results are KITTI tracking rows with the track's score. Score them with
    perception evaluate tracking.
    """
    from perception.tracking.kitti import track_kitti

    def tell(name: str, frames: int, tracks: int) -> None:
        print(f"{name}: {tracks} tracks in {frames} frames")

    track_kitti(detections, calib, out, rate_hz=rate_hz, on_sequence=tell)


__all__ = ["track"]
