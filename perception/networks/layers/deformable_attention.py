"""Multi-scale deformable attention.

Paper      Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", ICLR 2021
Reference  open-mmlab/mmcv v1.3.18, mmcv/ops/multi_scale_deform_attn.py (Apache-2.0)
Differs    sampled with `grid_sample`, or row by row in code compiled for the host
Shapes     B batch, Q queries, C channels, h heads, L levels, P points per level, H_l x W_l cells of level l
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.ops.blocks import in_blocks
from perception.ops.deformable_attention import deformable_attention
from perception.ops.host_products import linear_on_host, product_on_host
from perception.ops.host_sampling import on_host, sampled_on_host, softmax_on_host

QUERIES = 2048
"""Queries that are worked on at a time."""


def deformable_sampling(levels: Sequence[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
    """Sum weighted bilinear samples of every head's share of the channels.

    Args:
        levels: per level (B, C, H_l, W_l).
        locations: (B, Q, h, L, P, 2) x and y, 0 to 1 over the map; zeros are read outside.
        weights: (B, Q, h, L, P).

    Returns:
        (B, Q, C), channels grouped by head.
    """
    heads = locations.shape[2]
    total = None
    for index, level in enumerate(levels):
        batch, channels, height, width = level.shape
        shares = level.reshape(batch, heads, channels // heads, height, width)
        summed = deformable_attention(shares, locations[:, :, :, index], weights[:, :, :, index])
        total = summed if total is None else total + summed
    assert total is not None
    return total


class MultiScaleDeformableAttention(nn.Module):
    """Each query samples a few learnt places around its reference point, on every level."""

    def __init__(self, channels: int, levels: int, heads: int = 8, points: int = 4) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)

    def forward(self, query: Tensor, reference: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            reference: (Q, 2) x and y, 0 to 1 over the map; the same on every level.
            levels: per level (B, C, H_l, W_l), the values.

        Returns:
            (B, Q, C), the query added.
        """
        values = [self._project(x) for x in levels]
        if torch.compiler.is_exporting() or query.is_cuda:
            return self._attend(query, reference, values)
        compiled, sizes = on_host(query), tuple((x.shape[2], x.shape[3]) for x in levels)
        attended = []  # one sample after the other, and its queries in blocks
        for sample in range(query.shape[0]):
            own = [x[sample : sample + 1] for x in values]
            cells = torch.cat([x[0].flatten(1).T for x in own]) if compiled else query

            def attend(rows: Tensor, places: Tensor, own: list[Tensor] = own, cells: Tensor = cells) -> Tensor:
                if not compiled:
                    return self._attend(rows[None], places, own)[0]
                offsets, weights = self._samples(rows)
                given = (places, offsets.flatten(1, 3).transpose(1, 2), weights.flatten(1))
                return rows + self.output_proj(sampled_on_host(cells, sizes, *given, self.heads))  # type: ignore[no-any-return]

            attended.append(in_blocks(attend, [query[sample], reference], QUERIES))
        return torch.stack(attended)

    def answers(self, cells: Tensor, sizes: tuple[tuple[int, int], ...]) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what says what is added to some queries of one sample on a host, offsets and weights in one product.

        Args:
            cells: (sum of H_l * W_l, C), the values of all levels, projected.
            sizes: per level H_l and W_l.

        Returns:
            A function of queries (Q, C) and their places (Q, 2), which returns (Q, C).
        """
        offset, weight = self.sampling_offsets, self.attention_weights
        matrix = torch.cat([offset.weight[0::2], offset.weight[1::2], weight.weight])
        bias = torch.cat([offset.bias[0::2], offset.bias[1::2], weight.bias])

        def attend(query: Tensor, reference: Tensor) -> Tensor:
            given = product_on_host(query, matrix, bias)
            moved, logits = torch.split(given, [offset.out_features, weight.out_features], -1)
            places = (reference, moved.reshape(len(query), 2, -1), softmax_on_host(logits, self.heads))
            sampled = sampled_on_host(cells, sizes, *places, self.heads)
            return linear_on_host(self.output_proj, sampled)

        return attend

    def _attend(self, query: Tensor, reference: Tensor, values: Sequence[Tensor]) -> Tensor:
        batch, queries, channels = query.shape
        offsets, weights = self._samples(query)
        moved = [offsets[:, :, :, i] for i in range(self.levels)]  # (B, Q, h, P, 2) cells
        moved = [
            torch.stack([d[..., 0] / x.shape[3], d[..., 1] / x.shape[2]], -1)
            for d, x in zip(moved, values, strict=True)
        ]
        locations = reference[:, None, None, None, :] + torch.stack(moved, 3)
        sampled = deformable_sampling(values, locations, weights).reshape(batch, queries, channels)
        return query + self.output_proj(sampled)  # type: ignore[no-any-return]

    def _samples(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far off their place queries (..., C) look, (..., h, L, P, 2) cells, and weights (..., h, L, P)."""
        shape = (*query.shape[:-1], self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).reshape(*shape, 2)
        weights = self.attention_weights(query).reshape(*shape[:-2], -1).softmax(-1).reshape(shape)
        return offsets, weights

    def _project(self, level: Tensor) -> Tensor:
        weight = self.value_proj.weight[:, :, None, None]
        return F.conv2d(level, weight, self.value_proj.bias)  # the linear layer, at every cell


def reference_points(height: int, width: int, like: Tensor) -> Tensor:
    """Cell centres, row by row, x and y from 0 to 1: (height * width, 2)."""
    y = (torch.arange(height, dtype=torch.float32, device=like.device) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float32, device=like.device) + 0.5) / width
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], -1).reshape(-1, 2)
