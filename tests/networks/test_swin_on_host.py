"""The windows of Swin on a host: rows where they lie give what copied windows give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from perception.networks.layers import swin
from perception.networks.layers.swin import PatchMerging, ShiftedWindowAttention, SwinBlock
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
        attend = attention.on_host(*size)
        found = torch.stack([attend(rows).reshape(*size, 24) for rows in x.flatten(1, 2)])
        expected = attention(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shift", [0, 3])
def test_a_block_does_map_by_map_what_it_does_to_all(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    monkeypatch.setattr(swin, "HOST_ROWS", 37)  # of 90 rows
    block = SwinBlock(24, heads=2, window=7, shift=shift, mlp_ratio=2)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(3, 10, 9, 24)
    before = x.clone()
    with torch.inference_mode():
        found = block(x)
        with as_learned():
            expected = block(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-4)
    assert torch.equal(x, before)


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
