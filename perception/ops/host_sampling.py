"""Attention to bilinear samples compiled for the host, where nothing is learned: row by row.

`deformable_attention` and the alignment of pillars in tensors make every sample of every channel before they sum them;
here a row of channels is read where it lies, weighted and added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

from perception.ops.small_floats import FloatsOrBits, floats_or_bits
from perception.ops.vector_rows import CORNERS, add_samples

Floats: TypeAlias = NDArray[np.float32]
Places: TypeAlias = NDArray[np.int64]

COMPILED = True
"""Sample in compiled code on a host, where nothing is learned."""
HALF = np.float32(0.5)
REORDERED = {"reassoc", "contract"}
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


def sampled_on_host(
    values: Tensor, sizes: tuple[tuple[int, int], ...], reference: Tensor, offsets: Tensor, weights: Tensor, heads: int
) -> Tensor:
    """Sum weighted bilinear samples of every head's share of the channels.

    Args:
        values: (cells, C) floats, the cells of all levels, row by row.
        sizes: per level H_l and W_l.
        reference: (Q, 2) x and y, 0 to 1 over the map; the same on every level.
        offsets: (Q, 2, h * L * P) x and y from there, cells of each level.
        weights: (Q, h * L * P).
        heads: h.

    Returns:
        (Q, C), channels grouped by head; zeros are read outside.
    """
    channels, slots = values.shape[1], weights.shape[1]
    total = np.zeros((len(reference), channels), np.float32)
    read, where = floats_or_bits(values).reshape(-1), _slots(sizes, slots, heads, channels)
    given = [_floats(x) for x in (reference, offsets, weights)]
    add = _sampling(channels // heads)
    in_threads(lambda rows: add(total[rows], read, *(x[rows] for x in given), *where), len(total))
    return torch.from_numpy(total)


@lru_cache(maxsize=16)
def _slots(
    sizes: tuple[tuple[int, int], ...], count: int, heads: int, channels: int
) -> tuple[Floats, Floats, NDArray[np.int32]]:
    """Return the height and width of the level that each slot samples, and where its head's values begin there."""
    level = np.arange(count) * len(sizes) * heads // count % len(sizes)
    height, width = np.array(sizes).T
    begin = np.concatenate(([0], np.cumsum(height * width)[:-1])) * channels
    head = np.arange(count) * heads // count * (channels // heads)
    return height[level].astype(np.float32), width[level].astype(np.float32), (begin[level] + head).astype(np.int32)


def softmax_on_host(logits: Tensor, heads: int) -> Tensor:
    """Return the softmax of (Q, h * N) over the N of each head, float32.

    Torch's takes a row after the other, which are eight numbers here.
    """
    weights = logits.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    values = weights.numpy()
    in_threads(lambda rows: _softmax(values[rows], heads), len(values))
    return weights


def bilinear_on_host(values: Tensor, places: Tensor, shares: Tensor | None = None) -> Tensor:
    """Add up bilinear samples of maps, one of each map at every place.

    Args:
        values: (M, H, W, C) floats.
        places: (M, Q, 2) x and y of the places on each map, -1 to 1 from border to border; zeros are read outside.
        shares: (M, Q) what the samples are multiplied with before they are added; 1 where None. Where it is 0, no
            sample is read.

    Returns:
        (Q, C) float32.
    """
    total = np.zeros((places.shape[1], values.shape[3]), np.float32)
    ones = torch.ones(places.shape[:2]) if shares is None else shares
    given = list(zip(*(_floats(x) for x in (values, places, ones)), strict=True))

    def work(rows: slice) -> None:
        for pixels, where, share in given:
            _add_bilinear(total[rows], pixels, where[rows], share[rows])

    in_threads(work, len(total))
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
    in_threads(lambda rows: _attend(total[rows], *read, own[rows], asked[rows]), len(total))
    return torch.from_numpy(total)


def _floats(x: Tensor) -> Floats:
    return x.float().contiguous().numpy()


def in_threads(work: Callable[[slice], None], count: int) -> None:
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


@lru_cache(maxsize=16)
def _sampling(share: int) -> Callable[..., None]:
    """Compile the sampling of heads of `share` channels each."""

    @numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
    def sampling(
        total: Floats, values: FloatsOrBits, reference: Floats, offsets: Floats, weights: Floats,
        heights: Floats, widths: Floats, begins: NDArray[np.int32],
    ) -> None:  # fmt: skip
        channels, slots = total.shape[1], len(begins)
        heads = channels // share
        each = slots // heads
        places, shares = np.empty(CORNERS * slots, np.int32), np.empty(CORNERS * slots, np.float32)
        flat = total.reshape(-1)
        for query in range(len(total)):
            own = (reference[query, 0], reference[query, 1], offsets[query, 0], offsets[query, 1], weights[query])
            _corners(places, shares, *own, heights, widths, begins, np.int32(channels))
            for head in range(heads):
                at = query * channels + head * share
                add_samples(flat, at, values, places, shares, head * each, (head + 1) * each, share)

    return sampling  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=REORDERED)  # type: ignore[untyped-decorator]
def _softmax(rows: Floats, heads: int) -> None:
    each = rows.shape[1] // heads
    for query in range(len(rows)):
        row = rows[query]
        for head in range(heads):
            own = row[head * each : (head + 1) * each]
            highest = own[0]
            for value in own:
                highest = max(highest, value)
            for i in range(each):
                own[i] -= highest
        for i in range(len(row)):
            row[i] = exp(row[i])
        for head in range(heads):
            own = row[head * each : (head + 1) * each]
            whole = np.float32(0)
            for value in own:
                whole += value
            part = np.float32(1) / whole
            for i in range(each):
                own[i] *= part


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=REORDERED, inline="always")  # type: ignore[untyped-decorator]
def exp(x: np.float32) -> np.float32:
    """Return e to the power of x, at most 0, to 2e-7 of it: a polynomial, of which the processor does many at once."""
    doublings = max(x, np.float32(-87)) * np.float32(1.4426950408889634)
    whole = np.floor(doublings + HALF)
    r, one = (doublings - whole) * np.float32(0.6931471805599453), np.float32(1)
    power = np.float32(1 / 24) + r * (np.float32(1 / 120) + r * np.float32(1 / 720))
    power = one + r * (one + r * (HALF + r * (np.float32(1 / 6) + r * power)))
    exponent = (np.int32(whole) + np.int32(127)) << np.int32(23)
    return power * np.int32(exponent).view(np.float32)  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _corners(
    places: NDArray[np.int32], shares: Floats, x_mid: np.float32, y_mid: np.float32, off_x: Floats, off_y: Floats,
    weights: Floats, heights: Floats, widths: Floats, begins: NDArray[np.int32], channels: np.int32,
) -> None:  # fmt: skip
    """Work out which four cells each sample lies between, and their shares; those outside the map get none.

    Without a branch, so that the processor does many at once. What is no number lies outside.
    """
    zero, one = np.float32(0), np.float32(1)
    count = len(begins)
    for i in range(count):
        height, width = heights[i], widths[i]
        x, y = x_mid * width - HALF + off_x[i], y_mid * height - HALF + off_y[i]
        x = x if x > -one else -one
        x = x if x < width else width
        y = y if y > -one else -one
        y = y if y < height else height
        left, top = np.floor(x), np.floor(y)
        right, bottom = left + one, top + one
        on_left = right - x if (left >= zero) & (left < width) else zero
        on_right = x - left if right < width else zero
        above = bottom - y if (top >= zero) & (top < height) else zero
        below = y - top if bottom < height else zero
        first = np.int32(min(max(left, zero), width - one)) * channels + begins[i]
        second = np.int32(min(right, width - one)) * channels + begins[i]
        row = np.int32(width) * channels
        upper = np.int32(min(max(top, zero), height - one)) * row
        lower = np.int32(min(bottom, height - one)) * row
        places[i], shares[i] = upper + first, weights[i] * on_left * above
        places[count + i], shares[count + i] = upper + second, weights[i] * on_right * above
        places[2 * count + i], shares[2 * count + i] = lower + first, weights[i] * on_left * below
        places[3 * count + i], shares[3 * count + i] = lower + second, weights[i] * on_right * below


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=REORDERED)  # type: ignore[untyped-decorator]
def _add_bilinear(total: Floats, values: Floats, places: Floats, shares: Floats) -> None:
    height, width, channels = values.shape
    one = np.float32(1)
    for query in range(len(total)):
        share = shares[query]
        x = ((places[query, 0] + one) * np.float32(width) - one) * HALF
        y = ((places[query, 1] + one) * np.float32(height) - one) * HALF
        if share == 0 or not (x > -1 and y > -1 and x < width and y < height):
            continue
        left, top = int(np.floor(x)), int(np.floor(y))
        beside, below = x - np.float32(left), y - np.float32(top)
        on_left = one - beside if left >= 0 else np.float32(0)
        on_right = beside if left + 1 < width else np.float32(0)
        upper = share * (one - below) if top >= 0 else np.float32(0)
        lower = share * below if top + 1 < height else np.float32(0)
        first, second = max(left, 0), min(left + 1, width - 1)
        above, beneath = values[max(top, 0)], values[min(top + 1, height - 1)]
        row = total[query]
        for channel in range(channels):
            row[channel] += upper * (on_left * above[first, channel] + on_right * above[second, channel]) + lower * (
                on_left * beneath[first, channel] + on_right * beneath[second, channel]
            )


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=REORDERED)  # type: ignore[untyped-decorator]
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


__all__ = [
    "as_learned",
    "attended_on_host",
    "bilinear_on_host",
    "in_threads",
    "may_round_otherwise",
    "on_host",
    "sampled_on_host",
    "softmax_on_host",
]
