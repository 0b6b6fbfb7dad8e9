"""Detection by the rules of KITTI: AP at 40 recalls of image boxes, boxes seen from above and boxes in space.

Source: Geiger et al., "Are we ready for Autonomous Driving?", CVPR 2012; Simonelli et al., "Disentangling Monocular 3D
Object Detection", ICCV 2019, for 40 recalls. Counted as the benchmark's evaluate_object does: vans neither help nor
hurt cars, nor sitting persons pedestrians; boxes too small, hidden or cut off for a difficulty are left aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

from perception.evaluation.track_frames import image_iou
from perception.geometry.kitti_labels import Float, KittiFrame
from perception.ops.boxes_bev import bev_iou

Measure: TypeAlias = Literal["image", "bev", "3d"]
MEASURES: tuple[Measure, ...] = ("image", "bev", "3d")
DIFFICULTIES = ("easy", "moderate", "hard")
MIN_HEIGHT_PX, MAX_OCCLUSION, MAX_TRUNCATION = (40, 25, 25), (0, 1, 2), (0.15, 0.3, 0.5)
MIN_OVERLAP = {"car": 0.7, "pedestrian": 0.5, "cyclist": 0.5}
NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting"}
NUM_RECALLS = 40
COUNTS, ASIDE, OTHER = 0, 1, -1  # a box of the class and difficulty, one that neither helps nor hurts, another one


@dataclass(frozen=True, eq=False)
class _Prepared:
    """One frame for one class and difficulty."""

    overlap: Float  # (results, truth)
    truth: NDArray[np.int64]  # (truth,) COUNTS, ASIDE or OTHER
    results: NDArray[np.int64]
    score: Float
    angle: Float  # (results, truth) difference of the observation angles
    in_dont_care: NDArray[np.bool_]  # (results,)


@dataclass(frozen=True)
class KittiScores:
    """AP in percent by difficulty; AOS, the average orientation similarity, only of image boxes."""

    ap: dict[str, float]
    aos: dict[str, float]


def evaluate(
    frames: Sequence[tuple[KittiFrame, KittiFrame]], name: str, measure: Measure, min_overlap: float | None = None
) -> KittiScores:
    """Score one class by one measure.

    Args:
        frames: truth and results of each frame.
        name: car, pedestrian or cyclist, or another class with `min_overlap` given.
        measure: what overlaps are taken of.
        min_overlap: IoU above which a result may match; by default the benchmark's.
    """
    needed = MIN_OVERLAP[name] if min_overlap is None else min_overlap
    overlaps = [_overlap(results, truth, measure) for truth, results in frames]
    ap, aos = {}, {}
    for level, difficulty in enumerate(DIFFICULTIES):
        prepared = [
            _prepare(*frame, overlap, name, level, needed, measure)
            for frame, overlap in zip(frames, overlaps, strict=True)
        ]
        precision, similarity = _curve(prepared, needed)
        ap[difficulty] = 100.0 * float(precision[1:].sum()) / NUM_RECALLS
        aos[difficulty] = 100.0 * float(similarity[1:].sum()) / NUM_RECALLS
    return KittiScores(ap, aos if measure == "image" else {})


def _overlap(results: KittiFrame, truth: KittiFrame, measure: Measure) -> Float:
    if measure == "image":
        return image_iou(results.box_px, truth.box_px)
    a, b = results.ground_rectangles(), truth.ground_rectangles()
    seen_from_above = bev_iou(a, b)
    if measure == "bev":
        return seen_from_above
    area_a, area_b = (a[:, 2] * a[:, 3])[:, None], (b[:, 2] * b[:, 3])[None]
    ground = seen_from_above * (area_a + area_b) / (1 + seen_from_above)
    bottom_a, bottom_b = results.bottom_m[:, 1][:, None], truth.bottom_m[:, 1][None]
    height_a, height_b = results.size_hwl_m[:, 0][:, None], truth.size_hwl_m[:, 0][None]
    shared = np.minimum(bottom_a, bottom_b) - np.maximum(bottom_a - height_a, bottom_b - height_b)
    volume = ground * np.clip(shared, 0, None)
    union = area_a * height_a + area_b * height_b - volume
    return np.asarray(np.divide(volume, union, out=np.zeros_like(volume), where=union > 0))


def _prepare(
    truth: KittiFrame, results: KittiFrame, overlap: Float, name: str, level: int, needed: float, measure: Measure
) -> _Prepared:
    too_hard = (
        (truth.occluded > MAX_OCCLUSION[level])
        | (truth.truncated > MAX_TRUNCATION[level])
        | (truth.box_px[:, 3] - truth.box_px[:, 1] <= MIN_HEIGHT_PX[level])
    )
    role = np.where(truth.name == name, np.where(too_hard, ASIDE, COUNTS), OTHER)
    role[truth.name == NEIGHBOURS.get(name, "")] = ASIDE
    of_class = np.where(results.name == name, COUNTS, OTHER)
    # A result that is too small stays aside whatever its class is: so it does in the original.
    of_class[np.abs(results.box_px[:, 3] - results.box_px[:, 1]) < MIN_HEIGHT_PX[level]] = ASIDE
    dont_care = truth.box_px[truth.name == "dontcare"] if measure == "image" else np.empty((0, 4))
    angle = results.alpha_rad[:, None] - truth.alpha_rad[None]
    return _Prepared(overlap, role, of_class, results.score, angle, _covered(results.box_px, dont_care) > needed)


def _covered(boxes: Float, regions: Float) -> Float:
    """Return (N,) the largest share of each image box that one region covers."""
    left_top = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    right_bottom = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = np.clip(right_bottom - left_top, 0, None).prod(axis=2).max(axis=1, initial=0.0)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(np.divide(shared, area, out=np.zeros_like(shared), where=area > 0))


def _curve(frames: Sequence[_Prepared], needed: float) -> tuple[Float, Float]:
    """Return precision and orientation similarity at 41 recalls, each the best at its recall or beyond."""
    scores = np.concatenate([_true_scores(f.overlap, f.truth, f.results, f.score, needed) for f in frames])
    total = sum(int((frame.truth == COUNTS).sum()) for frame in frames)
    precision, similarity = np.zeros(NUM_RECALLS + 1), np.zeros(NUM_RECALLS + 1)
    for place, threshold in enumerate(_thresholds(np.sort(scores)[::-1], total)):
        hits, false, alike = np.sum(
            [
                _count(f.overlap, f.truth, f.results, f.score, f.angle, f.in_dont_care, needed, threshold)
                for f in frames
            ],
            axis=0,
        )
        precision[place] = hits / (hits + false) if hits + false else 0.0
        similarity[place] = alike / (hits + false) if hits + false else 0.0
    best_beyond = np.maximum.accumulate
    return best_beyond(precision[::-1])[::-1], best_beyond(similarity[::-1])[::-1]


def _thresholds(descending: Float, total: int) -> list[float]:
    """Return the scores at which recall passes each fortieth."""
    thresholds: list[float] = []
    recall = 0.0
    for place, score in enumerate(descending):
        here, following = (place + 1) / total, (place + 2) / total
        last = place == len(descending) - 1
        if not last and following - recall < recall - here:
            continue
        thresholds.append(float(score))
        recall += 1 / NUM_RECALLS
    return thresholds[: NUM_RECALLS + 1]


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _true_scores(overlap: Any, truth: Any, results: Any, score: Any, needed: float) -> Any:
    """Return the scores of true positives when every truth takes its best scored overlapping result."""
    taken = np.zeros(len(results), np.bool_)
    found = np.empty(len(truth))
    count = 0
    for i in range(len(truth)):
        if truth[i] == OTHER:
            continue
        best = -1
        for j in range(len(results)):
            if results[j] == OTHER or taken[j] or not overlap[j, i] > needed:
                continue
            if best < 0 or score[j] > score[best]:
                best = j
        if best < 0:
            continue
        taken[best] = True
        if truth[i] == COUNTS and results[best] == COUNTS:
            found[count] = score[best]
            count += 1
    return found[:count]


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _count(
    overlap: Any, truth: Any, results: Any, score: Any, angle: Any, in_dont_care: Any, needed: float, threshold: float
) -> Any:
    """Return true positives, false positives and the summed orientation similarity of one frame at a threshold."""
    taken = np.zeros(len(results), np.bool_)
    hits, alike = 0.0, 0.0
    for i in range(len(truth)):
        if truth[i] == OTHER:
            continue
        best, best_aside = -1, False
        for j in range(len(results)):
            if results[j] == OTHER or taken[j] or score[j] < threshold or not overlap[j, i] > needed:
                continue
            if results[j] == COUNTS:
                if best < 0 or best_aside or overlap[j, i] > overlap[best, i]:
                    best, best_aside = j, False
            elif best < 0:
                best, best_aside = j, True
        if best < 0:
            continue
        taken[best] = True
        if truth[i] == COUNTS and not best_aside:
            hits += 1
            alike += (1.0 + np.cos(angle[best, i])) / 2.0
    false = 0.0
    for j in range(len(results)):
        if results[j] == COUNTS and not taken[j] and score[j] >= threshold and not in_dont_care[j]:
            false += 1
    return np.array([hits, false, alike])


__all__ = ["DIFFICULTIES", "MEASURES", "MIN_OVERLAP", "KittiScores", "Measure", "evaluate"]
