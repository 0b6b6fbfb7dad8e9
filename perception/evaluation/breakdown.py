"""Where a detector is good and where not: by distance and by how much of an object can be seen, and its curves.

One matching stands behind all of it: results, best first, each with the nearest free true box of its class within 2 m.
A result belongs to the distance of the true box that it found, and to its own where it found none, so that a box which
lies a little beyond the edge of a band is no error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.calibration import Reliability
from perception.evaluation.detection_nuscenes import RECALLS, NuscenesScores, SceneBoxes, evaluate
from perception.evaluation.track_frames import Float

Table: TypeAlias = dict[str, float]
Curves: TypeAlias = dict[str, list[tuple[float, float]]]
MATCH_M = 2.0
DISTANCES_M = (0.0, 20.0, 35.0, 50.0)
BACKGROUND = "background"
"""Stands for the class of what is no object, and for the answer to one that was not found."""
VISIBLE = (0.0, 0.4, 0.6, 0.8, 1.0)
"""Edges of the bands of the share that nothing hides; those of nuScenes."""


def matched(truth: SceneBoxes, results: SceneBoxes) -> NDArray[np.int64]:
    """Return (R,) the index of the true box that each result found, -1 for none."""
    found = np.full(len(results), -1, np.int64)
    taken = np.zeros(len(truth), bool)
    in_order = np.argsort(truth.sample, kind="stable")
    first = np.searchsorted(truth.sample[in_order], results.sample, "left")
    after = np.searchsorted(truth.sample[in_order], results.sample, "right")
    for index in np.argsort(-results.score, kind="stable"):
        near = in_order[first[index] : after[index]]  # of its sample
        near = near[(truth.name[near] == results.name[index]) & ~taken[near]]
        apart = np.linalg.norm(truth.center_m[near, :2] - results.center_m[index, :2], axis=1)
        if len(near) and apart.min() < MATCH_M:
            found[index] = near[apart.argmin()]
            taken[found[index]] = True
    return found


def confusion(truth: SceneBoxes, results: SceneBoxes) -> tuple[dict[str, dict[str, int]], float]:
    """Return counts by (true class, answered class), and the score from which on results are in it.

    Results that found a true box of their class are right, as in the scores; of what is left over, results and true
    boxes of another class within 2 m are taken for each other, best results first; the rest is background. Below the
    score at which F1 over all classes is highest, results are left out: few of them are meant.
    """
    found = matched(truth, results)
    least = _best_f1(len(truth), results.score, found >= 0)
    meant = results.score >= least
    results, found = results[meant], found[meant]
    found = _taken_for_others(truth, results, found)
    names = [*sorted({*truth.name.tolist(), *results.name.tolist()}), BACKGROUND]
    table = {true: dict.fromkeys(names, 0) for true in names}
    for name, index in zip(results.name.tolist(), found.tolist(), strict=True):
        table[BACKGROUND if index < 0 else str(truth.name[index])][name] += 1
    for name in np.delete(truth.name, found[found >= 0]).tolist():
        table[name][BACKGROUND] += 1
    return {true: row for true, row in table.items() if any(row.values())}, least


def _best_f1(boxes: int, score: Float, is_right: NDArray[np.bool_]) -> float:
    order = np.argsort(-score, kind="stable")
    f1 = 2 * np.cumsum(is_right[order]) / (np.arange(1, len(score) + 1) + boxes)
    return float(score[order[int(f1.argmax())]]) if len(score) else 0.0


def _taken_for_others(truth: SceneBoxes, results: SceneBoxes, found: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `found` with what is left over on both sides matched across classes."""
    free, wrong = np.setdiff1d(np.arange(len(truth)), found), np.flatnonzero(found < 0)
    if not len(free) or not len(wrong):
        return found
    any_truth, any_results = truth[free], results[wrong]
    any_truth.name[:] = any_results.name[:] = ""  # copies, on which one class stands for all
    across = matched(any_truth, any_results)
    found = found.copy()
    found[wrong[across >= 0]] = free[across[across >= 0]]
    return found


def by_distance(truth: SceneBoxes, results: SceneBoxes, found: NDArray[np.int64]) -> dict[str, Table]:
    """Return mAP over the classes that are there, recall and precision in each band that holds a true box."""
    range_m = results.range_m.copy()
    range_m[found >= 0] = truth.range_m[found[found >= 0]]
    table: dict[str, Table] = {}
    for low, high in pairwise(DISTANCES_M):
        of_truth = (truth.range_m >= low) & (truth.range_m < high)
        of_results = (range_m >= low) & (range_m < high)
        there, given = truth[of_truth], results[of_results]
        if not len(there):
            continue
        classes = sorted(set(there.name.tolist()))
        known = given[np.isin(given.name, classes)]
        right = int((found[of_results] >= 0).sum())
        table[f"{low:g} to {high:g} m"] = {
            "mAP": evaluate(there, known, classes, {}).mean_ap, "recall": right / len(there),
            "precision": right / len(given) if len(given) else float("nan"), "boxes": float(len(there)),
        }  # fmt: skip
    return table


def by_visibility(visible: Float, found: NDArray[np.int64]) -> dict[str, Table]:
    """Return the recall of true boxes by the share of them that nothing hides.

    Args:
        visible: (G,) that share, NaN where the truth does not tell.
        found: as of `matched`.
    """
    is_found = np.isin(np.arange(len(visible)), found)
    table: dict[str, Table] = {}
    for low, high in pairwise(VISIBLE):
        chosen = (visible >= low) & ((visible < high) | ((visible == high) & (high == VISIBLE[-1])))
        if chosen.any():
            name = f"{100 * low:.0f} to {100 * high:.0f} % visible"
            table[name] = {"recall": float(is_found[chosen].mean()), "boxes": float(chosen.sum())}
    return table


def precision_curves(scores: NuscenesScores, classes: Sequence[str]) -> Curves:
    """Return (recall, precision) of each class at 2 m, as far as recall goes."""
    curves: Curves = {}
    for name in classes:
        curve = scores.curves[name]
        reached = np.flatnonzero(curve.precision)
        last = int(reached[-1]) + 1 if len(reached) else 0
        points = zip(RECALLS[:last:2].tolist(), curve.precision[:last:2].tolist(), strict=True)
        curves[name] = [(round(x, 2), round(y, 4)) for x, y in points]
    return curves


def reliability_curve(found: Reliability) -> Curves:
    """Return (mean score, share that is right) of each bin that holds a result."""
    some = found.count > 0
    points = zip(found.score[some].tolist(), found.right[some].tolist(), strict=True)
    return {"results": [(round(x, 4), round(y, 4)) for x, y in points]}


def all_curves(scores: NuscenesScores, classes: Sequence[str], found: Reliability) -> Mapping[str, Curves]:
    """Return the curves of a detector by their name: what x and y are stands in it."""
    return {"precision over recall": precision_curves(scores, classes), "right over score": reliability_curve(found)}


__all__ = ["BACKGROUND", "Curves", "Table", "all_curves", "by_distance", "by_visibility", "confusion", "matched"]
