"""Losses by hand, batches, and the bundled weights of DDRNet and P2AT."""

from __future__ import annotations

import math

import pytest
import torch

from perception.training.losses import IGNORED, boundaries, boundary_cross_entropy, hard_cross_entropy


def logits_of(probability: list[float]) -> torch.Tensor:
    """Return logits (1, 2, 1, N) under which class 0 has these probabilities."""
    p = torch.tensor(probability)
    return torch.stack((p.log(), (1 - p).log()))[None, :, None]


def test_only_hard_pixels_count() -> None:
    logits, labels = logits_of([0.5, 0.95, 0.25, 0.99, 0.01]), torch.tensor([[[0, 0, 0, 0, IGNORED]]])
    by_hand = (math.log(2) + math.log(4)) / 2  # 0.95 and 0.99 are above 0.9; the last has no class
    assert float(hard_cross_entropy(logits, labels)) == pytest.approx(by_hand)


def test_where_all_is_easy_the_hardest_share_counts() -> None:
    logits, labels = logits_of([0.98, 0.95, 0.97, 0.99]), torch.zeros(1, 1, 4, dtype=torch.int64)
    assert float(hard_cross_entropy(logits, labels, least=0.5)) == pytest.approx(-math.log(0.95 * 0.97) / 2)


def test_a_picture_without_a_class_costs_nothing_and_gives_no_gradient() -> None:
    logits = logits_of([0.5, 0.2]).requires_grad_()
    labels = torch.full((1, 1, 2), IGNORED)
    for loss in (hard_cross_entropy(logits, labels), boundary_cross_entropy(logits, labels)):
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert float(loss) == 0
        assert not gradient.any()


def test_a_boundary_is_a_strip_on_both_sides() -> None:
    labels = torch.tensor([[[3, 3, 3, 7, 7, 7]]])
    assert boundaries(labels, 1).tolist() == [[[False, False, True, True, False, False]]]
    assert boundaries(labels, 2).tolist() == [[[False, True, True, True, True, False]]]


def test_the_boundary_loss_is_the_mean_over_the_strip() -> None:
    logits, labels = logits_of([0.1, 0.5, 0.75, 0.2]), torch.tensor([[[0, 0, 1, 1]]])
    assert float(boundary_cross_entropy(logits, labels)) == pytest.approx(-math.log(0.5 * 0.25) / 2)
