"""Which boxes count as right, where the reliability of a detector is fitted and where its scores are broken down."""

from __future__ import annotations

import numpy as np

from perception.evaluation.breakdown import matched
from perception.evaluation.detection_nuscenes import SceneBoxes


def boxes(*rows: tuple[str, float, float]) -> SceneBoxes:
    """Boxes of class, x and score."""
    count = len(rows)
    center = np.array([(x, 0.0, 0.0) for _, x, _ in rows]).reshape(count, 3)
    return SceneBoxes(
        np.zeros(count, np.int64), np.array([name for name, *_ in rows], np.str_), center, np.ones((count, 3)),
        np.zeros(count), np.zeros((count, 2)), np.array([score for *_, score in rows]),
        np.full(count, "", np.str_), np.abs(center[:, 0]),
    )  # fmt: skip


def test_the_surest_box_of_the_class_near_an_object_is_right_and_no_other() -> None:
    truth = boxes(("car", 10.0, np.nan), ("bus", 20.0, np.nan))
    found = boxes(("car", 10.5, 0.4), ("car", 9.0, 0.9), ("car", 20.0, 0.8), ("bus", 22.5, 0.7), ("bus", 21.0, 0.2))
    assert (matched(truth, found) >= 0).tolist() == [False, True, False, False, True]
    assert (matched(boxes(), found) >= 0).tolist() == [False] * 5
