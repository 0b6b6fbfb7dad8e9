"""Segmentation scores by the definition of Cityscapes: intersection over union of classes over a whole data set.

IoU of a class is TP / (TP + FP + FN), counted over the pixels of all pictures together. Pixels without a true class are
left out altogether; a pixel that was predicted to be of no class counts against its true class and for no other.

Source: mcordts/cityscapesScripts, evaluation/evalPixelLevelSemanticLabeling.py (definition).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError

IGNORED = 255
"""Label of a pixel that has no class."""


@dataclass(frozen=True)
class SegmentationScores:
    """What the counts of a data set say; shares of 1. A class that is neither true nor predicted anywhere is NaN."""

    iou: NDArray[np.float64]
    """(K,) of each class."""
    accuracy: NDArray[np.float64]
    """(K,) of the pixels of each class, those that were found."""
    precision: NDArray[np.float64]
    """(K,) of the pixels that were predicted to be of each class, those that are; scalabel's `mAcc` is its mean."""
    mean_iou: float
    mean_accuracy: float
    mean_precision: float
    frequency_weighted_iou: float
    """IoU of classes weighted by their true pixels."""
    pixel_accuracy: float
    pixels: int
    """With a true class."""


class Confusion:
    """Counts of (true class, predicted class) over pictures.

    Args:
        num_classes: K; labels are 0 to K - 1, and `ignored`.
        ignored: the label of pixels without a class.
    """

    def __init__(self, num_classes: int, ignored: int = IGNORED) -> None:
        self.num_classes, self.ignored = num_classes, ignored
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)
        """(K, K + 1); the last column counts predictions of no class."""

    def add(self, truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> None:
        """Count one picture.

        Raises:
            ShapeError: the two differ in size, or hold a label that is no class.
        """
        if truth.shape != predicted.shape:
            raise ShapeError(f"truth of {truth.shape} and prediction of {predicted.shape} pixels; expected one size")
        columns = self.num_classes + 1
        kinds = [self._checked(truth, "truth"), self._checked(predicted, "prediction")]
        flat = kinds[0].astype(np.int64) * columns + kinds[1]
        self.counts += np.bincount(flat, minlength=columns * columns).reshape(columns, columns)[: self.num_classes]

    def _checked(self, labels: NDArray[np.integer], what: str) -> NDArray[np.int64]:
        flat = labels.reshape(-1).astype(np.int64)
        without = flat == self.ignored
        strange = flat[~without & ((flat < 0) | (flat >= self.num_classes))]
        if strange.size:
            raise ShapeError(
                f"{what} holds the label {strange[0]}; expected 0 to {self.num_classes - 1}, or {self.ignored}"
            )
        flat[without] = self.num_classes
        return flat

    def scores(self, classes: Sequence[int] | None = None) -> SegmentationScores:
        """Return the scores; `classes` restricts the means to some classes, such as those that occur in the truth."""
        hits = np.diagonal(self.counts).astype(np.float64)
        true, predicted = self.counts.sum(1), self.counts[:, : self.num_classes].sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            iou, accuracy, precision = hits / (true + predicted - hits), hits / true, hits / predicted
        chosen = np.arange(self.num_classes) if classes is None else np.array(classes, np.int64)
        total = int(true.sum())
        return SegmentationScores(
            iou=iou, accuracy=accuracy, precision=precision, mean_iou=_mean(iou[chosen]),
            mean_accuracy=_mean(accuracy[chosen]), mean_precision=_mean(precision[chosen]),
            frequency_weighted_iou=float((np.nan_to_num(iou) * true).sum() / total) if total else float("nan"),
            pixel_accuracy=float(hits.sum() / total) if total else float("nan"), pixels=total,
        )  # fmt: skip

    @property
    def true_classes(self) -> list[int]:
        """Classes that occur in the truth."""
        return np.flatnonzero(self.counts.sum(1)).tolist()


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


__all__ = ["IGNORED", "Confusion", "SegmentationScores"]
