"""Losses of a decoder of object queries: every true box is told by one query, found by the cheapest matching.

Paper      Bai et al., "TransFusion: Robust LiDAR-Camera Fusion for 3D Object Detection with Transformers", CVPR 2022,
           section 3.5 (label assignment and losses), with the weights of its configuration for nuScenes, which
           DeepInteraction++ takes over. The heatmap: Yin et al., CVPR 2021
Shapes     B samples, N classes, P queries, M true boxes of a sample; a layer's predictions are columns (., P)

Boxes are those of `InteractionDecoder`: x and y in cells, z of the centre, sizes along x, y, z at yaw 0 (the width
first), the yaw clockwise from -y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from perception.networks.layers.center_head import BevCells
from perception.networks.layers.interaction_decoder import BoxFields, Decoded, DecoderConfig
from perception.ops.boxes_3d import iou_3d
from perception.ops.matching import assign
from perception.training.center_losses import focal_loss
from perception.training.center_targets import center_targets
from perception.training.sweeps import LabelledSweep

ALPHA, GAMMA = 0.25, 2.0
"""Of the focal loss of a query's class: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 3.2."""
CODE_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2)
"""Of x, y, z, three sizes, sine, cosine, velocity x and y."""


@dataclass(frozen=True)
class MatchingCosts:
    """What one query costs for one true box: its class, how far off it is on the ground, how little they overlap."""

    label: float = 0.15
    place: float = 0.25
    overlap: float = 0.25


@dataclass(frozen=True)
class QueryLossWeights:
    """Weights of the parts."""

    heatmap: float = 1.0
    label: float = 1.0
    box: float = 0.25


def query_losses(
    decoded: Decoded, sweeps: Sequence[LabelledSweep], config: DecoderConfig, weights: QueryLossWeights | None = None
) -> dict[str, Tensor]:
    """Return the weighted losses of a batch by name: heatmap (of both maps), label and box (over all layers).

    Args:
        decoded: what the decoder said.
        sweeps: of the same batch, boxes in the frame of the card.
        config: of the decoder.
        weights: of the parts.
    """
    weights = weights or QueryLossWeights()
    rows, columns = decoded.heatmap_lidar.shape[2:]
    cells = BevCells(config.origin, config.cell)
    wanted = center_targets(sweeps, config.classes, (rows, columns), cells).heatmap.to(decoded.heatmap_lidar.device)
    heat = focal_loss(decoded.heatmap_lidar, wanted) + focal_loss(decoded.heatmap_fused, wanted)
    label, box = heat.new_zeros(()), heat.new_zeros(())
    layers = decoded.fields.center.shape[2] // decoded.query_labels.shape[1]
    reach = (columns, rows)
    for layer in range(layers):
        for sample, sweep in enumerate(sweeps):
            fields = _of(decoded.fields, sample, layer, layers)
            true = query_boxes(sweep, config).to(heat.device)
            query, match = matched(fields, true, sweep, config, reach)
            label = label + label_loss(fields.heatmap, torch.from_numpy(sweep.label), query, match)
            box = box + box_loss(fields, true, query, match)
    count = layers * len(sweeps)
    return {
        "heatmap": weights.heatmap * heat, "label": weights.label * label / count, "box": weights.box * box / count,
    }  # fmt: skip


def query_boxes(sweep: LabelledSweep, config: DecoderConfig) -> Tensor:
    """Return the true boxes as a query writes them, (M, 10): x, y, z, sizes, sine, cosine, velocity."""
    boxes = torch.from_numpy(sweep.boxes)
    xy = (boxes[:, :2] - boxes.new_tensor(config.origin)) / boxes.new_tensor(config.cell)
    yaw = -boxes[:, 6:7] - math.pi / 2
    velocity = torch.from_numpy(sweep.velocity)
    return torch.cat((xy, boxes[:, 2:3], boxes[:, [4, 3, 5]].log(), yaw.sin(), yaw.cos(), velocity), dim=1)


@torch.no_grad()
def matched(
    fields: BoxFields, true: Tensor, sweep: LabelledSweep, config: DecoderConfig, reach: tuple[int, int],
    costs: MatchingCosts | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return which query tells which true box: indices of queries and of boxes, in pairs.

    Args:
        fields: of one layer of one sample, (., P).
        true: as `query_boxes` gives them.
        sweep: of the same sample.
        config: of the decoder.
        reach: cells of the map along x and y.
        costs: of a pair.
    """
    costs = costs or MatchingCosts()
    labels = torch.from_numpy(sweep.label).to(true.device)
    probability = fields.heatmap.sigmoid()[labels].T  # (P, M)
    told = -ALPHA * (1 - probability) ** GAMMA * (probability + 1e-12).log()
    untold = -(1 - ALPHA) * probability**GAMMA * (1 - probability + 1e-12).log()
    off = torch.cdist(fields.center.T / true.new_tensor(reach), true[:, :2] / true.new_tensor(reach), p=1)
    overlap = true.new_tensor(iou_3d(_plain(fields, config).cpu().numpy(), sweep.boxes))
    cost = costs.label * (told - untold) + costs.place * off + costs.overlap * (1 - overlap)
    box_of_query = assign(cost.double().cpu().numpy())
    query = np.flatnonzero(box_of_query >= 0)
    return torch.from_numpy(query).to(true.device), torch.from_numpy(box_of_query[query]).to(true.device)


def label_loss(logits: Tensor, labels: Tensor, query: Tensor, match: Tensor) -> Tensor:
    """Return the focal loss of class logits (N, P) over the number of boxes: a query without a box is of no class."""
    wanted = torch.zeros_like(logits)
    wanted[labels.to(logits.device)[match], query] = 1
    probability = logits.sigmoid()
    off = torch.where(wanted == 1, 1 - probability, probability)
    weight = torch.where(wanted == 1, ALPHA, 1 - ALPHA) * off**GAMMA
    bits = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (weight * bits).sum() / max(1, len(query))


def box_loss(fields: BoxFields, true: Tensor, query: Tensor, match: Tensor) -> Tensor:
    """Return the L1 loss of the matched queries' numbers over the number of boxes."""
    said = torch.cat((fields.center, fields.height, fields.dim, fields.rot, fields.vel))[:, query].T
    return ((said - true[match]).abs() * said.new_tensor(CODE_WEIGHTS)).sum() / max(1, len(query))


def _of(fields: BoxFields, sample: int, layer: int, layers: int) -> BoxFields:
    """Return the predictions of one layer for one sample."""
    return BoxFields(*(values[sample].chunk(layers, dim=1)[layer] for values in fields))


def _plain(fields: BoxFields, config: DecoderConfig) -> Tensor:
    """Return boxes (P, 7) in the house's convention, metres."""
    xy = fields.center.T * fields.center.new_tensor(config.cell) + fields.center.new_tensor(config.origin)
    yaw = -torch.atan2(fields.rot[0:1], fields.rot[1:2]).T - math.pi / 2
    return torch.cat((xy, fields.height.T, fields.dim.T[:, [1, 0, 2]].exp(), yaw), dim=1)


__all__ = [
    "MatchingCosts", "QueryLossWeights", "box_loss", "label_loss", "matched", "query_boxes", "query_losses",
]  # fmt: skip
