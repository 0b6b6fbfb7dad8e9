"""Losses of segmentation networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = 255
"""Label of a pixel without a class."""


def hard_cross_entropy(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None, easy: float = 0.9, least: float = 0.1
) -> Tensor:
    """Return the weighted mean cross entropy of the hard pixels: online hard example mining.

    A pixel is hard where the probability of its class is below `easy`; if these are fewer than the share `least` of all
    pixels that have a class, the hardest of that number are taken.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64, IGNORED where there is no class.
        weight: (K,) of the classes; all alike if None.
        easy: probability of the true class above which a pixel teaches nothing.
        least: share of pixels that always count.

    Source: Shrivastava et al., arXiv 1604.03540; the threshold is that of HRNet's segmentation code,
    with which DDRNet was trained.
    """
    each = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    known = each[labels != IGNORED]
    if not known.numel():
        return each.sum()
    with torch.no_grad():
        count = max(int(least * known.numel()), 1)
        loss_of_easy = -torch.log(torch.tensor(easy))
        weakest = torch.minimum(loss_of_easy, torch.topk(known, count, sorted=False).values.min())
    hard = known >= weakest
    return _mean(known[hard], labels[labels != IGNORED][hard], weight)


def soft_jaccard(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - IoU, of probabilities in the place of decisions, as the mean over the classes that are there.

    A class counts as much as any other however few its pixels are, as in the mIoU that is to be reached.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64, IGNORED where there is no class.

    Source: Rahman & Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation",
    ISVC 2016, eq. 3 to 5.
    """
    known = labels != IGNORED
    chosen = torch.where(known, labels, 0)
    probability = logits.softmax(1) * known[:, None]
    right = probability.gather(1, chosen[:, None])[:, 0]
    classes = logits.shape[1]
    true = torch.bincount(labels[known], minlength=classes).to(logits.dtype)
    shared = right.new_zeros(classes).index_add(0, chosen.flatten(), right.flatten())
    either = probability.sum((0, 2, 3)) + true - shared
    there = true > 0
    if not bool(there.any()):
        return logits.sum() * 0.0
    return (1 - shared[there] / either[there]).mean()


def boundary_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None, width_px: int = 1) -> Tensor:
    """Return the weighted mean cross entropy of the pixels that have one of another class within `width_px`.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64, IGNORED where there is no class.
        weight: (K,) of the classes; all alike if None.
        width_px: of the strip to each side of a boundary.
    """
    strip = boundaries(labels, width_px) & (labels != IGNORED)
    if not bool(strip.any()):
        return logits.sum() * 0.0
    each = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    return _mean(each[strip], labels[strip], weight)


def boundaries(labels: Tensor, width_px: int) -> Tensor:
    """Return (B, H, W) True where a pixel of another label lies within a square of `width_px` to each side."""
    whole = labels[:, None].float()
    largest = F.max_pool2d(whole, 2 * width_px + 1, 1, width_px)
    smallest = -F.max_pool2d(-whole, 2 * width_px + 1, 1, width_px)
    return (largest != smallest)[:, 0]


def rare_class_weights(counts: Tensor, floor: float = 1.02) -> Tensor:
    """Return a weight per class that grows as the class gets rarer, up to 1 / log(floor); counts (K,) of pixels.

    Source: Paszke et al., "ENet", arXiv 1606.02147, section 5.2.
    """
    return 1 / torch.log(floor + counts / counts.sum())


def _mean(each: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return each.mean()
    of_each = weight[labels]
    return (each * of_each).sum() / of_each.sum()


__all__ = [
    "IGNORED", "boundaries", "boundary_cross_entropy", "hard_cross_entropy", "rare_class_weights", "soft_jaccard",
]  # fmt: skip
