"""Small constant tensors that stay on their device.

Making one from Python numbers copies from the host, which a GPU waits for and a CUDA graph cannot hold.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

Values: TypeAlias = tuple["float | bool | Values", ...]


def constant(values: Values, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return `values` on the device and, if `dtype` is None, of the type of `like`; only read it, it is shared."""
    if torch.compiler.is_exporting():  # tensors of the exporter must not outlive it
        return torch.tensor(values, dtype=dtype or like.dtype, device=like.device)
    return _kept(values, dtype or like.dtype, like.device)


@lru_cache(maxsize=256)
def _kept(values: Values, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # training may save it for its backward pass
        return torch.tensor(values, dtype=dtype, device=device)
