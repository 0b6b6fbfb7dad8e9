"""Features of axis-aligned rectangles on a map, averaged from bilinear samples (RoIAlign).

Source: He et al., "Mask R-CNN", ICCV 2017, section 3, in the half-pixel-correct version of detectron2 ("aligned").
Written as a gather, so that every rectangle may lie on its own map, and so that it can be exported.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perception.ops.host_regions import pooled_on_host
from perception.ops.host_sampling import may_round_otherwise


def roi_sample_positions(boxes: Tensor, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """Return where the samples of each rectangle lie.

    Args:
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the map, pixel centres at .5; not clipped to the map.
        size: bins along each side.
        samples: samples along each side of a bin.

    Returns:
        x and y, each (N, size * samples), in pixels of the map, pixel centres at whole numbers.
    """
    # In this order, as the published kernel: boxes with corners behind a camera are so large that rounding shows
    start, end = boxes[:, :2, None, None] - 0.5, boxes[:, 2:, None, None] - 0.5
    bins = (end - start) / size
    whole = torch.arange(size, device=boxes.device, dtype=boxes.dtype)[:, None]
    within = torch.arange(samples, device=boxes.device, dtype=boxes.dtype) + 0.5
    positions = (start + whole * bins + within * bins / samples).flatten(2)  # (N, 2, size * samples)
    return positions[:, 0], positions[:, 1]


def bilinear_corners(position: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the two pixels around each position along one axis, the weight of the second, and whether it counts.

    Positions up to one pixel beyond the map take the border's value; farther ones count nothing.
    """
    counts = (position >= -1.0) & (position <= length)
    inside = position.clamp(0.0, length - 1.0)
    low = inside.floor()
    high = (low + 1.0).clamp(max=length - 1.0)
    return low.long(), high.long(), inside - low, counts


def roi_align(features: Tensor, boxes: Tensor, maps: Tensor, size: int = 7, samples: int = 2) -> Tensor:
    """Pool each rectangle to size x size bins.

    Args:
        features: (M, C, H, W).
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the maps (scale them beforehand); not clipped.
        maps: (N,) int64, the map that each rectangle lies on.
        size: bins along each side.
        samples: along each side of a bin.

    Returns:
        (N, size * size, C), bins row by row.
    """
    count, channels, height, width = features.shape
    x, y = roi_sample_positions(boxes, size, samples)
    left, right, right_weight, x_counts = bilinear_corners(x, width)
    top, bottom, bottom_weight, y_counts = bilinear_corners(y, height)
    column_weights = torch.stack([1.0 - right_weight, right_weight], 1) * x_counts[:, None]  # (N, 2, S)
    row_weights = torch.stack([1.0 - bottom_weight, bottom_weight], 1) * y_counts[:, None]
    rows = maps[:, None, None] * height + torch.stack([top, bottom], 1)  # (N, 2, S)
    columns = torch.stack([left, right], 1)
    if may_round_otherwise(features):
        pixels = features.permute(0, 2, 3, 1).flatten(0, 1)
        return pooled_on_host(pixels, rows, columns, row_weights, column_weights, size)
    table = features.permute(0, 2, 3, 1).reshape(count * height * width, channels)
    grid = size * samples
    total = features.new_zeros(boxes.shape[0], grid, grid, channels)
    for row in range(2):
        for column in range(2):
            index = rows[:, row, :, None] * width + columns[:, column, None, :]  # (N, S, S)
            weight = row_weights[:, row, :, None] * column_weights[:, column, None, :]
            total = total + table[index] * weight[..., None]
    bins = total.reshape(-1, size, samples, size, samples, channels).mean((2, 4))
    return bins.reshape(-1, size * size, channels)
