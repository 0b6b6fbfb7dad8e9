"""The torch engine: the part's own module, eager, on a CPU. In float32 it is the reference of all others."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from perception.engines.engine import check_inputs, part_samples
from perception.engines.mixed_precision import MixedModule, wide_calls
from perception.engines.tensor_array import host_tensor
from perception.errors import EngineError
from perception.messages.array import Array, host
from perception.networks.part import Part, TensorSpec

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchEngine:
    """Runs a part in torch; below float32 by autocast, which keeps delicate steps there.

    Raises:
        EngineError: the precision is unknown.
    """

    def __init__(self, part: Part, precision: str = "fp32") -> None:
        if precision not in _DTYPES:
            raise EngineError(f"torch at '{precision}'; expected one of {', '.join(_DTYPES)}")
        self.inputs, self.outputs = part.inputs, part.outputs
        self.name = f"torch {torch.__version__} cpu {precision}"
        self._part_name, self._module = part.name, part.module
        self._widened: dict[str, Tensor] = {}
        if precision != "fp32":
            dtype = _DTYPES[precision]
            self._module = MixedModule(
                copy.deepcopy(part.module), dtype, wide_calls(part.module, part_samples(part), dtype)
            )

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the module; see `Engine.run`."""
        check_inputs(self.inputs, inputs)
        tensors = [host_tensor(host(inputs[name])) for name in self.inputs]
        try:
            with torch.inference_mode():
                values = self._module(*tensors)
        except RuntimeError as error:
            raise EngineError(f"part '{self._part_name}' failed in torch: {error}") from error
        named = zip(self.outputs.items(), (values,) if isinstance(values, Tensor) else values, strict=True)
        return {name: self._promised(name, value, spec).numpy() for (name, spec), value in named}

    def _promised(self, name: str, value: Tensor, spec: TensorSpec) -> Tensor:
        """Return an output in the type that its spec states, in memory that this engine keeps for the next run."""
        dtype = getattr(torch, spec.dtype)
        if value.dtype == dtype:
            return value
        before = self._widened.get(name)
        if before is None or (before.shape, before.stride()) != (value.shape, value.stride()):
            before = self._widened[name] = torch.empty_like(value, dtype=dtype)
        return before.copy_(value)
