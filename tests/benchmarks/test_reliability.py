"""What a detector's scores and classes are worth, on boxes whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from perception.benchmarks.reliability import Said
from perception.evaluation.detection_nuscenes import SceneBoxes


def boxes(names: list[str], x_m: list[float], score: list[float]) -> SceneBoxes:
    count = len(names)
    return SceneBoxes(
        np.zeros(count, np.int64), np.array(names, np.str_), np.column_stack((x_m, np.zeros((count, 2)))),
        np.tile([2.0, 1.0, 1.0], (count, 1)), np.zeros(count), np.full((count, 2), np.nan), np.array(score),
        np.full(count, "", np.str_), np.abs(np.array(x_m, np.float64)),
    )  # fmt: skip


def test_a_class_is_confused_as_often_as_its_surest_boxes_have_another_name() -> None:
    said = Said()
    truth = boxes(["bus", "bus", "truck", "pedestrian", "bus"], [0, 10, 20, 30, 60], [1.0] * 5)
    said.add(
        truth, boxes(["bus", "truck", "truck", "pedestrian", "bus"], [0, 10, 20, 30, 40], [0.9, 0.8, 0.9, 0.9, 0.9])
    )
    said.add(truth, boxes(["truck", "bus", "bus"], [0.2, 0.1, 10.5], [0.5, 0.8, 0.2]))  # of one place; and not meant
    # buses: called so twice, once a truck; one more of each; of people there is one class only, of 40 m nothing true
    assert said.confusion() == {
        "bus": pytest.approx({"bus": 3 / 5, "truck": 2 / 5}), "truck": pytest.approx({"bus": 1 / 3, "truck": 2 / 3}),
    }  # fmt: skip
    assert np.concatenate(said.right).tolist() == [True, False, True, True, False, False, True, True]
