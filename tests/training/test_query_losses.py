"""Losses of object queries: hand-worked matchings and costs, and a way back through the decoder's own boxes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from perception.networks.deepinteraction import Detections
from perception.networks.layers.interaction_decoder import BoxFields, Decoded, DecoderConfig, InteractionDecoder
from perception.training.query_losses import box_loss, label_loss, matched, query_boxes, query_losses
from perception.training.sweeps import LabelledSweep

CONFIG = DecoderConfig(channels=16, classes=3, queries=4, layers=1, heads=2, hidden=16, origin=(-16.0, -16.0))
CONFIG = replace(CONFIG, cell=(1.0, 1.0), every_cell_classes=(2,))
BOXES = np.array([[3.5, 4.0, 0.5, 4.0, 2.0, 1.5, 0.4], [-7.0, 2.0, 1.0, 0.8, 0.7, 1.8, -2.0]], np.float32)


def sweep_of(boxes: np.ndarray, labels: list[int]) -> LabelledSweep:
    velocity = np.tile(np.array([2.0, -1.0], np.float32), (len(boxes), 1))
    points, owner = np.zeros((0, 4), np.float32), np.zeros(0, np.int16)
    return LabelledSweep(points, owner, boxes, np.array(labels, np.int64), velocity)


SWEEP = sweep_of(BOXES, [1, 2])


def told(rows: list[int]) -> BoxFields:
    """Four queries: those of `rows` tell the box of that number exactly and surely, -1 tells nothing."""
    true = query_boxes(SWEEP, CONFIG)
    numbers = torch.stack([true[row] if row >= 0 else torch.zeros(10) for row in rows], dim=1)
    logits = torch.full((3, len(rows)), -8.0)
    for query, row in enumerate(rows):
        if row >= 0:
            logits[SWEEP.label[row], query] = 8.0
    return BoxFields(numbers[:2], numbers[2:3], numbers[3:6], numbers[6:8], numbers[8:], logits)


def test_true_boxes_written_as_queries_are_read_back_by_the_decoder_and_the_house() -> None:
    decoder = InteractionDecoder(CONFIG)
    fields = BoxFields(*(values[None] for values in told([0, 1])))
    found = Detections(decoder.boxes(fields)[0], torch.ones(2), torch.zeros(2)).upright_boxes()
    np.testing.assert_allclose(found.center_m, BOXES[:, :3], atol=1e-5)
    np.testing.assert_allclose(found.size_lwh_m, BOXES[:, 3:6], atol=1e-5)
    np.testing.assert_allclose(found.yaw_rad, BOXES[:, 6], atol=1e-5)


def test_each_box_is_matched_with_the_query_that_tells_it() -> None:
    query, match = matched(told([-1, 1, -1, 0]), query_boxes(SWEEP, CONFIG), SWEEP, CONFIG, (32, 32))
    assert query.tolist() == [1, 3]
    assert match.tolist() == [1, 0]


def test_of_two_queries_that_tell_one_box_only_one_is_matched() -> None:
    query, match = matched(told([0, 0, -1, -1]), query_boxes(SWEEP, CONFIG), SWEEP, CONFIG, (32, 32))
    assert sorted(match.tolist()) == [0, 1]
    assert len(set(query.tolist())) == 2


def test_a_query_beside_its_box_costs_the_sum_of_what_it_is_off() -> None:
    fields, true = told([0]), query_boxes(SWEEP, CONFIG)
    moved = fields._replace(center=fields.center + 0.5, vel=fields.vel + 1.0)
    # 0.5 cells in x and in y, and 1 m/s in both at a fifth of the weight
    loss = box_loss(moved, true, torch.tensor([0]), torch.tensor([0]))
    assert loss.item() == pytest.approx(0.5 + 0.5 + 0.2 + 0.2, abs=1e-5)


def test_the_focal_loss_of_an_undecided_query_worked_by_hand() -> None:
    # p = 0.5 for three classes, one of them true: 0.25 * 0.25 * ln 2 + 2 * 0.75 * 0.25 * ln 2
    loss = label_loss(torch.zeros(3, 1), torch.tensor([1]), torch.tensor([0]), torch.tensor([0]))
    assert loss.item() == pytest.approx(0.4375 * math.log(2))


def test_what_is_told_exactly_costs_almost_nothing_and_what_is_not_told_costs_more() -> None:
    def losses(rows: list[int]) -> dict[str, float]:
        fields = BoxFields(*(values[None] for values in told(rows)))
        heat = torch.zeros(1, 3, 32, 32)
        nothing = torch.zeros(1, 3, 4)
        decoded = Decoded(
            heat, heat, torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, 2), nothing, fields,
            torch.ones(1, 1, 4, dtype=torch.bool),
        )  # fmt: skip
        return {name: float(value) for name, value in query_losses(decoded, [SWEEP], CONFIG).items()}

    exact, missed = losses([0, 1, -1, -1]), losses([0, -1, -1, -1])
    assert exact["box"] == pytest.approx(0, abs=1e-5)
    assert exact["label"] < 1e-3 < missed["label"]
    assert missed["box"] > 0.1


def test_a_sample_without_objects_has_a_loss_of_its_heatmap_alone() -> None:
    fields = BoxFields(*(values[None].requires_grad_() for values in told([-1, -1, -1, -1])))
    empty = sweep_of(np.zeros((0, 7), np.float32), [])
    heat = torch.zeros(1, 3, 32, 32)
    decoded = Decoded(
        heat, heat, torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, 2), torch.zeros(1, 3, 4), fields,
        torch.ones(1, 1, 4, dtype=torch.bool),
    )  # fmt: skip
    losses = query_losses(decoded, [empty], CONFIG)
    assert losses["box"].item() == 0
    assert losses["heatmap"].item() > 0
