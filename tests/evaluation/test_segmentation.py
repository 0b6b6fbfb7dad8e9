"""Segmentation scores: a count by hand, the numbers of another project, and a loop over pixels."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.errors import ShapeError
from perception.evaluation.segmentation import Confusion

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip


def test_a_count_by_hand() -> None:
    # Two pictures of 2 x 3, three classes; 255 has no class.
    #   truth      0 0 1      1 2 255        predicted      0 1 1      1 0 2
    #              0 1 1      2 2 255                       0 1 0      2 255 0
    # class 0: true 3 (hit 2); predicted 4 where there is a truth (0,0 / 1,0 / 1,2 / second 0,1) -> 2 / (3 + 4 - 2)
    # class 1: true 4 (hit 3); predicted 4 -> 3 / (4 + 4 - 3)      class 2: true 3 (hit 1); predicted 1 -> 1 / 3
    counts = Confusion(3)
    counts.add(np.array([[0, 0, 1], [0, 1, 1]]), np.array([[0, 1, 1], [0, 1, 0]]))
    counts.add(np.array([[1, 2, 255], [2, 2, 255]]), np.array([[1, 0, 2], [2, 255, 0]]))
    scores = counts.scores()
    np.testing.assert_allclose(scores.iou, [2 / 5, 3 / 5, 1 / 3])
    np.testing.assert_allclose(scores.accuracy, [2 / 3, 3 / 4, 1 / 3])
    np.testing.assert_allclose(scores.precision, [2 / 4, 3 / 4, 1])
    assert scores.mean_iou == pytest.approx((2 / 5 + 3 / 5 + 1 / 3) / 3)
    assert scores.pixel_accuracy == pytest.approx(6 / 10)
    assert scores.frequency_weighted_iou == pytest.approx((3 * 2 / 5 + 4 * 3 / 5 + 3 * 1 / 3) / 10)
    assert scores.pixels == 10


def test_a_class_that_is_nowhere_is_left_out_and_one_that_is_only_predicted_counts_as_zero() -> None:
    counts = Confusion(3)
    counts.add(np.array([[0, 0]]), np.array([[0, 1]]))
    scores = counts.scores()
    assert scores.iou[0] == 0.5
    assert scores.iou[1] == 0
    assert math.isnan(scores.iou[2])
    assert scores.mean_iou == 0.25


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 255]), st.sampled_from([0, 1, 2, 255])), min_size=1, max_size=40))
def test_scores_equal_a_loop_over_pixels_by_the_definition(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs).T
    counts = Confusion(3)
    counts.add(truth, predicted)
    for label in range(3):
        hit = sum(t == label == p for t, p in pairs)
        false = sum(p == label and t not in (label, 255) for t, p in pairs)
        missed = sum(t == label != p for t, p in pairs)
        union = hit + false + missed
        expected = hit / union if union else math.nan
        assert counts.scores().iou[label] == pytest.approx(expected, nan_ok=True)


def test_other_labels_and_sizes_are_refused() -> None:
    with pytest.raises(ShapeError, match="label 3"):
        Confusion(3).add(np.array([[3]]), np.array([[0]]))
    with pytest.raises(ShapeError, match="one size"):
        Confusion(3).add(np.zeros((2, 2), int), np.zeros((2, 3), int))


@pytest.mark.parametrize(("predictions", "perfect"), [("sem_seg_preds.json", False), ("sem_seg_sample.json", True)])
def test_scores_equal_those_that_scalabel_asserts(data_folder: Path, predictions: str, perfect: bool) -> None:
    folder = data_folder / "metrics_scalabel"
    expected = json.loads((folder / "expected.json").read_text())["sem_seg"]
    truth = json.loads((folder / "sem_seg" / "sem_seg_sample.json").read_text())
    results = {frame["name"]: frame for frame in json.loads((folder / "sem_seg" / predictions).read_text())}
    counts = Confusion(len(CLASSES))
    for frame in truth:
        counts.add(_mask(frame), _mask(results[frame["name"]]))
    scores = counts.scores(classes=counts.true_classes)
    found = {
        "mIoU": scores.mean_iou, "mAcc": scores.mean_precision, "fIoU": scores.frequency_weighted_iou,
        "pAcc": scores.pixel_accuracy,
    }  # fmt: skip
    assert {key: 100 * value for key, value in found.items()} == pytest.approx(
        dict.fromkeys(expected, 100.0) if perfect else expected, abs=1e-6
    )


def test_predictions_of_nothing_score_zero(data_folder: Path) -> None:
    folder = data_folder / "metrics_scalabel" / "sem_seg"
    (truth,) = json.loads((folder / "sem_seg_sample.json").read_text())
    (nothing,) = json.loads((folder / "sem_seg_preds_empty.json").read_text())
    counts = Confusion(len(CLASSES))
    counts.add(_mask(truth), _mask(nothing))
    assert counts.scores(classes=counts.true_classes).mean_iou == 0


def _mask(frame: dict[str, Any]) -> NDArray[np.int64]:
    """Draw a frame of labels in the compressed runs of COCO; later labels cover earlier ones."""
    mask = np.full((720, 1280), 255)
    for label in frame["labels"]:
        if label["rle"] is not None and label["category"] in CLASSES:
            mask[_area(label["rle"])] = CLASSES.index(label["category"])
    return mask


def _area(rle: dict[str, Any]) -> NDArray[np.bool_]:
    counts: list[int] = []
    value = shift = 0
    for character in rle["counts"].encode():
        digit = character - 48
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(rle["size"][::-1]).T  # by columns
