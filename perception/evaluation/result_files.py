"""Read poses and recognitions from result files, for scoring without a graph.

Poses: `.npz` with `joints_m` (N, J, 3) metres and, optionally, `valid` (N, J) and `frame` (N,) that pairs frames; or
`.json` {"frames": {ID: [[x, y, z], ...]}}, a joint of null is not valid.
Recognitions: `.json` {CLIP: "class"} for truth and {CLIP: ["best", "second", ...]} for results; or `.csv` rows of
clip,class and clip,best,second,...
"""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.errors import UserError
from perception.evaluation.track_frames import Float


def read_pose_pair(truth: Path, results: Path) -> tuple[Float, Float, NDArray[np.bool_]]:
    """Return joints (N, J, 3) of truth and results, and (N, J) which joints count: those valid in the truth.

    Raises:
        UserError: a file cannot be read or has another content, or the results lack frames or joints of the truth.
    """
    there, given = _poses(truth), _poses(results)
    if missing := [frame for frame in there if frame not in given]:
        raise UserError(f"{results}: lacks {len(missing)} frames of the truth, the first {missing[0]}")
    counts = {len(joints) for joints in (*there.values(), *(given[frame] for frame in there))}
    if len(counts) != 1:
        raise UserError(f"{truth} and {results}: frames have {sorted(counts)} joints; expected one number")
    joints, answers = np.stack(list(there.values())), np.stack([given[frame] for frame in there])
    valid: NDArray[np.bool_] = np.asarray(np.isfinite(joints).all(axis=2))
    if not np.isfinite(answers[valid]).all():
        raise UserError(f"{results}: a joint that the truth holds is missing or not finite")
    return joints, answers, valid


def _poses(path: Path) -> dict[str, Float]:
    """Return joints (J, 3) by frame, NaN where a joint is not valid."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        frames = _npz_poses(path) if path.suffix == ".npz" else _json_poses(path)
    except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: is no file of poses: {type(error).__name__}: {error}") from None
    if not frames:
        raise UserError(f"{path}: holds no frame")
    return frames


def _npz_poses(path: Path) -> dict[str, Float]:
    with np.load(path, allow_pickle=False) as archive:
        joints = np.array(archive["joints_m"], np.float64)
        if joints.ndim != 3 or joints.shape[2] != 3:
            raise ValueError(f"joints_m {joints.shape}; expected (N, J, 3)")
        if "valid" in archive:
            joints[~np.asarray(archive["valid"], bool)] = np.nan
        names = archive["frame"] if "frame" in archive else np.arange(len(joints))
        return {str(name): frame for name, frame in zip(names, joints, strict=True)}


def _json_poses(path: Path) -> dict[str, Float]:
    frames = json.loads(path.read_text())["frames"]
    nothing = [np.nan] * 3
    return {
        str(name): np.array([nothing if joint is None else joint for joint in joints], np.float64).reshape(-1, 3)
        for name, joints in frames.items()
    }


def read_truth_classes(path: Path) -> dict[str, str]:
    """Return the class of each clip.

    Raises:
        UserError: the file cannot be read, or holds no clip.
    """
    answers = read_answers(path)
    if bad := [clip for clip, names in answers.items() if len(names) != 1]:
        raise UserError(f"{path}: clip {bad[0]} has {len(answers[bad[0]])} classes; expected one in a file of truth")
    if not answers:
        raise UserError(f"{path}: holds no clip")
    return {clip: names[0] for clip, names in answers.items()}


def read_answers(path: Path) -> dict[str, list[str]]:
    """Return the classes of each clip, best first.

    Raises:
        UserError: the file cannot be read, or is neither JSON nor CSV as this module's text says.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no text file") from None
    if path.suffix == ".csv":
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]
        if short := [row for row in rows if len(row) < 2]:
            raise UserError(f"{path}: row {short[0]}; expected clip,class,...")
        return {row[0]: [name for name in row[1:] if name] for row in rows}
    try:
        return _named(json.loads(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected JSON with a class, or a list of classes, by clip: {error}") from None


def _named(document: Mapping[str, Any]) -> dict[str, list[str]]:
    answers = {}
    for clip, given in document.items():
        names = [given] if isinstance(given, str) else list(given)
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"clip {clip!r}: {given!r}")
        answers[clip] = names
    return answers


__all__ = ["read_answers", "read_pose_pair", "read_truth_classes"]
