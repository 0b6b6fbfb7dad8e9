"""Attention of many short sequences compiled for the host: one sequence and one head after the other, in cache.

Torch's kernels take batches of such small matrices one by one, too, but copy queries, keys and values head by head
before, and windows of a map first into windows and back after; here rows are read and written where they lie.

Shapes     S sequences, Q queries and K keys of each, C channels, h heads, T sorts of sequences
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np
from torch import Tensor

from perception.ops.host_sampling import REORDERED, Floats, Places, exp, in_threads
from perception.ops.small_floats import FloatsOrBits, floats_or_bits, narrowed, tensor_of, widened
from perception.ops.vector_rows import LANES, ROWS, add_products


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
        added, sorts = biases.values.float().contiguous().numpy(), biases.sorts
    out = np.empty((len(asked), channels), asked.dtype)
    share = channels // heads
    lanes = min(LANES, 1 << (share - 1).bit_length())  # what is beyond the channels is zeros
    attend = _attention(lanes)

    def work(some: slice) -> None:
        own, theirs = queries.places[some], keys.places[some]
        scratch = _Scratch.of(own.shape[1], theirs.shape[1], share, lanes)
        attend(out, asked, read, row, own, theirs, added, sorts[some], heads, scratch)

    in_threads(work, count)
    return tensor_of(out)


class _Scratch(NamedTuple):
    """What one head of one sequence is worked out in. Rows are filled up to `ROWS`; what is beyond is never read."""

    queries: Floats
    """(panels, C / h, LANES)."""
    keys: Floats
    """(K, C / h)."""
    values: Floats
    """(K, C / h)."""
    parts: Floats
    """(parts, K, lanes) of the values, zeros beyond them."""
    logits: Floats
    """(K, panels * LANES)."""
    whole: Floats
    """(panels * LANES,) sums of the weights."""
    found: Floats
    """(Q, parts * lanes), first the queries, then the answers."""

    @classmethod
    def of(cls, queries: int, keys: int, share: int, lanes: int) -> _Scratch:
        queries_up, keys_up = -(-queries // ROWS) * ROWS, -(-keys // ROWS) * ROWS
        panels, parts = -(-queries_up // LANES), -(-share // lanes)
        shapes = [
            (panels, share, LANES), (keys_up, share), (keys, share), (parts, keys, lanes),
            (keys_up, panels * LANES), (panels * LANES,), (queries_up, parts * lanes),
        ]  # fmt: skip
        return cls(*(np.zeros(shape, np.float32) for shape in shapes))


@lru_cache(maxsize=8)
def _attention(lanes: int) -> Callable[..., None]:
    """Compile the attention of heads whose channels come in parts of `lanes`.

    Logits stand key by key, the queries side by side: so each step of their softmax is one of whole rows. What does not
    depend on the channels, or on the type of what is read, is compiled once, in functions of its own.
    """

    @numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
    def attention(
        out: FloatsOrBits, queries: FloatsOrBits, keys: FloatsOrBits, absent: FloatsOrBits,
        asking: Places, asked: Places, biases: Floats, sorts: Places, heads: int, scratch: _Scratch,
    ) -> None:  # fmt: skip
        length, most, share = asking.shape[1], asked.shape[1], out.shape[1] // heads
        first, scale = keys.shape[1] - 2 * out.shape[1], np.float32(1 / np.sqrt(share))
        rows, wide = np.arange(len(scratch.found)), scratch.logits.shape[1]
        starts = rows * scratch.found.shape[1]
        for sequence in range(len(asking)):
            for head in range(heads):
                at = head * share
                _read(scratch.found, queries, absent, asking[sequence], at, share)
                _in_panels(scratch.queries, scratch.found, length, scale)
                _read(scratch.keys, keys, absent, asked[sequence], first + at, share)
                _read(scratch.values, keys, absent, asked[sequence], first + out.shape[1] + at, share)
                _begin(scratch.logits, biases, sorts[sequence], head)
                _add_logits(scratch.logits, scratch.keys, scratch.queries)
                _exponents(scratch.logits, most, scratch.whole)
                _in_parts(scratch.parts, scratch.values)
                scratch.found.fill(0)
                answers, weights = scratch.found.reshape(-1), scratch.logits.reshape(-1)
                for part in range(len(scratch.parts)):
                    targets, right = starts + part * lanes, scratch.parts[part].reshape(-1)
                    for i in range(0, len(rows), ROWS):
                        add_products(answers, targets, weights, rows, wide, i, right, most, ROWS, lanes)
                _write(out, scratch.found, scratch.whole, asking[sequence], at, share)

    return attention  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _begin(logits: Floats, biases: Floats, sort: int, head: int) -> None:
    logits.fill(0)
    if len(biases) > 0:
        for row in range(biases.shape[2]):
            for i in range(biases.shape[3]):
                logits[row, i] = biases[sort, head, row, i]


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _in_parts(parts: Floats, values: Floats) -> None:
    lanes = parts.shape[2]
    for part in range(len(parts)):
        for row in range(len(values)):
            for lane in range(min(lanes, values.shape[1] - part * lanes)):
                parts[part, row, lane] = values[row, part * lanes + lane]


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _add_logits(logits: Floats, keys: Floats, queries: Floats) -> None:
    flat, left = logits.reshape(-1), keys.reshape(-1)
    share, of_logits = keys.shape[1], np.arange(len(logits)) * logits.shape[1]
    of_keys = np.arange(len(keys)) * share
    for panel in range(len(queries)):
        targets, right = of_logits + panel * LANES, queries[panel].reshape(-1)
        for i in range(0, len(keys), ROWS):
            add_products(flat, targets, left, of_keys, 1, i, right, share, ROWS, LANES)


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _in_panels(panels: Floats, queries: Floats, count: int, scale: np.float32) -> None:
    for i in range(count):
        for channel in range(panels.shape[1]):
            panels[i // LANES, channel, i % LANES] = queries[i, channel] * scale


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _write(out: FloatsOrBits, found: Floats, whole: Floats, places: Places, at: int, share: int) -> None:
    for i in range(len(places)):
        place, part = places[i], np.float32(1) / whole[i]
        if place >= 0:
            for channel in range(share):
                out[place, at + channel] = narrowed(found[i, channel] * part, out)


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _read(rows: Floats, values: FloatsOrBits, absent: FloatsOrBits, places: Places, at: int, share: int) -> None:
    for i in range(len(places)):
        row = values[places[i], at : at + share] if places[i] >= 0 else absent[at : at + share]
        for channel in range(share):
            rows[i, channel] = widened(row[channel])


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=REORDERED)  # type: ignore[untyped-decorator]
def _exponents(logits: Floats, count: int, whole: Floats) -> None:
    """Replace each column of the first rows by its exponentials, over the highest of them, and sum them up."""
    for i in range(len(whole)):
        whole[i] = logits[0, i]
    for row in range(1, count):
        for i in range(len(whole)):
            whole[i] = max(whole[i], logits[row, i])
    for row in range(count):
        for i in range(len(whole)):
            logits[row, i] = exp(logits[row, i] - whole[i])
    whole.fill(0)
    for row in range(count):
        for i in range(len(whole)):
            whole[i] += logits[row, i]


__all__ = ["Biases", "PlacedRows", "attended_in_sequences"]
