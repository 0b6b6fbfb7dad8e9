"""Read tracks in the text format of MOTChallenge: frame, id, left, top, width, height, confidence, ... a line a box."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perception.errors import UserError
from perception.evaluation.track_frames import Float, TrackFrame, TrackSequence, image_iou

_ENDINGS = ("_gt", "_result", "_results", "_pred", "_det")


def read_mot(path: Path, *, truth: bool) -> Float:
    """Return rows (N, 6): frame, id, left, top, right, bottom.

    Truth keeps rows whose confidence column is 1 or more: MOTChallenge marks what must not be counted with 0.

    Raises:
        UserError: the file cannot be read, a row has fewer than six numbers, or one id comes twice in a frame.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no text file; expected rows of frame,id,left,top,width,height,...") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = [float(value) for value in line.replace(",", " ").split()[:7]]
            frame, identity, left, top, width, height = values[:6]
        except ValueError:
            raise UserError(
                f"{path}:{number}: expected frame,id,left,top,width,height,... as numbers; found {line[:60]!r}"
            ) from None
        if truth and len(values) > 6 and values[6] < 1:
            continue
        rows.append((frame, identity, left, top, left + width, top + height))
    table = np.array(rows, np.float64).reshape(-1, 6)
    keys, counts = np.unique(table[:, :2], axis=0, return_counts=True)
    if (counts > 1).any():
        frame, identity = keys[counts.argmax()]
        raise UserError(f"{path}: track {identity:g} comes {counts.max()} times in frame {frame:g}; expected once")
    return table


def mot_sequence(truth: Float, results: Float) -> TrackSequence:
    """Return the frames of one sequence, those that neither side names left out."""
    frames = []
    for number in np.unique(np.concatenate((truth[:, 0], results[:, 0]))):
        there, given = truth[truth[:, 0] == number], results[results[:, 0] == number]
        similarity = image_iou(there[:, 2:], given[:, 2:])
        frames.append(TrackFrame(there[:, 1].astype(np.int64), given[:, 1].astype(np.int64), similarity))
    return frames


def mot_pairs(truth: Path, results: Path) -> dict[str, tuple[Path, Path]]:
    """Return truth and result file by sequence: two files, or two folders whose files are paired by name.

    `A_gt.txt` pairs with `A_result.txt` or `A.txt`, and `A/gt/gt.txt`, as MOTChallenge lays it out, with `A.txt`.

    Raises:
        UserError: a path is missing, or a sequence of the truth has no results.
    """
    for path in (truth, results):
        if not path.exists():
            raise UserError(f"{path}: there is no such file or folder")
    if truth.is_file() and results.is_file():
        return {_sequence_name(truth): (truth, results)}
    if truth.is_file() or results.is_file():
        raise UserError(f"{truth} and {results}: expected two files or two folders")
    laid_out = {path.parent.parent.name: path for path in sorted(truth.glob("*/gt/gt.txt"))}
    there = laid_out or _by_sequence(truth, ("_result", "_results", "_pred", "_det"))
    given = _by_sequence(results, ("_gt",))
    if not there:
        raise UserError(f"{truth}: holds no .txt file of truth")
    if missing := sorted(set(there) - set(given)):
        raise UserError(f"{results}: no results for {', '.join(missing)}; expected {missing[0]}.txt")
    return {name: (path, given[name]) for name, path in there.items()}


def _by_sequence(folder: Path, other_side: tuple[str, ...]) -> dict[str, Path]:
    return {_sequence_name(path): path for path in sorted(folder.glob("*.txt")) if not path.stem.endswith(other_side)}


def _sequence_name(path: Path) -> str:
    stem = path.stem
    return next((stem.removesuffix(ending) for ending in _ENDINGS if stem.endswith(ending)), stem)


__all__ = ["mot_pairs", "mot_sequence", "read_mot"]
