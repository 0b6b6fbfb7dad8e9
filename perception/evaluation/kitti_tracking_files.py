"""KITTI tracking files: one text file per sequence, one row per object and frame.

Columns: frame, track id, type, truncation, occlusion, alpha, left, top, right, bottom (pixels), height, width, length
(metres), x, y, z of the bottom's centre in the rectified camera frame (x right, y down, z forward), rotation_y, and for
results a score. Sequences are named by their files; `evaluate_tracking.seqmap*` beside them gives their lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.errors import UserError, did_you_mean

LABEL_COLUMNS, RESULT_COLUMNS = 17, 18
MAX_FRAMES = 1_000_000
DONT_CARE = "dontcare"


@dataclass(frozen=True, eq=False)
class Rows:
    """N rows of one file, in its order.

    Attributes:
        frame: (N,) int64.
        track: (N,) int64; -1 in regions without an identity.
        kind: (N,) lower-case types.
        truncation: (N,) int64. occlusion: (N,) int64.
        box_px: (N, 4) left, top, right, bottom.
        box_3d: (N, 7) x, y, z, length, width, height, yaw: geometric centre; axes x right, y forward, z up.
        score: (N,) -1 where the file has none.
    """

    frame: NDArray[np.int64]
    track: NDArray[np.int64]
    kind: NDArray[np.str_]
    truncation: NDArray[np.int64]
    occlusion: NDArray[np.int64]
    box_px: NDArray[np.float64]
    box_3d: NDArray[np.float64]
    score: NDArray[np.float64]

    def of(self, chosen: NDArray[np.bool_]) -> Rows:
        """Return the chosen rows."""
        return Rows(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def read_rows(file: Path, *, results: bool) -> Rows:
    """Read one file.

    Raises:
        UserError: the file cannot be read, a row has another form, or a result gives a track twice in a frame.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as KITTI tracking rows: {error}") from None
    kinds: list[str] = []
    values: list[list[float]] = []
    expected = (LABEL_COLUMNS, RESULT_COLUMNS)
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) not in expected:
            raise UserError(
                f"{file}:{number}: {len(fields)} columns; a KITTI tracking row has {LABEL_COLUMNS}"
                f"{f', or {RESULT_COLUMNS} with a score' if results else ''} (frame id type truncation occlusion ...)"
            )
        try:
            row = [float(field) for index, field in enumerate(fields) if index != 2]
        except ValueError as error:
            raise UserError(f"{file}:{number}: {error}; all columns but the type are numbers") from None
        if not np.isfinite(row).all() or not 0 <= row[0] < MAX_FRAMES:
            raise UserError(f"{file}:{number}: not finite, or a frame that is not 0 to {MAX_FRAMES - 1}")
        kinds.append(fields[2].lower())
        values.append(row if len(fields) == RESULT_COLUMNS else [*row, -1.0])
    rows = _rows(np.array(values, np.float64).reshape(-1, RESULT_COLUMNS - 1), kinds)
    if results:
        _refuse_twins(file, rows)
    return rows


def _rows(values: NDArray[np.float64], kinds: Sequence[str]) -> Rows:
    height, width, length = values[:, 9], values[:, 10], values[:, 11]
    right, down, forward = values[:, 12], values[:, 13], values[:, 14]
    box_3d = np.column_stack((right, forward, height / 2 - down, length, width, height, -values[:, 15]))
    whole = values.astype(np.int64)
    kind = np.array(kinds, np.str_) if kinds else np.empty(0, "U1")
    return Rows(whole[:, 0], whole[:, 1], kind, whole[:, 2], whole[:, 3], values[:, 5:9], box_3d, values[:, 16])


def _refuse_twins(file: Path, rows: Rows) -> None:
    keys, counts = np.unique(np.column_stack((rows.frame, rows.track)), axis=0, return_counts=True)
    if (counts > 1).any():
        frame, track = keys[np.argmax(counts > 1)]
        raise UserError(f"{file}: track {track} stands twice in frame {frame}; each track has one box a frame")


@dataclass(frozen=True, eq=False)
class TrackedSequence:
    """One sequence: truth and results of the same frames."""

    name: str
    frames: int
    truth: Rows
    results: Rows


def read_sequences(truth: Path, results: Path, only: Sequence[str] = ()) -> list[TrackedSequence]:
    """Read all sequences of a truth folder with their results.

    Args:
        truth: folder with NAME.txt, or one with such a folder called `label`, `label_02`.
        results: folder with NAME.txt, or one with such a folder called `data`.
        only: names of the sequences to read; none means all.

    Raises:
        UserError: a folder or a file is missing, or a file has another form.
    """
    truth_files = _files(truth, ("label", "label_02"))
    result_files = _files(results, ("data", "data_0"))
    for name in only:
        if name not in truth_files:
            raise UserError(f"no sequence {name} in {truth}.{did_you_mean(name, truth_files)}")
    names = list(only) or sorted(truth_files)
    missing = [name for name in names if name not in result_files]
    if missing:
        raise UserError(
            f"{results} has no results for {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}; every "
            "sequence of the truth needs a file NAME.txt (empty where nothing was seen), or name some with --sequence"
        )
    lengths = _lengths(truth)
    found = []
    for name in names:
        rows = read_rows(truth_files[name], results=False), read_rows(result_files[name], results=True)
        seen = max((int(part.frame.max()) + 1 for part in rows if len(part.frame)), default=0)
        found.append(TrackedSequence(name, max(seen, lengths.get(name, 0)), *rows))
    return found


def _files(folder: Path, below: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; expected one with a file NAME.txt per sequence")
    for candidate in (folder, *(folder / name for name in below)):
        found = {file.stem: file for file in sorted(candidate.glob("*.txt"))} if candidate.is_dir() else {}
        if found:
            return found
    raise UserError(f"{folder} has no file NAME.txt, one per sequence")


def _lengths(truth: Path) -> Mapping[str, int]:
    """Return frames by sequence, where a seqmap lies in the folder or beside it: `0001 empty 000000 000447`."""
    lengths: dict[str, int] = {}
    for file in (*sorted(truth.glob("*.seqmap*")), *sorted(truth.parent.glob("*.seqmap*"))):
        for line in file.read_text().splitlines():
            fields = line.split()
            if len(fields) == 4 and fields[3].isdigit():
                lengths.setdefault(fields[0], int(fields[3]) + 1)
    return lengths


__all__ = ["DONT_CARE", "Rows", "TrackedSequence", "read_rows", "read_sequences"]
