"""Overlap of rotated rectangles by hand and by sampling; suppression against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.ops.boxes_bev import bev_iou, rotated_nms, surest_apart

UNIT = [0.0, 0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (UNIT, 1.0),
        ([0, 0, 1, 1, math.pi / 4], 1 / math.sqrt(2)),  # the common octagon is 2 (sqrt(2) - 1) large
        ([0.5, 0, 1, 1, 0], 1 / 3),
        ([0.5, 0, 1, 1, math.pi / 2], 1 / 3),
        ([1, 0, 1, 1, 0], 0.0),  # they touch
        ([5, 5, 1, 1, 1], 0.0),
        ([0, 0, 4, 0.5, math.pi / 2], 0.5 / 2.5),
        ([0, 0, 0.5, 0.5, 0.3], 0.25),  # inside
        ([0, 0, 0, 0, 0], 0.0),  # a point
    ],
)
def test_overlap_by_hand(other: list[float], expected: float) -> None:
    one, two = np.array([UNIT]), np.array([other])
    np.testing.assert_allclose(bev_iou(one, two), [[expected]], atol=1e-12)
    np.testing.assert_allclose(bev_iou(two, one), [[expected]], atol=1e-12)


def inside(box: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    c, s = math.cos(box[4]), math.sin(box[4])
    moved = points - box[:2]
    along, across = moved @ (c, s), moved @ (-s, c)
    return np.asarray((abs(along) <= box[2] / 2) & (abs(across) <= box[3] / 2))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_overlap_is_the_share_of_samples_in_both(seed: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.uniform((-1, -1, 0.5, 0.5, -4), (1, 1, 4, 4, 4), (2, 5))
    grid = np.stack(np.meshgrid(np.linspace(-4.5, 4.5, 500), np.linspace(-4.5, 4.5, 500)), axis=-1).reshape(-1, 2)
    both, either = (inside(a, grid) & inside(b, grid)).sum(), (inside(a, grid) | inside(b, grid)).sum()
    np.testing.assert_allclose(bev_iou(a[None], b[None]), [[both / either]], atol=0.02)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 40), st.sampled_from([0.0, 0.1, 0.55]))
def test_suppression_is_that_of_a_plain_loop(seed: int, count: int, threshold: float) -> None:
    generator = np.random.default_rng(seed)
    boxes = generator.uniform((-4, -4, 0.5, 0.5, -4), (4, 4, 4, 4, 4), (count, 5))
    scores = np.round(generator.random(count), 1)  # many are equal
    kept: list[int] = []
    for number in sorted(range(count), key=lambda n: (-scores[n], n)):
        if not kept or bev_iou(boxes[[number]], boxes[kept]).max() <= threshold:
            kept.append(number)
    assert rotated_nms(boxes, scores, threshold).tolist() == kept
    assert rotated_nms(boxes, scores, threshold, after=3).tolist() == kept[:3]


def test_only_the_best_are_taken_into_account() -> None:
    apart = np.array([[10.0 * n, 0, 1, 1, 0] for n in range(4)])
    assert rotated_nms(apart, np.array([0.1, 0.4, 0.3, 0.2]), 0.5, before=2).tolist() == [1, 2]


def test_of_no_box_none_stays() -> None:
    assert rotated_nms(np.zeros((0, 5)), np.zeros(0), 0.5).tolist() == []
    assert bev_iou(np.zeros((0, 5)), np.array([UNIT])).shape == (0, 1)


def test_of_boxes_that_share_ground_the_surer_one_stays_and_hides_no_more_than_its_neighbours() -> None:
    row = np.array(
        [[0.0, 0, 4, 2, 0], [3.0, 0, 4, 2, 0], [6.0, 0, 4, 2, 0], [20.0, 0, 4, 2, 0]]
    )  # each shares a quarter
    assert surest_apart(row, np.array([0.9, 0.8, 0.7, 0.1]), 0.2).tolist() == [True, False, True, True]
    assert surest_apart(row, np.array([0.7, 0.8, 0.9, 0.1]), 0.2).tolist() == [True, False, True, True]
    assert surest_apart(row, np.array([0.8, 0.9, 0.7, 0.1]), 0.2).tolist() == [False, True, False, True]
    assert surest_apart(row, np.array([0.9, 0.8, 0.7, 0.1]), 0.3).all()
    assert surest_apart(np.zeros((0, 5)), np.zeros(0), 0.2).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_of_many_boxes_those_stay_that_share_no_ground_with_a_surer_one_that_stays(seed: int) -> None:
    random = np.random.default_rng(seed)
    boxes = np.column_stack(
        (random.uniform(0, 25, (60, 2)), random.uniform(0.5, 6, (60, 2)), random.uniform(-4, 4, 60))
    )
    iou, area, sure = bev_iou(boxes, boxes), boxes[:, 2] * boxes[:, 3], random.permutation(60)
    stays: list[int] = []
    for one in np.argsort(-sure).tolist():
        shared = [iou[one, other] / (1 + iou[one, other]) * (area[one] + area[other]) for other in stays]
        if all(part <= 0.2 * min(area[one], area[other]) for part, other in zip(shared, stays, strict=True)):
            stays.append(one)
    assert 10 < len(stays) < 60
    assert np.flatnonzero(surest_apart(boxes, sure, 0.2)).tolist() == sorted(stays)


def test_what_is_shared_counts_by_the_smaller_box() -> None:
    person_in_a_car = np.array([[0.0, 0, 4, 2, 0], [1.9, 0, 0.6, 0.6, 0]])  # 0.4 of its 0.6 m are inside
    assert surest_apart(person_in_a_car, np.array([0.5, 0.9]), 0.6).tolist() == [False, True]
    assert surest_apart(person_in_a_car, np.array([0.9, 0.5]), 0.7).all()
