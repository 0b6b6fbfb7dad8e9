"""Deformable attention compiled for the host, where nothing is learned: weighted bilinear samples, row by row.

`deformable_attention` in tensors makes every sample of every channel before it sums them; here a row of channels is
read where it lies, weighted and added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats: TypeAlias = NDArray[np.float32]

HALF = np.float32(0.5)


def sampled_on_host(levels: Sequence[Tensor], reference: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Sum weighted bilinear samples of every head's share of the channels.

    Args:
        levels: per level (H_l, W_l, C) float32.
        reference: (Q, 2) x and y, 0 to 1 over the map; the same on every level.
        offsets: (Q, h, L, P, 2) from there, cells of each level.
        weights: (Q, h, L, P).

    Returns:
        (Q, C), channels grouped by head; zeros are read outside.
    """
    total = np.zeros((len(reference), levels[0].shape[2]), np.float32)
    given = [x.contiguous().numpy() for x in (reference, offsets, weights)]
    for index, level in enumerate(levels):
        values = level.contiguous().numpy()

        def work(rows: slice, values: Floats = values, index: int = index) -> None:
            _add_samples(total[rows], values, *(x[rows] for x in given), index)

        _in_threads(work, len(reference))
    return torch.from_numpy(total)


def _in_threads(work: Callable[[slice], None], count: int) -> None:
    """Do work on all of `count` rows, in as many threads as torch has."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        return work(slice(0, count))
    bounds = [count * part // threads for part in range(threads + 1)]
    list(_pool(threads).map(work, [slice(*pair) for pair in pairwise(bounds)]))
    return None


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "host-sampling")


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _add_samples(
    total: Floats, values: Floats, reference: Floats, offsets: Floats, weights: Floats, level: int
) -> None:
    height, width, channels = values.shape
    heads, points = weights.shape[1], weights.shape[3]
    share = channels // heads
    for query in range(len(total)):
        at_x, at_y = reference[query, 0] * np.float32(width) - HALF, reference[query, 1] * np.float32(height) - HALF
        for head in range(heads):
            own = total[query, head * share : (head + 1) * share]
            for point in range(points):
                x, y = at_x + offsets[query, head, level, point, 0], at_y + offsets[query, head, level, point, 1]
                left, top = np.floor(x), np.floor(y)
                if not (left >= -1 and top >= -1 and left < width and top < height):
                    continue
                for corner in range(4):
                    row, column = int(top) + corner // 2, int(left) + corner % 2
                    if row < 0 or row >= height or column < 0 or column >= width:
                        continue
                    beside = x - left if corner % 2 else left + np.float32(1) - x
                    below = y - top if corner // 2 else top + np.float32(1) - y
                    weight = weights[query, head, level, point] * beside * below
                    there = values[row, column, head * share : (head + 1) * share]
                    for channel in range(share):
                        own[channel] += weight * there[channel]


__all__ = ["sampled_on_host"]
