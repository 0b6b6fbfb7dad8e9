"""Torch below float32: autocast, and what would overflow there stays in float32.

Autocast runs convolutions and matrix products in the small type and keeps softmax, norms and sums in float32. It knows
nothing about ranges: a product of two feature maps (P2AT's gates) leaves float16 at 65504, and every step behind it
that still sees such values. `wide_calls` finds those steps by running the module once in float32 and looking at what
goes in and out of every torch function; `MixedModule` runs the same steps in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

HALF_LIMITS = {torch.float16: 65504.0 / 8}
"""Largest magnitude on the samples up to which a step runs in this type: real inputs may be larger by a factor of 8."""

_NO_ARITHMETIC = frozenset(
    {
        "__get__", "__getitem__", "size", "dim", "reshape", "view", "permute", "transpose", "flatten", "unsqueeze", "T",
        "squeeze", "expand", "contiguous", "unbind", "split", "chunk", "detach", "shape", "numel", "stride", "is_cuda",
    }
)  # fmt: skip
"""They move values; whatever type these have, they keep."""


class MixedModule(nn.Module):
    """A module under autocast in `dtype`, with the numbered torch calls in float32 (`wide_calls`)."""

    def __init__(self, module: nn.Module, dtype: torch.dtype, wide: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.module, self.dtype, self.wide = module, dtype, wide
        if not wide:
            _shrink_weights(module, dtype)

    def forward(self, *inputs: Tensor) -> Any:
        """Run the module; outputs may be of either type."""
        # No cache of cast weights: inside a CUDA graph it would hold tensors of the capture only.
        with torch.autocast(inputs[0].device.type, self.dtype, cache_enabled=False):
            if not self.wide:
                return self.module(*inputs)
            with _Wide(self.wide, inputs[0].device.type):
                return self.module(*inputs)


def wide_calls(module: nn.Module, samples: Sequence[Sequence[Tensor]], dtype: torch.dtype) -> frozenset[int]:
    """Return the numbers, in order of execution, of the torch calls whose values are too large for `dtype`.

    bfloat16 has float32's range: nothing is too large for it. The samples must run on the device that the module will
    run on, as modules may branch on that.
    """
    limit = HALF_LIMITS.get(dtype)
    if limit is None:
        return frozenset()
    found: set[int] = set()
    for sample in samples:
        with torch.inference_mode(), _Watch(limit) as watch:
            module(*sample)
        found |= watch.found
    return frozenset(found)


class _Numbered(TorchFunctionMode):
    """Counts the torch calls that compute."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _NO_ARITHMETIC:
            return func(*args, **(kwargs or {}))
        self.number += 1
        return self.call(func, args, kwargs or {})

    def call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return func(*args, **kwargs)


class _Watch(_Numbered):
    """Notes the calls that see a large finite value."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit, self.found = limit, set[int]()

    def call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        result = func(*args, **kwargs)
        values = [*_floats(args), *_floats(tuple(kwargs.values())), *_floats((result,))]
        if any(_largest(value) > self.limit for value in values):
            self.found.add(self.number)
        return result


class _Wide(_Numbered):
    """Runs the noted calls in float32."""

    def __init__(self, wide: frozenset[int], device: str) -> None:
        super().__init__()
        self.wide, self.device = wide, device

    def call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if self.number not in self.wide:
            return func(*args, **kwargs)
        with torch.autocast(self.device, enabled=False):
            return func(*_widened(args), **{name: _widened(value) for name, value in kwargs.items()})


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.float()
    return type(value)(_widened(item) for item in value) if type(value) in (tuple, list) else value


def _floats(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            yield value
        elif type(value) in (tuple, list):
            yield from _floats(value)


def _largest(value: Tensor) -> float:
    finite = torch.where(value.isfinite(), value, 0.0)  # a mask's -inf is one in every type
    return float(finite.abs().amax())


def _shrink_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Store what autocast would cast at every run in the small type, image convolutions channels last."""
    for inner in module.modules():
        if isinstance(inner, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)):
            inner.to(dtype)
        if isinstance(inner, (nn.Conv2d, nn.ConvTranspose2d)):
            inner.weight.data = inner.weight.data.contiguous(memory_format=torch.channels_last)
