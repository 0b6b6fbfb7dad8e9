"""How well a detector in training finds the boxes of sweeps that it never saw: mAP by the rules of nuScenes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception.evaluation.detection_nuscenes import SceneBoxes, evaluate
from perception.networks.layers.boxes import Boxes3D
from perception.training.sweeps import CLASSES, NEAR_M, LabelledSweep


def detection_scores(truths: Sequence[LabelledSweep], found: Sequence[Boxes3D]) -> dict[str, float]:
    """Return scores of detections within 50 m, in the same sweeps and the same frame.

    Those are mAP, the AP of each class, and what nuScenes calls mATE (how far centres of boxes within 2 m are off,
    metres) and mASE (1 - the overlap of boxes moved and turned onto each other): AP alone does not look at sizes.
    """
    truth = [_scene(k, t.boxes, t.label, t.velocity, np.ones(len(t.label))) for k, t in enumerate(truths)]
    results = []
    for number, boxes in enumerate(found):
        rows = np.column_stack((boxes.center.numpy(), boxes.size.numpy(), boxes.yaw.numpy()))
        velocity = np.full((len(rows), 2), np.nan) if boxes.velocity is None else boxes.velocity.numpy()
        results.append(_scene(number, rows, boxes.label.numpy(), velocity, boxes.score.numpy()))
    scores = evaluate(_joined(truth), _joined(results), CLASSES, dict.fromkeys(CLASSES, NEAR_M))
    errors = scores.mean_errors
    return {
        "mAP": scores.mean_ap, "mATE": errors["trans_err"], "mASE": errors["scale_err"],
        **{f"AP {name}": scores.class_ap[name] for name in CLASSES},
    }  # fmt: skip


def _scene(sample: int, boxes: np.ndarray, label: np.ndarray, velocity: np.ndarray, score: np.ndarray) -> SceneBoxes:
    boxes = boxes.astype(np.float64)
    return SceneBoxes(
        np.full(len(boxes), sample, np.int64), np.array(CLASSES, np.str_)[label], boxes[:, :3], boxes[:, 3:6],
        boxes[:, 6], velocity.astype(np.float64), score.astype(np.float64), np.full(len(boxes), "", np.str_),
        np.hypot(boxes[:, 0], boxes[:, 1]),
    )  # fmt: skip


def _joined(scenes: Sequence[SceneBoxes]) -> SceneBoxes:
    fields = SceneBoxes.__dataclass_fields__
    return SceneBoxes(**{name: np.concatenate([getattr(scene, name) for scene in scenes]) for name in fields})


__all__ = ["detection_scores"]
