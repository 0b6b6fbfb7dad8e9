"""A fake engine for the tests of callers: it reuses its output buffers, and spoils them first.

Whoever keeps an output beyond the next `run` without `kept` finds it spoiled, as on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.engines.engine import check_inputs
from perception.messages.array import Array, host
from perception.networks.part import TensorSpec

Function = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]


class FakeEngine:
    """Runs `function` on host arrays; counts its runs."""

    def __init__(
        self,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        function: Function,
        name: str = "fake",
    ) -> None:
        self.name, self.inputs, self.outputs = name, inputs, outputs
        self.runs = 0
        self._function = function
        self._buffers: dict[tuple[str, tuple[int, ...]], NDArray[Any]] = {}

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Call the function; see `Engine.run`."""
        check_inputs(self.inputs, inputs)
        self.runs += 1
        for buffer in self._buffers.values():
            buffer.view(np.uint8).fill(0xAB)
        values = self._function({name: host(array) for name, array in inputs.items()})
        return {name: self._stored(name, values[name]) for name in self.outputs}

    def _stored(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        dtype = np.dtype(self.outputs[name].dtype)
        buffer = self._buffers.setdefault((name, value.shape), np.empty(value.size, dtype))
        buffer[:] = value.reshape(-1)
        return buffer.reshape(value.shape)
