"""Attention of short sequences in compiled code, against torch's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from perception.ops.host_attention import Biases, PlacedRows, attended_in_sequences
from tests.threads import threads_of_torch


def by_torch(given: Sequence[Tensor], heads: int, bias: Tensor | None = None) -> Tensor:
    """Attend: queries (S, Q, C), keys and values (S, K, C) to (S, Q, C)."""
    asked, keys, values = (x.float().reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in given)
    return F.scaled_dot_product_attention(asked, keys, values, bias).transpose(1, 2).flatten(2)


def in_order(sequences: int, length: int) -> np.ndarray:
    return np.arange(sequences * length).reshape(sequences, length)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("queries", "keys", "heads", "share"), [(1, 3, 1, 16), (49, 49, 3, 16), (20, 130, 2, 12), (70, 5, 1, 12)]
)
def test_rows_that_ask_others_are_answered_as_by_torch(
    queries: int, keys: int, heads: int, share: int, threads: int
) -> None:
    torch.manual_seed(queries)
    asked, read = torch.randn(5 * queries, heads * share), torch.randn(5 * keys, 2 * heads * share)
    with threads_of_torch(threads):
        found = attended_in_sequences(
            PlacedRows(asked, in_order(5, queries)), PlacedRows(read, in_order(5, keys)), heads
        )
    of_keys, of_values = read.reshape(5, keys, -1).chunk(2, -1)
    expected = by_torch([asked.reshape(5, queries, -1), of_keys, of_values], heads)
    torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_rows_stand_anywhere_and_each_sequence_takes_its_own_sort_of_bias(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    matrix, bias = torch.randn(60, 3 * 32).to(kind), torch.randn(2, 2, 9, 9)
    places = np.random.default_rng(0).permutation(60)[:54].reshape(6, 9)
    sorts = np.array([1, 0, 0, 1, 1, 0])
    rows = PlacedRows(matrix, places)
    found = attended_in_sequences(rows, rows, 2, Biases(bias.transpose(2, 3), sorts))
    expected = by_torch(matrix[places].chunk(3, -1), 2, bias[sorts])
    assert found.dtype == kind
    torch.testing.assert_close(
        found[places], expected.to(kind), rtol=1e-5 if kind == torch.float32 else 0.01, atol=1e-5
    )


def test_a_row_that_is_not_there_is_read_from_the_one_that_stands_for_it() -> None:
    matrix, absent = torch.randn(4, 3 * 16, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, 48)
    rows = PlacedRows(matrix, np.array([[0, -1, 2], [3, 1, -1]]))
    found = attended_in_sequences(rows, rows, 1, absent=absent)
    whole = torch.cat([matrix, absent[None]])[torch.tensor([[0, 4, 2], [3, 1, 4]])]
    expected = by_torch(whole.chunk(3, -1), 1)
    torch.testing.assert_close(found, torch.stack([expected[0, 0], expected[1, 1], expected[0, 2], expected[1, 0]]))
