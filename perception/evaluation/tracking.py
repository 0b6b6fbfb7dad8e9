"""Scores of a tracker by published rules: AB3DMOT's on boxes in space, and KITTI's on boxes in the image.

`ab3dmot`: Weng et al., "3D Multi-Object Tracking: A Baseline and New Evaluation Metrics", IROS 2020, and its code.
Tracks are judged at up to 40 thresholds of their mean score, so chosen that the recall goes up in steps of 1/40;
sAMOTA, AMOTA and AMOTP are means over the 40 steps (a recall that is not reached counts as zero), MOTA and all counts
are those of the threshold with the best MOTA. `kitti`: the devkit's CLEAR figures of the results as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.kitti_mot import CLASSES, ClassCounter, Overlap
from perception.evaluation.kitti_tracking_files import Rows, TrackedSequence, read_sequences
from perception.ops.boxes_3d import iou_3d
from perception.ops.matching import iou_2d

Rules: TypeAlias = Literal["ab3dmot", "kitti"]
Figures: TypeAlias = dict[str, float]

RECALL_STEPS = 40
IOUS_3D = (0.25, 0.5)
IOU_2D = 0.5


def evaluate_tracking(
    rules: Rules, truth: Path, results: Path, only: Sequence[str] = ()
) -> dict[str, dict[str, Figures]]:
    """Score a folder of results.

    Args:
        rules: by which.
        truth: folder of KITTI tracking labels, one file per sequence.
        results: folder of KITTI tracking results with the same names.
        only: sequences; none means all of the truth.

    Returns:
        Figures by overlap ("3D IoU 0.25") and class ("Car"); shares in percent. A class without results is left out.

    Raises:
        UserError: folders or files are missing or of another form.
    """
    sequences = read_sequences(truth, results, only)
    if rules == "kitti":
        return {f"2D IoU {IOU_2D}": _of_classes(sequences, overlap_2d, IOU_2D, averaged=False)}
    return {f"3D IoU {least}": _of_classes(sequences, overlap_3d, least, averaged=True) for least in IOUS_3D}


def _of_classes(
    sequences: Sequence[TrackedSequence], overlap: Overlap, least: float, *, averaged: bool
) -> dict[str, Figures]:
    counters = {name: ClassCounter(sequences, name, overlap, least) for name in CLASSES}
    return {
        name: averaged_over_recall(counter) if averaged else counter.count().figures()
        for name, counter in counters.items()
        if counter.has_results()
    }


def averaged_over_recall(counter: ClassCounter) -> Figures:
    """Return AB3DMOT's figures of one class."""
    everything = counter.count()
    steps = thresholds(everything.scores, everything.true_positives + everything.false_negatives)
    scaled = accuracy = precision = 0.0
    best_mota, best_threshold = 0.0, -math.inf
    for threshold, recall in steps:
        counts = counter.count(threshold)
        scaled += counts.scaled_mota(recall)
        accuracy += counts.mota()
        precision += counts.motp()
        if counts.mota() > best_mota:
            best_mota, best_threshold = counts.mota(), threshold
    means = {"sAMOTA": scaled, "AMOTA": accuracy, "AMOTP": precision}
    figures = {name: round(100 * total / RECALL_STEPS, 4) for name, total in means.items()}
    best = counter.count(best_threshold).figures()
    return figures | best | {"threshold": best_threshold if math.isfinite(best_threshold) else float("-1e4")}


def thresholds(scores: Sequence[float], truth: int) -> list[tuple[float, float]]:
    """Return (threshold, recall) of the recall steps that the true positives reach, the first step left out.

    Args:
        scores: of the track of each true positive.
        truth: how many boxes there are to find.
    """
    ordered = sorted(scores, reverse=True)
    found: list[tuple[float, float]] = []
    recall = 0.0
    for index, score in enumerate(ordered):
        here = (index + 1) / truth
        following = (index + 2) / truth if index < len(ordered) - 1 else here
        if following - recall < recall - here and index < len(ordered) - 1:
            continue
        found.append((score, recall))
        recall += 1 / RECALL_STEPS
    return found[1:]


def overlap_3d(truth: Rows, results: Rows) -> NDArray[np.float64]:
    """Return 3-D intersection over union."""
    return iou_3d(truth.box_3d, results.box_3d)


def overlap_2d(truth: Rows, results: Rows) -> NDArray[np.float64]:
    """Return intersection over union of the boxes in the image."""
    return iou_2d(truth.box_px, results.box_px)


__all__ = ["Rules", "averaged_over_recall", "evaluate_tracking", "overlap_2d", "overlap_3d", "thresholds"]
