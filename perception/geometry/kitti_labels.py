"""Read KITTI label files: one file a frame (object benchmark), sixteen columns where there is a score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import UserError

Float: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class KittiFrame:
    """The N boxes of one frame, in KITTI's rectified camera frame (x right, y down, z forward).

    Attributes:
        name: (N,) class, lower case.
        truncated: (N,) 0 to 1.
        occluded: (N,) 0 visible, 1 partly, 2 largely, 3 unknown.
        alpha_rad: (N,) observation angle.
        box_px: (N, 4) left, top, right, bottom.
        size_hwl_m: (N, 3).
        bottom_m: (N, 3) centre of the bottom.
        rotation_y_rad: (N,).
        score: (N,); NaN in labels.
    """

    name: NDArray[np.str_]
    truncated: Float
    occluded: Float
    alpha_rad: Float
    box_px: Float
    size_hwl_m: Float
    bottom_m: Float
    rotation_y_rad: Float
    score: Float

    def __len__(self) -> int:
        return len(self.name)

    def ground_rectangles(self) -> Float:
        """Return (N, 5) x, z, length, width and the angle in the plane of x and z, as `bev_iou` takes them."""
        length, width = self.size_hwl_m[:, 2], self.size_hwl_m[:, 1]
        # rotation_y turns x towards -z, since y points down.
        return np.stack((self.bottom_m[:, 0], self.bottom_m[:, 2], length, width, -self.rotation_y_rad), axis=1)


def read_frame(path: Path, *, scored: bool) -> KittiFrame:
    """Read one file.

    Raises:
        UserError: the file cannot be read, or a line has other columns than expected.
    """
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no text file; expected KITTI labels") from None
    columns = 16 if scored else 15
    rows = []
    for number, line in enumerate(lines, 1):
        if len(line) < columns:
            wanted = "16, those of KITTI labels and a score" if scored else "the 15 columns of KITTI labels"
            raise UserError(f"{path}:{number}: {len(line)} columns; expected {wanted}")
        try:
            rows.append([float(value) for value in line[1:columns]])
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}") from None
    table = np.array(rows, np.float64).reshape(len(rows), columns - 1)
    return frame_of([line[0] for line in lines], table)


def frame_of(names: Sequence[str], table: Float) -> KittiFrame:
    """Return a frame from class names and the label's columns after them (N, 14 or 15)."""
    score = table[:, 14] if table.shape[1] > 14 else np.full(len(table), np.nan)
    return KittiFrame(
        np.array([name.lower() for name in names], np.str_), table[:, 0], table[:, 1], table[:, 2], table[:, 3:7],
        table[:, 7:10], table[:, 10:13], table[:, 13], score,
    )  # fmt: skip


def read_pairs(truth: Path, results: Path) -> list[tuple[KittiFrame, KittiFrame]]:
    """Read two folders whose files are paired by name; a frame of the truth without a file of results had none.

    Raises:
        UserError: a folder is missing or empty, a file of results has no truth, or a file is damaged.
    """
    for folder in (truth, results):
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder; expected one with a .txt file of KITTI labels a frame")
    there, given = ({path.name: path for path in sorted(folder.glob("*.txt"))} for folder in (truth, results))
    if not there:
        raise UserError(f"{truth}: holds no .txt file")
    if strays := sorted(set(given) - set(there)):
        raise UserError(f"{results}: {strays[0]} has no truth in {truth}; {len(strays)} such files")
    nothing = frame_of([], np.empty((0, 15)))
    return [
        (read_frame(path, scored=False), read_frame(given[name], scored=True) if name in given else nothing)
        for name, path in there.items()
    ]


__all__ = ["KittiFrame", "frame_of", "read_frame", "read_pairs"]
