"""Matching against all permutations, and overlaps worked out by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from perception.errors import ShapeError
from perception.ops.boxes_3d import corners_from_above, giou_3d, giou_at_most, iou_3d
from perception.ops.matching import UNMATCHED, assign, assign_greedily, iou_2d

CAR = [0.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0]


def best_by_trying(cost: np.ndarray, most: float) -> tuple[int, float]:
    """Return pairs (negative, most first) and total cost of the best matching."""
    rows, columns = cost.shape
    best = (0, 0.0)
    for order in permutations(range(max(rows, columns))):
        pairs = [(i, j) for i, j in enumerate(order[:rows]) if j < columns and cost[i, j] <= most]
        best = min(best, (-len(pairs), sum(float(cost[i, j]) for i, j in pairs)))
    return best


@pytest.mark.parametrize("most", [0.3, 0.7, np.inf])
def test_no_other_matching_has_more_pairs_or_costs_less(most: float) -> None:
    random = np.random.default_rng(1)
    for _ in range(60):
        cost = random.random(tuple(random.integers(1, 6, 2)))
        match = assign(cost, most)
        rows = np.flatnonzero(match != UNMATCHED)
        assert len(set(match[rows])) == len(rows)
        pairs, total = best_by_trying(cost, most)
        assert (-len(rows), cost[rows, match[rows]].sum()) == pytest.approx((pairs, total))


def test_greedy_takes_the_cheapest_pair_first_even_where_that_costs_more_in_all() -> None:
    cost = np.array([[1.0, 2.0], [1.5, 9.0]])
    assert assign_greedily(cost).tolist() == [0, 1]
    assert assign(cost).tolist() == [1, 0]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ShapeError, match="NaN"):
        assign(np.array([[np.nan]]))
    assert assign(np.empty((0, 3))).tolist() == []
    assert assign(np.full((2, 2), np.inf)).tolist() == [UNMATCHED, UNMATCHED]


def test_boxes_a_half_length_apart_share_a_third() -> None:
    moved = [2.0, *CAR[1:]]
    np.testing.assert_allclose(iou_3d(np.array([CAR]), np.array([CAR, moved])), [[1.0, 1 / 3]])
    np.testing.assert_allclose(giou_3d(np.array([CAR]), np.array([CAR, moved])), [[1.0, 1 / 3]])


def test_boxes_that_do_not_touch_are_worse_the_further_apart_they_are() -> None:
    ten, twenty = [10.0, *CAR[1:]], [20.0, *CAR[1:]]
    # the hull of two cars in line is 14 x 2, of which the cars fill 8: 8 / 14 - 1
    np.testing.assert_allclose(giou_3d(np.array([CAR]), np.array([ten, twenty])), [[8 / 14 - 1, 8 / 24 - 1]])
    np.testing.assert_allclose(iou_3d(np.array([CAR]), np.array([ten])), [[0.0]])


def test_the_cheap_bound_of_the_generalised_overlap_is_never_below_it_and_tells_much() -> None:
    random = np.random.default_rng(3)
    boxes = np.column_stack((
        random.uniform(-8, 8, (120, 2)), random.uniform(-0.5, 0.5, 120), random.uniform(0.3, 9, 120),
        random.uniform(0.3, 3, 120), random.uniform(0.5, 4, 120), random.uniform(-4, 4, 120),
    ))  # fmt: skip
    corners = corners_from_above(boxes)
    exact = giou_3d(boxes, boxes)
    most = np.array(
        [[giou_at_most(boxes[i], corners[i], boxes[j], corners[j]) for j in range(120)] for i in range(120)]
    )
    apart = most < 1
    assert (exact <= most)[apart].all()
    assert 0.2 < apart.mean() < 0.9
    assert np.median((most - exact)[apart]) < 0.05
    two = np.array([CAR, [10.0, *CAR[1:]]])  # in line the bound is the overlap itself
    line = corners_from_above(two)
    assert giou_at_most(two[0], line[0], two[1], line[1]) == pytest.approx(8 / 14 - 1, abs=1e-6)


def test_a_square_turned_by_an_eighth_overlaps_in_an_octagon() -> None:
    square = [0.0, 0.0, 0.0, 2.0, 2.0, 1.0, 0.0]
    turned = [*square[:6], np.pi / 4]
    octagon = 8 * (np.sqrt(2) - 1)  # of inscribed radius 1
    np.testing.assert_allclose(iou_3d(np.array([square]), np.array([turned])), [[octagon / (8 - octagon)]])
    hull = 4 * np.sqrt(2)  # eight corners at equal distance: a regular octagon of circumradius sqrt 2
    np.testing.assert_allclose(
        giou_3d(np.array([square]), np.array([turned])),
        [[octagon / (8 - octagon) - (hull - (8 - octagon)) / hull]],
    )


def test_one_box_above_another_shares_nothing() -> None:
    above = [*CAR[:2], 1.5, *CAR[3:]]
    assert iou_3d(np.array([CAR]), np.array([above]))[0, 0] == 0.0
    assert giou_3d(np.array([CAR]), np.array([above]))[0, 0] == pytest.approx(0.0)


def test_image_boxes_of_half_overlap_share_a_third() -> None:
    a = np.array([[0.0, 0.0, 10.0, 10.0]])
    b = np.array([[5.0, 0.0, 15.0, 10.0], [10.0, 0.0, 20.0, 10.0], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(iou_2d(a, b), [[1 / 3, 0.0, 0.0]])
