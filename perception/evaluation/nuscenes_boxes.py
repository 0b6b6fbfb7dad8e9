"""Read boxes in the result format of nuScenes: a JSON object of lists of boxes by sample token.

The official result file ({"meta": ..., "results": {...}}) and the bare object are both read. A box holds `translation`,
`size` (width, length, height), `rotation` (w, x, y, z), and `detection_name` or `tracking_name`; optional are
`detection_score` or `tracking_score`, `velocity`, `attribute_name`, `num_pts` and `ego_translation`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.errors import UserError
from perception.evaluation.detection_nuscenes import SceneBoxes
from perception.geometry.boxes import from_nuscenes

MAX_BOXES_A_SAMPLE = 500  # the official limit of a submission


def read_nuscenes_boxes(
    path: Path, *, truth: bool, samples: Sequence[str] | None = None
) -> tuple[SceneBoxes, list[str]]:
    """Read one file.

    Args:
        path: the JSON file.
        truth: truth drops boxes without a point inside; results must have a score, and at most 500 boxes a sample.
        samples: the samples' tokens in order, of the truth; None takes those of the file.

    Returns:
        The boxes, and the tokens that `sample` points into. `range_m` is the length of `ego_translation` on the ground,
        else of `translation`, which then has to be in the vehicle's frame.

    Raises:
        UserError: the file is missing, is no such JSON, lacks a key, or its samples are not those of the truth.
    """
    by_sample = read_samples(path)
    tokens = list(by_sample) if samples is None else list(samples)
    if unknown := set(by_sample) - set(tokens):
        raise UserError(f"{path}: {len(unknown)} samples that the truth has not, the first {min(unknown)!r}")
    rows: list[Mapping[str, Any]] = []
    index: list[int] = []
    for number, token in enumerate(tokens):
        boxes = by_sample.get(token, [])
        if not truth and len(boxes) > MAX_BOXES_A_SAMPLE:
            raise UserError(f"{path}: sample {token!r} has {len(boxes)} boxes; expected at most {MAX_BOXES_A_SAMPLE}")
        kept = [box for box in boxes if not (truth and box.get("num_pts", -1) == 0)]
        rows += kept
        index += [number] * len(kept)
    try:
        return _boxes(rows, index, truth=truth), tokens
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: a box is not in nuScenes' result format: {type(error).__name__}: {error}") from None


def read_samples(path: Path) -> dict[str, list[Mapping[str, Any]]]:
    """Return the boxes of a file as they are, by sample token.

    Raises:
        UserError: the file cannot be read, or is no such JSON.
    """
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not JSON: {error}") from None
    found = document.get("results", document) if isinstance(document, dict) else None
    if not isinstance(found, dict) or not all(isinstance(boxes, list) for boxes in found.values()):
        raise UserError(f"{path}: expected an object of lists of boxes by sample token, or one under 'results'")
    return found


def _boxes(rows: Sequence[Mapping[str, Any]], sample: Sequence[int], *, truth: bool) -> SceneBoxes:
    kind = "tracking" if rows and "tracking_name" in rows[0] else "detection"
    count = len(rows)

    def column(key: str, width: int, default: Any = None) -> Any:
        if default is None:
            values = [row[key] for row in rows]
        else:
            values = [default if row.get(key) is None else row[key] for row in rows]
        return np.array(values, np.float64).reshape(count, width)

    center = column("translation", 3)
    ego = np.array([row.get("ego_translation") or row["translation"] for row in rows], np.float64).reshape(count, 3)
    boxes = from_nuscenes(center, column("size", 3), column("rotation", 4))
    score = np.zeros(count) if truth else column(f"{kind}_score", 1)[:, 0]
    if not (np.isfinite(center).all() and np.isfinite(score).all()):
        raise ValueError("a translation or score is not finite")
    if (boxes.size_lwh_m <= 0).any():
        raise ValueError("a size is not above 0")
    return SceneBoxes(
        sample=np.array(sample, np.int64),
        name=np.array([row[f"{kind}_name"] for row in rows], np.str_),
        center_m=boxes.center_m,
        size_lwh_m=boxes.size_lwh_m,
        yaw_rad=boxes.yaw_rad,
        velocity_mps=column("velocity", 2, (np.nan, np.nan)),
        score=score,
        attribute=np.array([row.get("attribute_name", "") for row in rows], np.str_),
        range_m=np.linalg.norm(ego[:, :2], axis=1),
    )


__all__ = ["read_nuscenes_boxes", "read_samples"]
