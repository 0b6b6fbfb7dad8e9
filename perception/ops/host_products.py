"""Linear layers on a host, where nothing is learned: bias and activation are added while a product is in cache.

Torch's `linear` writes the bias into the result before it multiplies, and an activation goes through the result once
more: of a layer that makes four numbers of one, as much time as the product in bfloat16 (measured). oneDNN does all
three at once; torch's compiler calls it by the operator that is used here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]


def product_type() -> torch.dtype:
    """Return the type that products on a host read without a copy: bfloat16 under its autocast, else float32."""
    small = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return torch.bfloat16 if small else torch.float32


def linear_on_host(layer: nn.Linear, x: Tensor, *, relu: bool = False) -> Tensor:
    """Do what a linear layer with a bias does to rows (N, C); see `product_on_host`."""
    return product_on_host(x, layer.weight, layer.bias, relu=relu)


def product_on_host(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = False) -> Tensor:
    """Multiply rows by a matrix and add a bias.

    Args:
        x: (N, C) floats.
        weight: (D, C).
        bias: (D,).
        relu: whether what is below zero becomes zero.

    Returns:
        (N, D) of autocast's type, float32 without.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    faster = dtype == torch.bfloat16 or (relu and dtype == torch.float32)  # a float32 product takes as long either way
    if _HAS_ONEDNN and faster:
        given = (y.to(dtype).contiguous() for y in (x, weight, bias))
        return torch.ops.mkldnn._linear_pointwise(*given, "relu" if relu else "none", [], "")  # type: ignore[no-any-return]
    found = F.linear(x, weight, bias)
    return found.relu_() if relu else found


__all__ = ["linear_on_host", "product_on_host", "product_type"]
