"""Tracking by the rules of BDD100K: image boxes in Scalabel's JSON, scored by class, parent class and over all.

A reported box that matches nothing and lies by more than half in a crowd or ignored region is left out, as in
scalabel/scalabel (Apache-2.0), scalabel/eval/mot.py.
"""

from __future__ import annotations

import json
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception.errors import UserError
from perception.evaluation.assignment import best_assignment
from perception.evaluation.track_frames import Float, TrackFrame, TrackSequence, image_iou
from perception.evaluation.tracking_clear import ClearCounts, clear

MIN_IOU, IGNORED_SHARE = 0.5, 0.5


@dataclass(frozen=True)
class Categories:
    """Leaf classes in order, and the leaves of each parent class."""

    leaves: tuple[str, ...]
    parents: Mapping[str, tuple[str, ...]]


BDD100K = Categories(
    ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    {
        "human": ("pedestrian", "rider"),
        "vehicle": ("car", "truck", "bus", "train"),
        "bike": ("motorcycle", "bicycle"),
    },
)


@dataclass(frozen=True, eq=False)
class _Boxes:
    ids: tuple[str, ...]
    names: tuple[str, ...]
    box_px: Float  # (N, 4) left, top, right, bottom


def read_categories(path: Path) -> Categories:
    """Read the categories of a Scalabel configuration (TOML).

    Raises:
        UserError: the file cannot be read or has no categories.
    """
    try:
        document = tomllib.loads(path.read_text())
        given = document["categories"]
        parents = {entry["name"]: tuple(child["name"] for child in entry.get("subcategories", ())) for entry in given}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected TOML with [[categories]] name and subcategories: {error}") from None
    leaves = tuple(leaf for name, children in parents.items() for leaf in (children or (name,)))
    return Categories(leaves, {name: children for name, children in parents.items() if children})


def evaluate_scalabel(truth: Path, results: Path, categories: Categories = BDD100K) -> dict[str, ClearCounts]:
    """Return counts by class, by parent class, and "OVERALL".

    Raises:
        UserError: a file cannot be read, is not Scalabel's JSON, names an unknown class, or lacks frames of the truth.
    """
    there, given = _frames(truth, categories), _frames(results, categories)
    if missing := sorted(set(there) - set(given)):
        raise UserError(f"{results}: lacks {len(missing)} frames of the truth, the first {missing[0]}")
    sequences = {name: _sequences_of(name, there, given) for name in categories.leaves}
    counts = {name: clear(of_class, MIN_IOU) for name, of_class in sequences.items()}
    by_parent = {name: _total([counts[leaf] for leaf in leaves]) for name, leaves in categories.parents.items()}
    return {**counts, **by_parent, "OVERALL": _total(list(counts.values()))}


def class_means(counts: Mapping[str, ClearCounts], leaves: Sequence[str]) -> dict[str, float]:
    """Return MOTA, MOTP (as similarity) and IDF1 averaged over leaf classes; what a class cannot have counts 0."""
    values = {
        "MOTA": [counts[name].mota for name in leaves],
        "MOTP": [1.0 - counts[name].motp for name in leaves],
        "IDF1": [counts[name].idf1 for name in leaves],
    }
    return {name: float(np.nan_to_num(np.array(of), nan=0.0).mean()) for name, of in values.items()}


def _total(parts: Sequence[ClearCounts]) -> ClearCounts:
    return sum(parts, ClearCounts())


def _frames(path: Path, categories: Categories) -> dict[tuple[str, int], tuple[_Boxes, Float]]:
    """Return by (video, frame index) the boxes that count, and the regions to ignore."""
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not JSON: {error}") from None
    frames = document.get("frames") if isinstance(document, dict) else document
    if not isinstance(frames, list):
        raise UserError(f"{path}: expected a list of frames, or an object with 'frames'")
    try:
        return {
            (str(frame.get("videoName", "")), int(frame.get("frameIndex") or 0)): _boxes(frame, categories)
            for frame in frames
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: is not in Scalabel's format: {type(error).__name__}: {error}") from None


def _boxes(frame: Mapping[str, Any], categories: Categories) -> tuple[_Boxes, Float]:
    kept, ignored = [], []
    for label in frame.get("labels") or []:
        box = label.get("box2d")
        if box is None:
            continue
        name = label["category"]
        if name not in categories.leaves:
            raise ValueError(f"unknown category {name!r}; expected one of {', '.join(categories.leaves)}")
        # Scalabel's x2 and y2 are the last pixels inside.
        corners = (float(box["x1"]), float(box["y1"]), float(box["x2"]) + 1, float(box["y2"]) + 1)
        attributes = label.get("attributes") or {}
        if attributes.get("crowd") or attributes.get("ignored"):
            ignored.append(corners)
        else:
            kept.append((str(label["id"]), name, corners))
    table = np.array([corners for _, _, corners in kept], np.float64).reshape(-1, 4)
    boxes = _Boxes(tuple(i for i, _, _ in kept), tuple(n for _, n, _ in kept), table)
    return boxes, np.array(ignored, np.float64).reshape(-1, 4)


def _sequences_of(
    name: str,
    truth: Mapping[tuple[str, int], tuple[_Boxes, Float]],
    results: Mapping[tuple[str, int], tuple[_Boxes, Float]],
) -> list[TrackSequence]:
    numbers: dict[tuple[str, str], int] = {}
    videos: dict[str, list[TrackFrame]] = defaultdict(list)
    for key in sorted(truth):
        (there, ignored), (given, _) = truth[key], results[key]
        ids, boxes = _of_class(there, name, "truth", numbers)
        ids_given, boxes_given = _of_class(given, name, "results", numbers)
        similarity = image_iou(boxes, boxes_given)
        if len(ignored):
            kept = ~_to_ignore(similarity, boxes_given, ignored)
            ids_given, similarity = ids_given[kept], similarity[:, kept]
        videos[key[0]].append(TrackFrame(ids, ids_given, similarity))
    return list(videos.values())


def _of_class(boxes: _Boxes, name: str, side: str, numbers: dict[tuple[str, str], int]) -> tuple[Any, Float]:
    chosen = [index for index, of in enumerate(boxes.names) if of == name]
    ids = [numbers.setdefault((side, boxes.ids[index]), len(numbers)) for index in chosen]
    return np.array(ids, np.int64), boxes.box_px[chosen]


def _to_ignore(similarity: Float, boxes: Float, ignored: Float) -> Any:
    """Return (R,) True for reported boxes that match no truth and lie in an ignored region."""
    unmatched = np.ones(len(boxes), bool)
    rows, columns = best_assignment(np.where(similarity >= MIN_IOU, 1.0 - similarity, 1e6))
    unmatched[columns[similarity[rows, columns] >= MIN_IOU]] = False
    left_top = np.maximum(boxes[:, None, :2], ignored[None, :, :2])
    right_bottom = np.minimum(boxes[:, None, 2:], ignored[None, :, 2:])
    shared = np.clip(right_bottom - left_top, 0, None).prod(axis=2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return unmatched & (shared > IGNORED_SHARE * area[:, None]).any(axis=1)


__all__ = ["BDD100K", "Categories", "class_means", "evaluate_scalabel", "read_categories"]
