"""Losses of a center-point head: focal on the heatmap, L1 on the numbers of each box, L1 on the predicted overlap.

Paper      Yin et al., "Center-based 3D Object Detection and Tracking", CVPR 2021, section 4; the penalty-reduced focal
           loss: Law and Deng, "CornerNet", ECCV 2018, section 3.2, with the exponents of Zhou et al., "Objects as
           Points", 2019, section 3; the overlap: Hu et al., "AFDetV2", AAAI 2022, section 3.3, as DSVT takes it
Differs    DSVT's further loss, on the overlap of decoded boxes, is left out
Shapes     B samples, K classes, H rows, W columns, P peaks
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from perception.networks.layers.center_head import BevCells
from perception.ops.boxes_3d import iou_3d
from perception.training.center_targets import CenterTargets, HeadConvention, at_peaks, boxes_at_peaks

FOCUS, SPARED = 2, 4
"""Exponents: of how well a cell is known already, and of how near to a peak it lies."""
STARTS_AT = 0.01
"""What every cell of an untrained heatmap says, so that the many empty ones do not drown the first steps."""


@dataclass(frozen=True)
class CenterLossWeights:
    """Weights of the parts."""

    box: float = 1.0
    iou: float = 1.0
    velocity: float = 0.2


def center_losses(
    maps: Mapping[str, Tensor], targets: CenterTargets, head: HeadConvention, cells: BevCells,
    weights: CenterLossWeights | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the weighted losses of a batch by name: heatmap, box, iou.

    Args:
        maps: of the head, raw, (B, ., H, W) each.
        targets: of the same batch.
        head: how the head writes boxes.
        cells: where the cells are.
        weights: of the parts.
    """
    weights = weights or CenterLossWeights()
    losses = {"heatmap": focal_loss(maps[head.heatmap].float(), targets.heatmap)}
    peaks = max(1, len(targets.cell))
    numbers = {head.center: targets.offset} | head.numbers(targets.boxes, targets.velocity)
    box = maps[head.center].new_zeros((), dtype=torch.float32)
    for name, wanted in numbers.items():
        if name in maps:
            share = weights.velocity if name == "vel" else 1.0
            box = box + share * F.l1_loss(at_peaks(maps[name], targets).float(), wanted, reduction="sum") / peaks
    losses["box"] = weights.box * box
    wanted = head.iou_from + (1 - head.iou_from) * overlaps(maps, targets, head, cells)
    losses["iou"] = (
        weights.iou * F.l1_loss(at_peaks(maps["iou"], targets)[:, 0].float(), wanted, reduction="sum") / peaks
    )
    return losses


def focal_loss(logits: Tensor, heatmap: Tensor) -> Tensor:
    """Return the penalty-reduced focal loss of a heatmap (B, K, H, W), over the number of peaks.

    A peak p costs -(1 - p)^2 log p; another cell -(1 - y)^4 p^2 log(1 - p), little where the truth y is near 1.
    """
    found = logits.sigmoid()
    peak = heatmap == 1
    known = F.logsigmoid(logits)  # log p, exact where p rounds to 0
    unknown = known - logits  # log(1 - p)
    at_peak = (1 - found[peak]) ** FOCUS * known[peak]
    elsewhere = (1 - heatmap) ** SPARED * found**FOCUS * unknown
    return -(at_peak.sum() + elsewhere.sum()) / peak.sum().clamp(min=1)


@torch.no_grad()
def overlaps(maps: Mapping[str, Tensor], targets: CenterTargets, head: HeadConvention, cells: BevCells) -> Tensor:
    """Return the overlap in space of each box that the head says at a peak with the true one, (P,)."""
    said = boxes_at_peaks({name: values.float() for name, values in maps.items()}, targets, head, cells)
    pairs = zip(said.double().cpu().numpy(), targets.boxes.double().cpu().numpy(), strict=True)
    return said.new_tensor(np.array([iou_3d(a[None], b[None])[0, 0] for a, b in pairs], np.float32))


__all__ = ["STARTS_AT", "CenterLossWeights", "center_losses", "focal_loss", "overlaps"]
