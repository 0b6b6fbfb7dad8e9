"""Deformable attention over one feature map, of operators that every engine has.

Source: Zhu et al., "Deformable DETR", ICLR 2021, section 4.1, with one level. The published kernels sample bilinearly
with zeros outside and pixel centres at half coordinates, which `grid_sample` with `align_corners=False` does exactly.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def deformable_attention(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Sum weighted samples of a feature map, head by head.

    Args:
        value: (B, M, C, H, W), M heads.
        locations: (B, Q, M, P, 2) column and row of P samples per query, 0 and 1 being the outer borders of the map;
            samples outside count as zero.
        weights: (B, Q, M, P), usually summing to 1 over P.

    Returns:
        (B, Q, M * C), head by head.
    """
    batch, heads, channels, height, width = value.shape
    queries, points = locations.shape[1], locations.shape[3]
    grid = (2 * locations - 1).transpose(1, 2).reshape(batch * heads, queries, points, 2)
    flat = value.reshape(batch * heads, channels, height, width)
    sampled = F.grid_sample(flat, grid, mode="bilinear", padding_mode="zeros", align_corners=False)  # (B * M, C, Q, P)
    share = weights.transpose(1, 2).reshape(batch * heads, 1, queries, points)
    summed = (sampled * share).sum(dim=3)  # (B * M, C, Q)
    return summed.reshape(batch, heads * channels, queries).transpose(1, 2)
