"""Deformable attention against the definition of the published kernel, written out as loops."""

from __future__ import annotations

from math import floor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perception.ops.deformable_attention import deformable_attention


def sample(plane: Tensor, column: float, row: float) -> float:
    """Read a plane (H, W) between pixels whose centres lie at 0, 1, ...; outside is zero."""
    height, width = plane.shape
    left, top = floor(column), floor(row)
    total = 0.0
    for r in (top, top + 1):
        for c in (left, left + 1):
            if 0 <= r < height and 0 <= c < width:
                total += float(plane[r, c]) * (1 - abs(column - c)) * (1 - abs(row - r))
    return total


def by_definition(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    batch, heads, channels, height, width = value.shape
    queries, points = locations.shape[1], locations.shape[3]
    out = torch.zeros(batch, queries, heads, channels)
    for b in range(batch):
        for q in range(queries):
            for m in range(heads):
                for p in range(points):
                    x, y = (float(part) for part in locations[b, q, m, p])
                    for c in range(channels):
                        read = sample(value[b, m, c], x * width - 0.5, y * height - 0.5)
                        out[b, q, m, c] += float(weights[b, q, m, p]) * read
    return out.reshape(batch, queries, heads * channels)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 5), width=st.integers(1, 5))
def test_it_is_what_the_kernel_is_defined_as(seed: int, height: int, width: int) -> None:
    random = torch.Generator().manual_seed(seed)
    value = torch.randn(2, 2, 3, height, width, generator=random)
    locations = torch.rand(2, 3, 2, 4, 2, generator=random) * 1.6 - 0.3  # some of them outside of the map
    weights = torch.rand(2, 3, 2, 4, generator=random)
    expected = by_definition(value, locations, weights)
    torch.testing.assert_close(deformable_attention(value, locations, weights), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("column", "row", "expected"),
    [
        (0.25, 0.25, 1.0),  # the centre of the first pixel
        (0.5, 0.25, 1.5),  # half-way to the second
        (0.5, 0.5, 2.5),  # the middle of all four
        (0.0, 0.25, 0.5),  # on the left border half of what is read lies outside
        (-0.5, 0.25, 0.0),
    ],
)
def test_a_map_of_four_pixels_is_read_between_their_centres(column: float, row: float, expected: float) -> None:
    value = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 1, 2, 2)
    location = torch.tensor([column, row]).view(1, 1, 1, 1, 2)
    assert deformable_attention(value, location, torch.ones(1, 1, 1, 1)).item() == pytest.approx(expected)
