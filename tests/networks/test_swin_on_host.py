"""The windows of Swin on a host: rows where they lie give what copied windows give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from perception.networks.layers.swin import PatchMerging, ShiftedWindowAttention
from perception.ops.host_sampling import as_learned


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("size", [(14, 21), (10, 9), (5, 4)])  # whole windows, padded ones, less than one
def test_windows_attend_where_they_lie_as_in_copies(size: tuple[int, int], shift: int) -> None:
    torch.manual_seed(0)
    attention = ShiftedWindowAttention(24, heads=2, window=7, shift=shift)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, *size, 24)
    with torch.inference_mode():
        found = attention(x)
        with as_learned():
            expected = attention(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_patches_are_merged_row_by_row_as_channel_by_channel() -> None:
    torch.manual_seed(1)
    merging = PatchMerging(6)
    nn.init.normal_(merging.norm.weight)
    nn.init.normal_(merging.norm.bias)
    x = torch.randn(2, 5, 8, 6)
    with torch.inference_mode():
        found = merging(x)
        with as_learned():
            expected = merging(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
