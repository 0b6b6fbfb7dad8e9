"""Linear layers and norms on a host give what torch's give, in float32 and under bfloat16's autocast."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perception.ops.host_norms import normed_on_host
from perception.ops.host_products import linear_on_host, product_type


def autocast(dtype: torch.dtype) -> Any:
    return nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype, cache_enabled=False)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("dtype", "given"),
    [
        (torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32),
    ],
)  # fmt: skip
def test_a_linear_layer_on_a_host_is_torch_s(relu: bool, dtype: torch.dtype, given: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 40)
    x = torch.randn(50, 48).to(given)[:, ::2]  # with gaps between its numbers
    with torch.inference_mode(), autocast(dtype):
        expected = layer(x)
        expected = expected.relu() if relu else expected
        found = linear_on_host(layer, x, relu=relu)
    assert found.dtype == expected.dtype == dtype
    exact = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found, expected, rtol=exact, atol=exact)


def test_products_are_of_float32_but_under_bfloat16_s_autocast() -> None:
    assert product_type() == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert product_type() == torch.bfloat16
    with torch.autocast("cpu", torch.float16):
        assert product_type() == torch.float32


def made_norm(channels: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("channels", [1, 7, 96])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_a_sum_is_kept_and_normed(channels: int, given: torch.dtype) -> None:
    torch.manual_seed(1)
    norm = made_norm(channels)
    x, added = torch.randn(3, 11, channels).to(given) + 5, torch.randn(3, 11, channels).bfloat16()
    total = torch.empty(x.shape)
    with torch.inference_mode():
        found = normed_on_host(norm, x, added, total)
        expected = norm(x.float() + added.float())
    assert torch.equal(total, x.float() + added.float())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 33])
def test_rows_are_normed_alone_and_rounded_once(rows: int) -> None:
    torch.manual_seed(2)
    norm, x = made_norm(24), torch.randn(rows, 24)
    with torch.inference_mode():
        found: Tensor = normed_on_host(norm, x, dtype=torch.bfloat16)
        expected = norm(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2**-8, atol=1e-5)
