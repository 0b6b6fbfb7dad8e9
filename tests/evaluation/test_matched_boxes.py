"""Which boxes count as right, where the reliability of a detector is fitted and where its scores are broken down."""

from __future__ import annotations

import numpy as np

from perception.evaluation.breakdown import confusion, matched
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


def test_confusion_by_hand_right_ones_first_then_other_classes_then_background() -> None:
    truth = boxes(("car", 10.0, np.nan), ("car", 20.0, np.nan), ("bus", 30.0, np.nan), ("bus", 40.0, np.nan))
    found = boxes(
        ("bus", 10.1, 0.95), ("car", 10.5, 0.9),  # the car is right; the surer bus beside it has no box left
        ("bus", 21.0, 0.8), ("bus", 31.0, 0.7), ("van", 39.0, 0.6), ("car", 5.0, 0.1), ("car", 41.0, 0.05),
    )  # fmt: skip
    table, least = confusion(truth, found)
    # right among the surest n of 7 with 4 true boxes: F1 = 2 r / (n + 4): 0, 2/6, 2/7, 4/8, 4/9, 4/10, 4/11
    assert least == 0.7
    assert table == {
        "bus": {"bus": 1, "car": 0, "background": 1},
        "car": {"bus": 1, "car": 1, "background": 0},
        "background": {"bus": 1, "car": 0, "background": 0},
    }
    assert confusion(truth, boxes()) == (
        {"bus": {"bus": 0, "car": 0, "background": 2}, "car": {"bus": 0, "car": 0, "background": 2}},
        0.0,
    )
