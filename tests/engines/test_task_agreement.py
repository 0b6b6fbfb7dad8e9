"""The gate in task terms: seeded faults that change boxes, masks, joints or classes are seen, rounding is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.engines.task_agreement import task_figures

Outputs = dict[str, NDArray[Any]]
RANDOM = np.random.default_rng(5)


def detections() -> Outputs:
    """Outputs of a detection head on a map of 20 x 30 cells."""
    sizes = {"hm": 3, "center": 2, "center_z": 1, "dim": 3, "rot": 2}
    return {name: RANDOM.standard_normal((1, count, 20, 30)).astype(np.float32) for name, count in sizes.items()}


def figure(got: Outputs, expected: Outputs, half: bool = True) -> tuple[str, float, bool]:
    (found,) = task_figures(got, expected, half)
    return found.name, found.share, found.passed


def rounded(outputs: Outputs) -> Outputs:
    return {name: array.astype(np.float16).astype(np.float32) for name, array in outputs.items()}


@pytest.mark.parametrize("half", [True, False])
def test_rounding_to_float16_changes_no_box(half: bool) -> None:
    expected = detections()
    assert figure(rounded(expected), expected, half) == ("boxes", 1.0, True)


@pytest.mark.parametrize(
    "fault",
    [
        lambda outputs: outputs | {"hm": np.roll(outputs["hm"], 1, axis=3)},
        lambda outputs: outputs | {"hm": outputs["hm"][:, ::-1]},
        lambda outputs: outputs | {"rot": outputs["rot"][:, ::-1]},
        lambda outputs: outputs | {"dim": outputs["dim"] + 0.1},
        lambda outputs: outputs | {"center": outputs["center"][:, ::-1]},
        lambda outputs: outputs | {"hm": np.where(outputs["hm"] > 1, np.float32(np.nan), outputs["hm"])},
    ],
    ids=["shifted by a cell", "classes swapped", "sine for cosine", "too large", "x for y", "overflow"],
)
def test_a_fault_in_boxes_is_seen(fault: Any) -> None:
    expected = detections()
    name, share, passed = figure(fault(dict(expected)), expected)
    assert name == "boxes"
    assert share < 0.7
    assert not passed


def test_boxes_of_queries_are_compared_query_by_query() -> None:
    sizes = {"pred_heatmap": 10, "pred_center": 2, "pred_dim": 3, "pred_rot": 2}
    expected = {name: RANDOM.standard_normal((2, count, 50)).astype(np.float32) for name, count in sizes.items()}
    assert figure(rounded(expected), expected) == ("boxes", 1.0, True)
    wrong = expected | {"pred_center": expected["pred_center"] + np.float32(0.5)}
    assert figure(wrong, expected)[2] is False


def test_masks_count_pixels() -> None:
    expected = {"logits": RANDOM.standard_normal((1, 5, 40, 50)).astype(np.float32)}
    wrong = {"logits": expected["logits"].copy()}
    best = expected["logits"].argmax(1)
    wrong["logits"][0, :, :2, :] = np.eye(5, dtype=np.float32)[(best[0, :2] + 1) % 5].transpose(2, 0, 1)
    assert figure(wrong, expected) == ("masks", 0.95, False)
    assert figure(expected, expected, half=False) == ("masks", 1.0, True)


def test_a_class_that_all_but_ties_may_win_and_another_may_not() -> None:
    expected = {"logits": np.array([[5.0, 4.999, 0.0, -3.0], [5.0, 1.0, 0.0, -3.0]])}
    close = {"logits": np.array([[4.999, 5.0, 0.0, -3.0], [5.0, 1.0, 0.0, -3.0]])}
    wrong = {"logits": np.array([[5.0, 4.999, 0.0, -3.0], [0.0, 1.0, 0.0, -3.0]])}
    assert figure(close, expected) == ("classes", 1.0, True)
    assert figure(wrong, expected) == ("classes", 0.5, False)


def test_joints_count_distance_over_the_size_of_the_skeleton() -> None:
    expected = {"poses": 30 * RANDOM.standard_normal((1, 3, 16, 3))}
    extent = np.linalg.norm(expected["poses"].reshape(-1, 3).std(0))
    wrong = {"poses": expected["poses"] + np.array([0.02 * extent, 0, 0])}
    name, share, passed = figure(wrong, expected)
    assert (name, passed) == ("joints", False)
    assert share == pytest.approx(0.98)
    swapped = {"poses": expected["poses"][:, :, ::-1]}
    assert figure(swapped, expected)[2] is False


def test_a_part_inside_a_network_has_no_task() -> None:
    features = {"features": np.ones((4, 8))}
    assert task_figures(features, features) == []
