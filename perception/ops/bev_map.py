"""Write voxels or pillars onto a dense bird's-eye-view map."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor


def bev_map(x: Tensor, coords: Tensor, batch: int, rows: int, columns: int) -> Tensor:
    """Return the map (B, C, rows, columns) of features (V, C), zero where there is none.

    Args:
        x: (V, C).
        coords: (V, 4) sample, z, row, column; no two share a cell.
        batch: samples; one without voxels gives an empty map.
        rows: of the map, along y.
        columns: of the map, along x.
    """
    sample, _, row, column = coords.long().unbind(1)
    cell = row * columns + column
    if x.device.type == "cpu" and x.dtype == torch.float32 and not x.requires_grad:
        made = np.zeros((batch, x.shape[1], rows * columns), np.float32)
        _write(made, sample.numpy(), cell.numpy(), np.ascontiguousarray(x.numpy()))
        return torch.from_numpy(made).view(batch, -1, rows, columns)
    flat = x.new_zeros(batch * rows * columns, x.shape[1])
    flat[sample * rows * columns + cell] = x
    found = flat.view(batch, rows, columns, -1).permute(0, 3, 1, 2)
    return found if found.is_cuda else found.contiguous()  # convolutions on a GPU take channels last as they are


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _write(made: Any, sample: Any, cell: Any, x: Any) -> None:
    """Write one plane after the other: each stays in the cache, and the map is touched once."""
    for channel in range(x.shape[1]):
        for voxel in range(len(cell)):
            made[sample[voxel], channel, cell[voxel]] = x[voxel, channel]


__all__ = ["bev_map"]
