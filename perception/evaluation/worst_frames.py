"""Find the instants at which an output was most wrong, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.deliveries import Delivered, Pair, offline
from perception.evaluation.detection_nuscenes import SceneBoxes
from perception.evaluation.message_scores import RANGE_M, compared_labels, object_boxes
from perception.messages import Message, SegmentationMask, TrackedObjects

NEAR_M = 2.0


@dataclass(frozen=True, eq=False)
class WorstFrame:
    """One instant and what was wrong at it.

    Attributes:
        t_ns: the instant.
        errors: by which frames are ordered; 0 is none.
        caption: for people.
        boxes: true and reported ones in `base_link`, of objects.
        mask: reported labels (H, W), and where they are wrong, of masks.
        frame_id: the frame of the truth; a camera's for masks.
    """

    t_ns: int
    errors: float
    caption: str
    frame_id: str
    boxes: tuple[SceneBoxes, SceneBoxes] | None = None
    mask: tuple[NDArray[np.uint8], NDArray[np.bool_]] | None = None


def worst_frames(truth: Sequence[Message], outputs: Sequence[Delivered], count: int) -> list[WorstFrame]:
    """Return the frames with the most missed and invented boxes within 50 m, or wrong pixels, the worst first.

    Other tasks have none.
    """
    worst: list[WorstFrame] = []
    for pair in offline(truth, outputs):
        found = _frame(pair)
        if found is not None and found.errors > 0:
            worst = sorted([*worst, found], key=lambda frame: -frame.errors)[:count]  # pictures are large: keep few
    return worst


def _frame(pair: Pair) -> WorstFrame | None:
    if pair.output is None:
        return None
    if isinstance(pair.truth, TrackedObjects):
        return _of_boxes(pair.truth, pair.output)
    if isinstance(pair.truth, SegmentationMask) and isinstance(pair.output, SegmentationMask):
        return _of_masks(pair.truth, pair.output)
    return None


def _of_boxes(truth: TrackedObjects, output: Message) -> WorstFrame:
    there, given = object_boxes(truth, seen_only=True), object_boxes(output)
    there, given = there[there.range_m < RANGE_M], given[given.range_m < RANGE_M]
    apart = np.linalg.norm(there.center_m[:, None, :2] - given.center_m[None, :, :2], axis=2)
    missed = int((apart.min(axis=1, initial=np.inf) > NEAR_M).sum())
    invented = int((apart.min(axis=0, initial=np.inf) > NEAR_M).sum())
    t_ns = truth.header.t_sensor_ns
    caption = f"{t_ns} ns: {missed} missed, {invented} invented"
    return WorstFrame(t_ns, missed + invented, caption, truth.header.frame_id, boxes=(there, given))


def _of_masks(truth: SegmentationMask, output: SegmentationMask) -> WorstFrame | None:
    there, given = compared_labels(truth, output)
    if there.shape != given.shape:
        return None
    wrong = (there != 255) & (there != given)
    share = float(wrong.sum() / max(1, (there != 255).sum()))
    t_ns = truth.header.t_sensor_ns
    return WorstFrame(t_ns, share, f"{t_ns} ns: {share:.1%} wrong", truth.header.frame_id, mask=(given, wrong))


__all__ = ["WorstFrame", "worst_frames"]
