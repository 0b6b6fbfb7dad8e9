"""Targets of center-point heads: what is written into the maps is what the network's own decode reads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perception.networks.card import find_card
from perception.networks.dsvt import DSVT
from perception.networks.flatformer import FlatFormer
from perception.networks.layers.boxes import Boxes3D
from perception.networks.layers.center_head import BevCells
from perception.networks.load import build_network
from perception.training.center_losses import center_losses, focal_loss, overlaps
from perception.training.center_targets import (
    DSVT_HEAD,
    CenterTargets,
    HeadConvention,
    center_targets,
    draw_peak,
    peak_radius,
)
from perception.training.lidar_detectors import head_of
from perception.training.sweeps import CLASSES, LabelledSweep

BOXES = np.array(
    [
        [10.3, 4.1, 0.75, 4.4, 1.8, 1.5, 0.3], [-20.0, -1.75, 1.6, 8.2, 2.5, 3.2, -3.0],
        [40.2, 2.2, 1.55, 11.5, 2.5, 3.1, 1.6], [5.5, -7.7, 1.0, 0.8, 0.7, 1.75, 3.1],
        [-8.1, 6.6, 0.9, 1.85, 0.75, 1.8, -1.2],
    ],
    np.float32,
)  # fmt: skip


def sweep_of(boxes: Any, labels: Any) -> LabelledSweep:
    count = len(boxes)
    nothing = np.zeros((0, 4), np.float32)
    velocity = np.tile(np.array([1.5, -0.5], np.float32), (count, 1))
    return LabelledSweep(
        nothing, np.zeros(0, np.int16), np.array(boxes, np.float32), np.array(labels, np.int64), velocity
    )


def perfect_maps(targets: CenterTargets, head: HeadConvention) -> dict[str, Tensor]:
    """The maps of a head that says exactly what the targets want."""
    maps = {head.heatmap: torch.logit(targets.heatmap.clamp(1e-6, 1 - 1e-6))}
    numbers = {head.center: targets.offset} | head.numbers(targets.boxes, targets.velocity)
    batch, _, height, width = targets.heatmap.shape
    for name, values in numbers.items():
        maps[name] = torch.zeros(batch, values.shape[1], height * width)
        maps[name][targets.sample, :, targets.cell] = values
        maps[name] = maps[name].view(batch, -1, height, width)
    maps["iou"] = torch.ones(batch, 1, height, width)
    return maps


def read(network: DSVT | FlatFormer, maps: dict[str, Tensor]) -> list[Boxes3D]:
    if isinstance(network, FlatFormer):
        maps["vel"] = torch.zeros_like(maps["reg"])
        return network.boxes(maps)
    return network.boxes(maps, lambda name, inputs: {})


@pytest.mark.parametrize("card", ["dsvt_compact", "flatformer_compact"])
def test_boxes_written_into_targets_are_read_back_by_the_networks_own_decode(card: str) -> None:
    network: Any = build_network(find_card(card), nn.Module)
    head, cells, size = head_of(network)
    first, second = sweep_of(BOXES, range(5)), sweep_of(BOXES[:2] * [-1, 1, 1, 1, 1, 1, 1], [0, 1])
    targets = center_targets([first, second], len(CLASSES), size, cells)
    found = read(network, perfect_maps(targets, head))
    for sweep, boxes in zip((first, second), found, strict=True):
        best = boxes.chosen(boxes.score > 0.9)
        assert best.label.tolist() == sweep.label.tolist()  # both are ordered by class
        said = torch.cat((best.center, best.size), dim=1).numpy()
        np.testing.assert_allclose(said, sweep.boxes[:, :6], atol=1e-3)
        turn = best.yaw.numpy() - sweep.boxes[:, 6]
        np.testing.assert_allclose(np.cos(turn), 1, atol=1e-5)


def test_a_centre_falls_into_its_cell_with_the_rest_as_offset() -> None:
    # x = 10.35 m in cells of 0.5 m from -51.2 m: (10.35 + 51.2) / 0.5 = 123.1; y = 4.1 m from -25.6 m: 59.4
    cells = BevCells((-51.2, -25.6), (0.5, 0.5))
    targets = center_targets([sweep_of([[10.35, 4.1, 1, 4, 2, 1.5, 0]], [2])], 5, (103, 205), cells)
    assert targets.cell.tolist() == [59 * 205 + 123]
    np.testing.assert_allclose(targets.offset.numpy(), [[0.1, 0.4]], atol=1e-3)
    assert targets.heatmap[0, 2, 59, 123] == 1
    assert targets.heatmap[0, [0, 1, 3, 4]].sum() == 0


def test_boxes_outside_the_map_are_left_out() -> None:
    cells = BevCells((-10.0, -10.0), (1.0, 1.0))
    sweep = sweep_of([[10.0, 0, 1, 4, 2, 1.5, 0], [-10.1, 0, 1, 4, 2, 1.5, 0], [9.9, 9.9, 1, 4, 2, 1.5, 0]], [0, 0, 1])
    targets = center_targets([sweep], 2, (20, 20), cells)
    assert targets.cell.tolist() == [19 * 20 + 19]
    assert targets.heatmap[0, 0].sum() == 0


def test_the_radius_of_a_square_is_that_of_the_formula_worked_by_hand() -> None:
    # Sides of 10, overlap 0.1: the larger box is (10 + 2 r)^2, and 100 / (10 + 2 r)^2 = 0.1 would be r = 10.8; the
    # published root for it is (-2 * 0.1 * 20 + sqrt(4 * 0.01 * 400 + 16 * 0.1 * 0.9 * 100)) / 2 = (-4 + 12.649) / 2.
    assert peak_radius(10, 10, 0.1) == pytest.approx(4.3246, abs=1e-4)


def test_a_peak_falls_as_a_gaussian_and_a_lower_one_does_not_dig_into_it() -> None:
    heatmap = np.zeros((9, 9), np.float32)
    draw_peak(heatmap, 4, 4, 2)
    draw_peak(heatmap, 6, 4, 2)
    sigma = 5 / 6
    assert heatmap[4, 4] == heatmap[4, 6] == 1
    assert heatmap[4, 5] == pytest.approx(math.exp(-1 / (2 * sigma**2)))
    assert heatmap[2, 2] == pytest.approx(math.exp(-8 / (2 * sigma**2)))
    assert heatmap[4, 1] == heatmap[1, 4] == 0


def test_a_peak_at_the_border_is_cut() -> None:
    heatmap = np.zeros((4, 4), np.float32)
    draw_peak(heatmap, 0, 3, 2)
    assert heatmap[3, 0] == 1
    assert heatmap[0].sum() == 0


def test_the_focal_loss_of_three_cells_worked_by_hand() -> None:
    # p = 0.5 everywhere; a peak, a cell of 0.5 beside it and an empty one, one peak:
    # 0.25 * ln 2  +  0.5^4 * 0.25 * ln 2  +  0.25 * ln 2 = 0.515625 * ln 2
    heatmap = torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 1, 3)
    assert focal_loss(torch.zeros(1, 1, 1, 3), heatmap).item() == pytest.approx(0.515625 * math.log(2))


def test_the_focal_loss_stays_finite_where_a_sigmoid_rounds_to_nothing() -> None:
    logits = torch.tensor([-200.0, 200.0]).view(1, 1, 1, 2).requires_grad_()
    loss = focal_loss(logits, torch.tensor([1.0, 0.0]).view(1, 1, 1, 2))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(400)
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


def test_perfect_maps_cost_nothing_but_what_the_heatmap_rounds() -> None:
    cells = BevCells((-51.2, -25.6), (0.64, 0.64))
    targets = center_targets([sweep_of(BOXES, range(5))], 5, (80, 160), cells)
    losses = center_losses(perfect_maps(targets, DSVT_HEAD), targets, DSVT_HEAD, cells)
    assert losses["box"].item() == pytest.approx(0, abs=1e-4)
    assert losses["iou"].item() == pytest.approx(0, abs=1e-3)


def test_a_box_moved_by_half_its_length_overlaps_by_a_third() -> None:
    cells = BevCells((-51.2, -25.6), (0.64, 0.64))
    targets = center_targets([sweep_of([[0, 0, 1, 4, 2, 1.5, 0]], [0])], 5, (80, 160), cells)
    maps = perfect_maps(targets, DSVT_HEAD)
    maps["center"][:, 0] += 2 / 0.64  # shares 2 x 2 of 4 x 2 + 4 x 2 - 2 x 2
    assert overlaps(maps, targets, DSVT_HEAD, cells).item() == pytest.approx(1 / 3, abs=1e-5)
    # DSVT says 2 IoU - 1, here -1 / 3; the map says 1
    losses = center_losses(maps, targets, DSVT_HEAD, cells)
    assert losses["iou"].item() == pytest.approx(4 / 3, abs=1e-4)
    assert losses["box"].item() == pytest.approx(2 / 0.64, abs=1e-3)
