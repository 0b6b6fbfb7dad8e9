"""Dense depth maps from the few pixels that LiDAR points fall on, by image morphology alone.

Source: Ku, Harakeh & Waslander, "In Defense of Classical Image Processing: Fast Depth Completion on the CPU", CRV 2018
(IP-Basic), the multi-scale version with bilateral smoothing and without extrapolation. The filters treat borders as
OpenCV's do: nothing beyond the border for dilation and erosion, the border repeated for the median, mirrored for the
bilateral filter.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.errors import ShapeError
from perception.ops.host_depth import complete_depth_on_host

EMPTY = 0.1
"""Metres; pixels below hold no depth."""
MAX_DEPTH = 100.0
"""Metres; depths are inverted at this distance, so that a maximum filter prefers what is near."""
NEAR, MEDIUM = 15.0, 30.0
"""Metres; upper ends of the near and the medium range."""
HOLE_FILLING_STEPS = 6
BILATERAL_SIGMA_M, BILATERAL_SIGMA_PX, BILATERAL_RADIUS_PX = 0.5, 2.0, 2


def sparse_depth(pixels: Tensor, depths: Tensor, seen: Tensor, height: int, width: int) -> Tensor:
    """Write projected depths into maps; where several points fall on one pixel, the last in input order stays.

    Args:
        pixels: (V, N, 2) int64 row and column of each point in each view.
        depths: (V, N) metres.
        seen: (V, N) False for points that the view does not see; their pixels are not looked at.
        height: of the maps.
        width: of the maps.

    Returns:
        (V, height, width) metres, 0 where no point fell.
    """
    views = depths.shape[0]
    view, point = seen.nonzero(as_tuple=True)
    cell = (view * height + pixels[view, point, 0]) * width + pixels[view, point, 1]
    last = torch.full((views * height * width,), -1, dtype=torch.int64, device=depths.device)
    last.scatter_reduce_(0, cell, point, "amax")
    filled = last >= 0
    maps = depths.new_zeros(views * height * width)
    view_of_cell = torch.arange(views, device=depths.device).repeat_interleave(height * width)
    maps[filled] = depths[view_of_cell[filled], last[filled]]
    return maps.reshape(views, height, width)


def complete_depth(sparse: Tensor) -> Tensor:
    """Fill sparse depth maps, all views at once.

    Args:
        sparse: (V, H, W) metres, float32, 0 where unknown; H and W at least 3.

    Returns:
        (V, H, W) metres; 0 above each column's topmost depth, and where nothing is near enough to fill from.

    Raises:
        ShapeError: another number of dimensions, or maps too small for the filters.
    """
    if sparse.dim() != 3 or min(sparse.shape[1:]) < 3:
        raise ShapeError(f"depth maps of shape {tuple(sparse.shape)}; expected (views, height, width), at least 3 x 3")
    if not sparse.is_cuda:
        return torch.from_numpy(complete_depth_on_host(sparse.contiguous().numpy()))
    return complete_depth_in_tensors(sparse)


def complete_depth_in_tensors(sparse: Tensor) -> Tensor:
    """Do the same in tensors, on any device."""
    inverted = _invert(sparse)
    x = inverted
    for size, low, high in ((3, MEDIUM, float("inf")), (5, NEAR, MEDIUM), (7, EMPTY, NEAR)):  # nearest last, on top
        dilated = _dilate_cross(inverted * ((sparse > low) & (sparse <= high)), size)
        x = torch.where(dilated > EMPTY, dilated, x)
    x = _erode(_dilate(x, 5), 5)
    x = torch.where(x > EMPTY, median(x, 5), x)
    x = torch.where((x < EMPTY) & _from_topmost(x), _dilate(x, 9), x)
    below_top = _from_topmost(x)
    for _ in range(HOLE_FILLING_STEPS):
        x = torch.where((x < EMPTY) & below_top, _dilate(x, 5), x)
    known = (x > EMPTY) & below_top
    x = torch.where(known, median(x, 5), x)
    x = torch.where(known, bilateral(x), x)
    return _invert(x)


def _invert(depth: Tensor) -> Tensor:
    return torch.where(depth > EMPTY, MAX_DEPTH - depth, depth)


def _dilate(x: Tensor, size: int) -> Tensor:
    return F.max_pool2d(x[:, None], size, stride=1, padding=size // 2)[:, 0]


def _erode(x: Tensor, size: int) -> Tensor:
    return -_dilate(-x, size)


def _dilate_cross(x: Tensor, size: int) -> Tensor:
    column = F.max_pool2d(x[:, None], (size, 1), stride=1, padding=(size // 2, 0))
    row = F.max_pool2d(x[:, None], (1, size), stride=1, padding=(0, size // 2))
    return torch.maximum(column, row)[:, 0]


def _from_topmost(x: Tensor) -> Tensor:
    """True from each column's topmost depth downwards; a column without any depth is True throughout."""
    known = x > EMPTY
    return (known.cumsum(1) > 0) | ~known.any(1, keepdim=True)


def median(x: Tensor, size: int) -> Tensor:
    """Median filter of an odd window, the border repeated: (V, H, W) to (V, H, W)."""
    margin = size // 2
    padded = F.pad(x[:, None], (margin, margin, margin, margin), mode="replicate")
    return F.unfold(padded, size).median(1).values.reshape(x.shape)


def bilateral(x: Tensor) -> Tensor:
    """Average each pixel with the neighbours within two pixels that are alike in depth: (V, H, W) to (V, H, W)."""
    radius = BILATERAL_RADIUS_PX
    padded = F.pad(x[:, None], (radius, radius, radius, radius), mode="reflect")[:, 0]
    total, weights = torch.zeros_like(x), torch.zeros_like(x)
    for row in range(-radius, radius + 1):
        for column in range(-radius, radius + 1):
            distance2 = row * row + column * column
            if distance2 > radius * radius:
                continue
            there = padded[:, radius + row :, radius + column :][:, : x.shape[1], : x.shape[2]]
            unlike = (there - x) ** 2 / (-2 * BILATERAL_SIGMA_M**2) - distance2 / (2 * BILATERAL_SIGMA_PX**2)
            weight = unlike.exp()
            total, weights = total + weight * there, weights + weight
    return total / weights
