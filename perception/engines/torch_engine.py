"""The torch engine: the part's own module, eager. In float32 it is the reference of all others."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch
from torch import Tensor

from perception.engines.engine import as_tensor, check_inputs
from perception.errors import EngineError
from perception.messages.array import Array
from perception.networks.part import Part

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchEngine:
    """Runs a part in torch on a CPU or a CUDA device; below float32 by autocast, which keeps delicate steps there.

    Raises:
        EngineError: the precision is unknown, or the device is not there.
    """

    def __init__(self, part: Part, precision: str = "fp32", device: str = "cpu") -> None:
        if precision not in _DTYPES:
            raise EngineError(f"torch at '{precision}'; expected one of {', '.join(_DTYPES)}")
        if device != "cpu" and not torch.cuda.is_available():
            raise EngineError(f"torch sees no device '{device}' here; expected cpu")
        self.inputs, self.outputs = part.inputs, part.outputs
        self.name = f"torch {torch.__version__} {device} {precision}"
        self._part, self._precision, self._device = part, precision, device
        self._module = part.module if device == "cpu" else part.module.to(device)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the module; see `Engine.run`."""
        check_inputs(self.inputs, inputs)
        tensors = [as_tensor(inputs[name]).to(self._device) for name in self.inputs]
        autocast: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if self._precision != "fp32":
            autocast = torch.autocast(torch.device(self._device).type, _DTYPES[self._precision])
        try:
            with torch.inference_mode(), autocast:
                values = self._module(*tensors)
        except RuntimeError as error:
            raise EngineError(f"part '{self._part.name}' failed in torch: {error}") from error
        named = zip(self.outputs.items(), (values,) if isinstance(values, Tensor) else values, strict=True)
        return {name: value.to("cpu", getattr(torch, spec.dtype)).numpy() for (name, spec), value in named}
