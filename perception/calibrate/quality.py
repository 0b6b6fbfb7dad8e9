"""Is a calibration good? Coverage, tilt, residual and uncertainty, each with what to do when it is poor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.boards import BoardView
from perception.calibrate.intrinsics import IntrinsicsResult
from perception.calibrate.stereo import StereoResult
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]

COLUMNS, ROWS = 8, 6
"""Cells of the coverage map."""
GOOD_VIEWS = 10
GOOD_COVERAGE = 0.6
GOOD_CORNERS = 0.5
GOOD_TILT_DEG = 20.0
GOOD_RMS = 1.0 / 1280
"""Residual over the width of the picture: half a pixel of 640, one of 1280."""
GOOD_PROJECTION_STD = 1.5 / 640


@dataclass(frozen=True)
class Coverage:
    """What of a picture the corners covered.

    Attributes:
        cells: (ROWS, COLUMNS) corners in each cell.
        share: of all cells, those with a corner.
        corner_share: of the twelve cells around the four corners of the picture.
        tilt_deg: how far apart the boards' orientations were.
    """

    cells: NDArray[np.int64]
    share: float
    corner_share: float
    tilt_deg: float


def coverage_of(camera: Camera, views: Sequence[BoardView], poses: Sequence[Transform]) -> Coverage:
    """Return how much of the camera's picture the views covered."""
    pixels = np.concatenate([view.pixels for view in views])
    columns = np.clip((pixels[:, 0] + 0.5) / camera.width_px * COLUMNS, 0, COLUMNS - 1).astype(int)
    rows = np.clip((pixels[:, 1] + 0.5) / camera.height_px * ROWS, 0, ROWS - 1).astype(int)
    cells = np.zeros((ROWS, COLUMNS), np.int64)
    np.add.at(cells, (rows, columns), 1)
    outer = np.zeros((ROWS, COLUMNS), np.bool_)
    for row, column in ((0, 0), (0, 1), (1, 0)):
        outer[[row, row, -1 - row, -1 - row], [column, -1 - column, column, -1 - column]] = True
    normals = np.stack([pose.rotation[:, 2] for pose in poses])
    tilt = np.degrees(np.arccos(np.clip(np.abs(normals @ normals.T), -1, 1))).max()
    return Coverage(cells, float((cells > 0).mean()), float((cells[outer] > 0).mean()), float(tilt))


def complaints_of_intrinsics(result: IntrinsicsResult, coverage: Coverage) -> list[str]:
    """Return what is poor in a calibration of intrinsics, and what to do; empty is good."""
    width, said = result.camera.width_px, []
    if len(result.views) < GOOD_VIEWS:
        said.append(f"only {len(result.views)} views: take 20 or more, each from another place")
    if coverage.share < GOOD_COVERAGE or coverage.corner_share < GOOD_CORNERS:
        said.append(
            f"corners cover {coverage.share:.0%} of the picture and {coverage.corner_share:.0%} of its corners: hold "
            "the board into every part of the picture, the corners too; distortion there is a guess otherwise"
        )
    if coverage.tilt_deg < GOOD_TILT_DEG:
        said.append(
            f"boards differ by {coverage.tilt_deg:.0f} degrees only: tilt the board by 30 degrees and more, to all "
            "sides; focal length and distance cannot be told apart otherwise"
        )
    if result.rms_px > GOOD_RMS * width:
        said.append(
            f"residual of {result.rms_px:.2f} px: check that the board is flat and its size right, that pictures are "
            f"sharp, and whether another --model than {result.camera.model} fits better"
        )
    if result.projection_std_px > GOOD_PROJECTION_STD * width:
        said.append(
            f"pixels are uncertain by up to {result.projection_std_px:.1f} px: more views near the borders, or a model "
            "with fewer coefficients"
        )
    return said


def complaints_of_stereo(result: StereoResult, width_px: int) -> list[str]:
    """Return what is poor in a calibration of a stereo pair, and what to do; empty is good."""
    said = []
    if len(result.pairs) < GOOD_VIEWS:
        said.append(f"only {len(result.pairs)} pairs: take 15 or more")
    if result.rms_px > GOOD_RMS * width_px:
        said.append(
            f"residual of {result.rms_px:.2f} px: are both intrinsics of these cameras, and are the pictures of one "
            "instant? A board that moved between them leaves such errors"
        )
    worst_deg, worst_share = np.degrees(result.rotation_std_rad).max(), result.translation_std_m.max()
    if worst_deg > 0.1:
        said.append(f"rotation is uncertain by {worst_deg:.2f} degrees: more pairs, near and far, tilted to all sides")
    if worst_share > 0.02 * result.baseline_m:
        said.append(f"translation is uncertain by {worst_share * 1e3:.1f} mm: bring the board nearer")
    return said


__all__ = [
    "COLUMNS", "ROWS", "Coverage", "complaints_of_intrinsics", "complaints_of_stereo", "coverage_of"
]  # fmt: skip
