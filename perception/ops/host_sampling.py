"""Attention to bilinear samples compiled for the host, where nothing is learned: row by row.

`deformable_attention` and the alignment of pillars in tensors make every sample of every channel before they sum them;
here a row of channels is read where it lies, weighted and added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats: TypeAlias = NDArray[np.float32]

COMPILED = True
"""Sample in compiled code on a host, where nothing is learned."""
HALF = np.float32(0.5)
_REORDERED = {"reassoc", "contract"}
"""Sums in any order, in which the processor adds several numbers at once."""


_as_learned: ContextVar[bool] = ContextVar("as_learned", default=False)


@contextmanager
def as_learned() -> Iterator[None]:
    """Let layers compute as they do where they learn: other code rounds otherwise, and a score may change place.

    A training stores its figures in the file that it makes, and the same recipe must make the same bytes again.
    """
    token = _as_learned.set(True)
    try:
        yield
    finally:
        _as_learned.reset(token)


def on_host(x: Tensor) -> bool:
    """Whether compiled code can read tensors like `x`: on a host, and nothing is learned or exported."""
    small = x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return (
        COMPILED
        and small
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_exporting()
    )


def may_round_otherwise(x: Tensor) -> bool:
    """Whether code for the host alone may take the place of what learns; see `on_host` and `as_learned`."""
    return on_host(x) and not _as_learned.get()


def sampled_on_host(levels: Sequence[Tensor], reference: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Sum weighted bilinear samples of every head's share of the channels.

    Args:
        levels: per level (H_l, W_l, C), floats.
        reference: (Q, 2) x and y, 0 to 1 over the map; the same on every level.
        offsets: (Q, h, L, P, 2) from there, cells of each level.
        weights: (Q, h, L, P).

    Returns:
        (Q, C), channels grouped by head; zeros are read outside.
    """
    total = np.zeros((len(reference), levels[0].shape[2]), np.float32)
    given = [_floats(x) for x in (reference, offsets, weights)]
    for index, level in enumerate(levels):
        values = _floats(level)

        def work(rows: slice, values: Floats = values, index: int = index) -> None:
            _add_samples(total[rows], values, *(x[rows] for x in given), index)

        _in_threads(work, len(reference))
    return torch.from_numpy(total)


def attended_on_host(pixels: Tensor, cells: Tensor, weights: Tensor, samples: Tensor, queries: Tensor) -> Tensor:
    """Sum each query's own samples by the softmax of their products with it.

    Args:
        pixels: (N, C) floats.
        cells: (K, 4) int64, the pixels around each sample.
        weights: (K, 4) of these.
        samples: (P, L) int64, the samples of each query, K where there are fewer; at least one each.
        queries: (P, C).

    Returns:
        (P, C) float32.
    """
    total = np.zeros(queries.shape, np.float32)
    read = [_floats(pixels), cells.contiguous().numpy(), _floats(weights)]
    own, asked = samples.contiguous().numpy(), _floats(queries)
    _in_threads(lambda rows: _attend(total[rows], *read, own[rows], asked[rows]), len(total))
    return torch.from_numpy(total)


def _floats(x: Tensor) -> Floats:
    return x.float().contiguous().numpy()


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


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_REORDERED)  # type: ignore[untyped-decorator]
def _attend(
    total: Floats,
    pixels: Floats,
    cells: NDArray[np.int64],
    weights: Floats,
    samples: NDArray[np.int64],
    queries: Floats,
) -> None:
    count, most = samples.shape
    rows, logits = np.empty((most, pixels.shape[1]), np.float32), np.empty(most, np.float32)
    for query in range(count):
        found, highest = 0, np.float32(-np.inf)
        for sample in samples[query]:
            if sample >= len(cells):
                continue
            row, logit = rows[found], np.float32(0)
            first, second, third, fourth = cells[sample]
            share = weights[sample]
            for channel in range(len(row)):
                value = (
                    share[0] * pixels[first, channel]
                    + share[1] * pixels[second, channel]
                    + share[2] * pixels[third, channel]
                    + share[3] * pixels[fourth, channel]
                )
                row[channel] = value
                logit += value * queries[query, channel]
            logits[found] = logit
            highest = max(highest, logit)
            found += 1
        whole = np.float32(0)
        for index in range(found):
            logits[index] = np.exp(logits[index] - highest)
            whole += logits[index]
        for index in range(found):
            share_of_one = logits[index] / whole
            for channel in range(rows.shape[1]):
                total[query, channel] += share_of_one * rows[index, channel]


__all__ = ["as_learned", "attended_on_host", "may_round_otherwise", "on_host", "sampled_on_host"]
