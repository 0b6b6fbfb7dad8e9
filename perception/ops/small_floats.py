"""bfloat16 in compiled code, which knows no such type: numbers of 16 bits, the upper half of a float32."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from numba.core import types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

FloatsOrBits: TypeAlias = NDArray[np.float32] | NDArray[np.uint16]
"""float32, or the bits of bfloat16."""


def floats_or_bits(x: Tensor) -> FloatsOrBits:
    """Return an array without a copy where it is float32 or bfloat16 in rows; any other becomes float32."""
    x = x.contiguous()
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.float().numpy()


def tensor_of(x: FloatsOrBits) -> Tensor:
    """Return what `floats_or_bits` was given, without a copy."""
    found = torch.from_numpy(x)
    return found.view(torch.bfloat16) if x.dtype == np.uint16 else found


def widened(x: Any) -> Any:
    """Return an entry of such an array as float32."""
    return _upper_half(x) if isinstance(x, np.uint16) else x


def narrowed(x: Any, like: Any) -> Any:
    """Return a float32 as an entry of an array of the kind of `like`, rounded to the nearest."""
    return _rounded(x, like) if like.dtype == np.uint16 else x


def _as_it_is(x: Any) -> Any:
    return x


def _upper_half(x: Any) -> Any:
    return np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


def _unchanged(x: Any, like: Any) -> Any:
    return x


def _rounded(x: Any, like: Any) -> Any:
    bits = np.float32(x).view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))  # ties go to the even one
    return np.uint16(np.uint32(bits + half) >> np.uint32(16))


@overload(widened, inline="always")  # type: ignore[untyped-decorator]
def _widened(x: Any) -> Any:
    """Return what compiled code takes for `widened`, by the type of what it is given."""
    return _upper_half if x == types.uint16 else _as_it_is


@overload(narrowed, inline="always")  # type: ignore[untyped-decorator]
def _narrowed(x: Any, like: Any) -> Any:
    """The same for `narrowed`."""
    return _rounded if like.dtype == types.uint16 else _unchanged


__all__ = ["FloatsOrBits", "floats_or_bits", "narrowed", "tensor_of", "widened"]
