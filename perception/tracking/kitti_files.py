"""Recorded detections and tracking results as KITTI's tools write them, one text file per sequence.

Detections: 15 numbers separated by commas, frame, class (1 pedestrian, 2 car, 3 cyclist), left, top, right, bottom,
score, height, width, length, x, y, z, rotation_y, alpha (the format of AB3DMOT); or rows of a KITTI tracking result
(frame, id, type, ...), whose ids are not used. Places are in the rectified camera frame, of the bottom's centre; here
they stand in an upright frame with the camera at its origin: x forward, y left, z up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.errors import UserError
from perception.tracking.tracks import FieldOfView

CLASSES = ("Pedestrian", "Car", "Cyclist")  # 1, 2, 3 of the comma format
COMMA_COLUMNS, ROW_COLUMNS = 15, (17, 18)
MAX_FRAMES = 1_000_000


@dataclass(frozen=True, eq=False)
class SequenceDetections:
    """N detections of one sequence.

    Attributes:
        frame: (N,). label: (N,) index into CLASSES. score: (N,) as the detector gave it.
        box_px: (N, 4) left, top, right, bottom. alpha_rad: (N,).
        center_m: (N, 3). size_lwh_m: (N, 3). yaw_rad: (N,), of the upright frame.
    """

    frame: NDArray[np.int64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    box_px: NDArray[np.float64]
    alpha_rad: NDArray[np.float64]
    center_m: NDArray[np.float64]
    size_lwh_m: NDArray[np.float64]
    yaw_rad: NDArray[np.float64]

    def frames(self) -> int:
        """Return how many frames there are, as far as the detections tell."""
        return int(self.frame.max()) + 1 if len(self.frame) else 0


def find_detections(path: Path) -> dict[str, list[Path]]:
    """Return the files of each sequence: NAME.txt in the folder, or in the folders in it, one per class.

    Raises:
        UserError: there is no such file or folder, or nothing in it.
    """
    if path.is_file():
        return {path.stem: [path]}
    if not path.is_dir():
        raise UserError(f"{path} does not exist; expected a folder with a file NAME.txt per sequence, or such a file")
    found: dict[str, list[Path]] = {}
    for file in sorted(path.glob("*.txt")) or sorted(path.glob("*/*.txt")):
        found.setdefault(file.stem, []).append(file)
    if not found:
        raise UserError(f"{path} holds no NAME.txt, neither itself nor in the folders in it")
    return dict(sorted(found.items()))


def read_detections(files: Sequence[Path]) -> SequenceDetections:
    """Read the detections of one sequence from one file, or one per class.

    Raises:
        UserError: a file cannot be read, or a row has another form.
    """
    parts = [_read(file) for file in files]
    values = np.concatenate([part for part in parts if len(part)] or [np.empty((0, COMMA_COLUMNS))])
    values = values[np.argsort(values[:, 0], kind="stable")]
    height, width, length = values[:, 7], values[:, 8], values[:, 9]
    center = np.column_stack((values[:, 12], -values[:, 10], height / 2 - values[:, 11]))
    return SequenceDetections(
        frame=values[:, 0].astype(np.int64), label=values[:, 1].astype(np.int64) - 1, score=values[:, 6],
        box_px=values[:, 2:6], alpha_rad=values[:, 14], center_m=center,
        size_lwh_m=np.column_stack((length, width, height)), yaw_rad=_turned(-values[:, 13] - np.pi / 2),
    )  # fmt: skip


def _read(file: Path) -> NDArray[np.float64]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as detections: {error}") from None
    rows = [_row(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return np.array([row for row in rows if row is not None], np.float64).reshape(-1, COMMA_COLUMNS)


def _row(file: Path, number: int, line: str) -> list[float] | None:
    """Return the 15 numbers of the comma format, or None for a class that is not tracked."""
    fields = line.split(",") if "," in line else line.split()
    kind: float | None = None
    if len(fields) in ROW_COLUMNS and "," not in line:
        by_name = {name.lower(): float(index + 1) for index, name in enumerate(CLASSES)}
        kind = by_name.get(fields[2].lower())
        if kind is None:
            return None
        fields = [
            fields[0],
            str(kind),
            *fields[6:10],
            fields[17] if len(fields) == 18 else "1",
            *fields[10:17],
            fields[5],
        ]
    if len(fields) != COMMA_COLUMNS:
        raise UserError(
            f"{file}:{number}: {len(fields)} columns; expected 15 numbers with commas between (frame,class,left,top,"
            "right,bottom,score,h,w,l,x,y,z,rotation_y,alpha), or a KITTI tracking row of 18"
        )
    try:
        row = [float(field) for field in fields]
    except ValueError as error:
        raise UserError(f"{file}:{number}: {error}; all columns are numbers") from None
    if not np.isfinite(row).all() or not 0 <= row[0] < MAX_FRAMES or row[1] not in (1, 2, 3):
        raise UserError(f"{file}:{number}: expected finite numbers, a frame from 0 and class 1, 2 or 3")
    return row


@dataclass(frozen=True, eq=False)
class Projection:
    """The left colour camera: P2 of a calibration file.

    Attributes:
        matrix: (3, 4), from the rectified camera frame (x right, y down, z forward) to pixels.
    """

    matrix: NDArray[np.float64]

    @classmethod
    def read(cls, file: Path) -> Projection:
        """Read a calibration file.

        Raises:
            UserError: the file cannot be read or has no P2 of 12 numbers.
        """
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"calibration {file} cannot be read: {error}") from None
        for line in lines:
            name, _, rest = line.replace(":", " ").strip().partition(" ")
            if name == "P2":
                try:
                    return cls(np.array([float(word) for word in rest.split()]).reshape(3, 4))
                except ValueError:
                    raise UserError(f"calibration {file}: P2 is not 12 numbers") from None
        raise UserError(f"calibration {file} has no line P2; expected a KITTI tracking calibration file")

    def field_of_view(self, width_px: float) -> FieldOfView:
        """Return what the camera sees, from above, in the upright frame; the narrower side counts for both."""
        focal, center = float(self.matrix[0, 0]), float(self.matrix[0, 2])
        return FieldOfView(half_angle_rad=math.atan(min(center, width_px - center) / focal))

    def boxes(self, corners_m: NDArray[np.float64], width_px: float, height_px: float) -> NDArray[np.float64]:
        """Return (N, 4) image boxes around corners (N, 8, 3) of the upright frame, cut at the image's edges."""
        camera = np.stack((-corners_m[..., 1], -corners_m[..., 2], np.maximum(corners_m[..., 0], 0.1)), axis=-1)
        image = camera @ self.matrix[:, :3].T + self.matrix[:, 3]
        pixels = image[..., :2] / image[..., 2:]
        edge = np.array([width_px, height_px]) - 1
        low, high = np.clip(pixels.min(axis=1), 0, edge), np.clip(pixels.max(axis=1), 0, edge)
        return np.concatenate((low, high), axis=1)


def result_rows(
    frames: NDArray[np.int64],
    ids: NDArray[np.int64],
    labels: NDArray[np.int64],
    boxes: NDArray[np.float64],
    box_px: NDArray[np.float64],
    scores: NDArray[np.float64],
) -> list[str]:
    """Return lines of a KITTI tracking result; `boxes` (N, 7) are of the upright frame, as `read_detections` gives."""
    right, down, forward = -boxes[:, 1], boxes[:, 5] / 2 - boxes[:, 2], boxes[:, 0]
    rotation = _turned(-boxes[:, 6] - np.pi / 2)
    alpha = _turned(rotation - np.arctan2(right, forward))
    numbers = np.column_stack((alpha, box_px, boxes[:, [5, 4, 3]], right, down, forward, rotation, scores)).tolist()
    return [
        f"{frame} {identity} {CLASSES[label]} 0 0 " + " ".join(f"{number:.6f}" for number in row)
        for frame, identity, label, row in zip(frames.tolist(), ids.tolist(), labels.tolist(), numbers, strict=True)
    ]


def _turned(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((angle + np.pi) % (2 * np.pi) - np.pi)


__all__ = [
    "CLASSES", "Projection", "SequenceDetections", "find_detections", "read_detections", "result_rows",
]  # fmt: skip
