"""Attention of many short sequences compiled for the host: one sequence and one head after the other, in cache.

Torch's kernels take batches of such small matrices one by one, too, but copy queries, keys and values head by head
before, and windows of a map first into windows and back after; here rows are read and written where they lie.

Shapes     S sequences, Q queries and K keys of each, C channels, h heads, T sorts of sequences
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numba
import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from perception.ops.host_sampling import REORDERED, Floats, exp, in_threads
from perception.ops.small_floats import FloatsOrBits, floats_or_bits, narrowed, tensor_of, widened
from perception.ops.vector_rows import LANES, ROWS, add_products, panel_of

Places: TypeAlias = NDArray[np.int64]


class Biases(NamedTuple):
    """What is added to the products of queries and keys."""

    values: Tensor
    """(T, h, K, Q): transposed."""
    sorts: Places
    """(S,) below T, which of them each sequence takes."""


class PlacedRows(NamedTuple):
    """Where rows of queries or keys stand among the columns of a matrix."""

    values: Tensor
    """(N, at least C) floats."""
    places: Places
    """(S, Q) or (S, K) row of each, -1 for one that is not there and is read from `absent`."""


def attended_in_sequences(
    queries: PlacedRows, keys: PlacedRows, heads: int, biases: Biases | None = None, absent: Tensor | None = None
) -> Tensor:
    """Attend in every sequence by itself.

    Args:
        queries: the first C columns of their matrix, where keys are of 2 C; of 3 C, if both are the same matrix.
        keys: the last 2 C columns: keys, then values.
        heads: h.
        biases: added to the logits; nothing if None.
        absent: (columns of keys,) the row that stands for those that are not there.

    Returns:
        (N, C), of the type of the queries. No row may be asked for twice; rows that none asks for hold anything.
    """
    asked = floats_or_bits(queries.values)
    read = asked if keys.values is queries.values else floats_or_bits(keys.values)
    channels = (read.shape[1] if read is not asked else read.shape[1] * 2 // 3) // 2
    row = np.zeros(read.shape[1], read.dtype) if absent is None else floats_or_bits(absent.to(keys.values.dtype))
    count = len(queries.places)
    if biases is None:
        added, sorts = np.zeros((0, heads, 0, 0), np.float32), np.zeros(count, np.int64)
    else:
        length = queries.places.shape[1]
        wide = -(-(length + -length % ROWS) // LANES) * LANES
        padded = F.pad(biases.values.float(), (0, wide - length))
        added, sorts = padded.contiguous().numpy(), biases.sorts
    out = np.empty((len(asked), channels), asked.dtype)
    attend = _attention(channels // heads)

    def work(some: slice) -> None:
        attend(out, asked, read, row, queries.places[some], keys.places[some], added, sorts[some], heads)

    in_threads(work, count)
    return tensor_of(out)


@lru_cache(maxsize=16)
def _attention(share: int) -> Callable[..., None]:
    """Compile the attention of heads of `share` channels each.

    Logits stand key by key, the queries side by side: so each step of their softmax is one of whole rows.
    """
    lanes = panel_of(share)
    parts = share // lanes

    @numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=REORDERED)  # type: ignore[untyped-decorator]
    def attention(
        out: FloatsOrBits, queries: FloatsOrBits, keys: FloatsOrBits, absent: FloatsOrBits,
        asking: Places, asked: Places, biases: Floats, sorts: Places, heads: int,
    ) -> None:  # fmt: skip
        channels, length, most = share * heads, asking.shape[1], asked.shape[1]
        keys_up, queries_up = -(-most // ROWS) * ROWS, -(-length // ROWS) * ROWS  # what is beyond is never read
        panels = -(-queries_up // LANES)
        wide, first = panels * LANES, keys.shape[1] - 2 * channels
        scale = np.float32(1 / np.sqrt(share))
        query, key = np.zeros((panels, share, LANES), np.float32), np.zeros((keys_up, share), np.float32)
        value, found = np.empty((most, share), np.float32), np.empty((queries_up, share), np.float32)
        values = np.empty((parts, most, lanes), np.float32)
        logits, whole = np.empty((keys_up, wide), np.float32), np.empty(wide, np.float32)
        of_logits, of_keys = np.arange(keys_up) * wide, np.arange(keys_up) * share
        of_queries, of_found = np.arange(queries_up), np.arange(queries_up) * share
        for sequence in range(len(asking)):
            for head in range(heads):
                at = head * share
                _read(found[:length], queries, absent, asking[sequence], at)
                for i in range(length):
                    for channel in range(share):
                        query[i // LANES, channel, i % LANES] = found[i, channel] * scale
                _read(key[:most], keys, absent, asked[sequence], first + at)
                _read(value, keys, absent, asked[sequence], first + channels + at)
                logits[:] = 0
                if len(biases) > 0:
                    logits[:most] = biases[sorts[sequence], head]
                flat = logits.reshape(-1)
                for panel in range(panels):
                    targets, right = of_logits + panel * LANES, query[panel].reshape(-1)
                    for i in range(0, keys_up, ROWS):
                        add_products(flat, targets, key.reshape(-1), of_keys, 1, i, right, share, ROWS, LANES)
                _exponents(logits[:most], whole)
                found[:] = 0
                answers = found.reshape(-1)
                for part in range(parts):
                    values[part] = value[:, part * lanes : (part + 1) * lanes]
                    targets, right = of_found + part * lanes, values[part].reshape(-1)
                    for i in range(0, queries_up, ROWS):
                        add_products(answers, targets, flat, of_queries, wide, i, right, most, ROWS, lanes)
                for i in range(length):
                    place, scaled = asking[sequence, i], np.float32(1) / whole[i]
                    if place >= 0:
                        row = out[place, at : at + share]
                        for channel in range(share):
                            row[channel] = narrowed(found[i, channel] * scaled, out)

    return attention  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")  # type: ignore[untyped-decorator]
def _read(rows: Floats, values: FloatsOrBits, absent: FloatsOrBits, places: Places, at: int) -> None:
    for i in range(len(rows)):
        row = values[places[i], at : at + rows.shape[1]] if places[i] >= 0 else absent[at : at + rows.shape[1]]
        for channel in range(rows.shape[1]):
            rows[i, channel] = widened(row[channel])


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=REORDERED)  # type: ignore[untyped-decorator]
def _exponents(logits: Floats, whole: Floats) -> None:
    """Replace each column by its exponentials, over the highest of them, and sum them up."""
    highest = logits[0].copy()
    for row in range(1, len(logits)):
        for i in range(len(highest)):
            highest[i] = max(highest[i], logits[row, i])
    whole[:] = 0
    for row in range(len(logits)):
        for i in range(len(highest)):
            power = exp(logits[row, i] - highest[i])
            logits[row, i] = power
            whole[i] += power


__all__ = ["Biases", "PlacedRows", "attended_in_sequences"]
