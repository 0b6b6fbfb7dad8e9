"""The ONNX Runtime engine: a part exported to ONNX, on a CPU or, where its CUDA provider is installed, on a GPU."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
import onnxruntime
import onnxscript
from numpy.typing import NDArray

from perception.engines.agreement import certificate, confirm_agreement
from perception.engines.cache import EngineCache, Say
from perception.engines.engine import check_inputs, part_samples
from perception.engines.export import OPSET, export_onnx
from perception.engines.identity import gpu_name, part_identity
from perception.engines.onnx_file import in_precision
from perception.engines.precision import Precision
from perception.errors import EngineError
from perception.messages.array import Array, host
from perception.networks.part import Part

Device: TypeAlias = Literal["cpu", "cuda"]
_PROVIDERS: dict[str, list[Any]] = {
    "cpu": ["CPUExecutionProvider"],
    # float32 stays float32, TF32 would round it; what the provider lacks runs on the CPU
    "cuda": [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"],
}
_GRAPH = "graph.onnx"
_MAX_SHAPES = 64
Shapes: TypeAlias = tuple[tuple[int, ...], ...]


class OnnxRuntimeEngine:
    """Runs one ONNX graph, inputs read where they lie, outputs written into buffers of the engine's own."""

    def __init__(
        self, part: Part, graph: Path, threads: int | None = None, device: Device = "cpu", precision: str = "fp32"
    ) -> None:
        """Load `graph`, which was exported from `part` and brought into `precision`.

        Raises:
            EngineError: ONNX Runtime cannot load it, or has no provider for the device.
        """
        if device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise EngineError(
                f"onnxruntime {onnxruntime.__version__} has no CUDA provider here; expected the package onnxruntime-gpu"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        # Spinning threads of one node would take the cores from the next node's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=_PROVIDERS[device])
        except Exception as error:  # its errors share no base class
            raise EngineError(f"{graph}: ONNX Runtime cannot load this graph: {error}") from error
        if device == "cuda" and "CUDAExecutionProvider" not in self._session.get_providers():
            raise EngineError("ONNX Runtime's CUDA provider did not start (does its CUDA version fit the driver's?)")
        self.inputs, self.outputs = part.inputs, part.outputs
        self.name = f"onnxruntime {onnxruntime.__version__} {device} {precision}"
        self._part_name = part.name
        self._used = {value.name for value in self._session.get_inputs()}
        self._known: OrderedDict[Shapes, Shapes] = OrderedDict()  # shapes of inputs -> of outputs
        self._buffers: dict[str, NDArray[Any]] = {}  # flat, as large as the largest output that was bound

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the graph; see `Engine.run`."""
        check_inputs(self.inputs, inputs)
        feeds = {name: np.ascontiguousarray(host(inputs[name])) for name in self._used}
        shapes = tuple(tuple(inputs[name].shape) for name in self.inputs)
        try:
            if shapes in self._known:
                self._known.move_to_end(shapes)
                return self._run_bound(feeds, self._known[shapes])
            values = self._session.run(list(self.outputs), feeds)
        except Exception as error:  # its errors share no base class
            raise EngineError(f"part '{self._part_name}' failed in ONNX Runtime: {error}") from error
        self._known[shapes] = tuple(value.shape for value in values)
        if len(self._known) > _MAX_SHAPES:
            self._known.popitem(last=False)
        return dict(zip(self.outputs, values, strict=True))

    def _run_bound(self, feeds: Mapping[str, NDArray[Any]], shapes: Shapes) -> Mapping[str, Array]:
        """Run without a copy or an allocation at either end, for inputs of shapes that were met before."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        outputs = {name: self._buffer(name, shape) for name, shape in zip(self.outputs, shapes, strict=True)}
        for name, buffer in outputs.items():
            binding.bind_output(name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)
        self._session.run_with_iobinding(binding)
        return outputs

    def _buffer(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        size, held = math.prod(shape), self._buffers.get(name)
        if held is None or held.size < size:
            held = self._buffers[name] = np.empty(size, np.dtype(self.outputs[name].dtype))
        return held[:size].reshape(shape)


def build_onnxruntime(
    part: Part,
    cache: EngineCache,
    say: Say,
    threads: int | None = None,
    device: Device = "cpu",
    precision: Precision = "fp32",
) -> OnnxRuntimeEngine:
    """Return the engine of `part`: from the cache, or exported, compared with the reference and stored there.

    Raises:
        EngineError: the part cannot be exported, or the engine disagrees with the torch reference.
    """

    def build(folder: Path) -> Mapping[str, object]:
        export_onnx(part, folder / _GRAPH)
        wide = in_precision(folder / _GRAPH, part, precision, part_samples(part))
        engine = OnnxRuntimeEngine(part, folder / _GRAPH, threads, device, precision)
        agreement = confirm_agreement(engine, part, half=precision != "fp32")
        return {**certificate(agreement), "kept_in_float32": len(wide)}

    if precision == "bf16":
        raise EngineError("onnxruntime has no bfloat16 convolutions; expected fp32, fp16 or int8")

    versions = {
        "onnxruntime": onnxruntime.__version__,
        "onnx": onnx.__version__,
        "onnxscript": onnxscript.__version__,
        "opset": str(OPSET),
    }
    name, where = ("onnxruntime", None) if device == "cpu" else ("onnxruntime-cuda", gpu_name())
    entry = cache.get_or_build(part_identity(part, name, precision, versions, where), build, say)
    return OnnxRuntimeEngine(part, entry.folder / _GRAPH, threads, device, precision)
