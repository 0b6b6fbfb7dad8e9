"""The TensorRT engine: a part built for one NVIDIA GPU, TensorRT 11 or 10.

Device buffers are made for the largest shapes of the profile and bound once; a run copies its inputs into them, on the
caller's stream, and enqueues. When a shape comes back at once, its run is captured as a CUDA graph and replayed until
another shape comes. Outputs are views of the buffers, valid until the next run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import tensorrt as trt
import torch
from torch import Tensor

from perception.engines.agreement import certificate, confirm_agreement
from perception.engines.cache import EngineCache, Say
from perception.engines.cuda_engine import Capture, CudaGraphs, Replay, device_name
from perception.engines.engine import check_inputs, part_samples
from perception.engines.export import OPSET, export_onnx
from perception.engines.identity import gpu_name, part_identity
from perception.engines.onnx_file import in_precision
from perception.engines.precision import Precision
from perception.engines.tensor_array import TensorArray, device_tensor, host_tensor
from perception.engines.tensorrt_build import BuildSettings, Profile, Shape, ToldLogger, build_plan, profiles_of
from perception.errors import EngineError
from perception.messages.array import Array, DeviceArray
from perception.networks.part import Part

_PLAN, _GRAPH = "engine.plan", "graph.onnx"
_DTYPES = {
    "float32": trt.DataType.FLOAT, "int64": trt.DataType.INT64, "int32": trt.DataType.INT32, "bool": trt.DataType.BOOL,
}  # fmt: skip


class TensorRtEngine:
    """Runs one serialized engine; see the top of this file."""

    def __init__(
        self,
        part: Part,
        plan: bytes,
        precision: str = "fp32",
        device: str = "cuda",
        capture: Capture | None = None,
        say: Say = lambda text: None,
    ) -> None:
        """Load `plan`, whose bytes the caller has verified: an engine file is code.

        Args:
            part: what it was built from.
            plan: of `build_plan`.
            precision: for the name.
            device: where it runs.
            capture: how to capture a CUDA graph; tests pass their own.
            say: is told TensorRT's warnings.

        Raises:
            EngineError: TensorRT cannot load it here, or it is not an engine of this part.
        """
        self._device = torch.device(device)
        self._logger = ToldLogger(say)  # TensorRT keeps a bare pointer to it
        self._runtime = trt.Runtime(self._logger)
        engine = cast("trt.ICudaEngine | None", self._runtime.deserialize_cuda_engine(plan))
        if engine is None:
            told = "; ".join(self._logger.errors) or "it gives no reason"
            raise EngineError(f"TensorRT {trt.__version__} cannot load the engine of part '{part.name}': {told}")
        self._engine = engine
        self.inputs, self.outputs = part.inputs, part.outputs
        self.name = f"tensorrt {trt.__version__} {device_name(self._device)} {precision}"
        self.notes: list[str] = []
        self._part_name = part.name
        self._check_tensors()
        self._context = engine.create_execution_context()
        self._buffers = self._bound_buffers()
        self._capture: Capture | None = capture or CudaGraphs(self._device)
        self._shapes: tuple[Shape, ...] = ()
        self._graph: Replay | None = None

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Enqueue a run on the caller's stream; see `Engine.run`."""
        check_inputs(self.inputs, inputs)
        shapes = tuple(tuple(inputs[name].shape) for name in self.inputs)
        came_back = shapes == self._shapes
        if not came_back:
            self._graph = None  # it belongs to the shapes that the context had
            self._set_shapes(shapes)
        for name, array in inputs.items():
            _view(self._buffers[name], tuple(array.shape)).copy_(self._source(array), non_blocking=True)
        if self._graph is None and came_back and self._capture is not None:
            self._graph = self._captured()
        if self._graph is not None:
            self._graph()
        else:
            self._enqueue()
        ready = self._event()
        return {
            name: TensorArray(_view(self._buffers[name], _sizes(self._context.get_tensor_shape(name))), ready)
            for name in self.outputs
        }

    def _enqueue(self) -> tuple[Tensor, ...]:
        stream = torch.cuda.current_stream(self._device).cuda_stream if self._device.type == "cuda" else 0
        if not self._context.execute_async_v3(stream):
            told = "; ".join(self._logger.errors[-3:]) or "it gives no reason"
            raise EngineError(f"part '{self._part_name}' failed in TensorRT: {told}")
        return ()

    def _captured(self) -> Replay | None:
        assert self._capture is not None
        try:
            return self._capture(self._enqueue)
        except (RuntimeError, EngineError) as error:
            self._capture = None
            self.notes.append(f"part '{self._part_name}' runs without a CUDA graph: {error}")
            return None

    def _set_shapes(self, shapes: tuple[Shape, ...]) -> None:
        self._shapes = ()
        for name, shape in zip(self.inputs, shapes, strict=True):
            if not self._context.set_input_shape(name, shape):
                raise EngineError(f"part '{self._part_name}': TensorRT refuses the shape {shape} of input '{name}'")
        self._shapes = shapes

    def _check_tensors(self) -> None:
        found = {self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)}
        wanted = {**self.inputs, **self.outputs}
        if found != wanted.keys():
            raise EngineError(
                f"an engine with {', '.join(sorted(found))}; part '{self._part_name}' has {', '.join(sorted(wanted))}"
            )
        for name, spec in wanted.items():
            mode = trt.TensorIOMode.INPUT if name in self.inputs else trt.TensorIOMode.OUTPUT
            if self._engine.get_tensor_mode(name) != mode or self._engine.get_tensor_dtype(name) != _DTYPES[spec.dtype]:
                raise EngineError(f"tensor '{name}' of the engine is not the {spec.dtype} of part '{self._part_name}'")

    def _bound_buffers(self) -> dict[str, Tensor]:
        """Allocate every tensor at its largest size and tell the context where it lies, for good."""
        for name in self.inputs:
            largest = _sizes(self._engine.get_tensor_profile_shape(name, 0)[2])
            if not self._context.set_input_shape(name, largest):
                raise EngineError(
                    f"part '{self._part_name}': TensorRT refuses its own largest shape {largest} of '{name}'"
                )
        buffers = {}
        for name, spec in {**self.inputs, **self.outputs}.items():
            size = math.prod(_sizes(self._context.get_tensor_shape(name)))
            buffers[name] = torch.empty(max(size, 1), dtype=getattr(torch, spec.dtype), device=self._device)
            if not self._context.set_tensor_address(name, buffers[name].data_ptr()):
                raise EngineError(f"part '{self._part_name}': TensorRT refuses the address of '{name}'")
        return buffers

    def _source(self, array: Array) -> Tensor:
        if isinstance(array, DeviceArray):
            return device_tensor(array, self._device)
        tensor = host_tensor(array)
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _event(self) -> torch.cuda.Event | None:
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event


def build_tensorrt(
    part: Part,
    precision: Precision,
    cache: EngineCache,
    say: Say,
    profiles: Mapping[str, Profile] | None = None,
    settings: BuildSettings | None = None,
    **how: Any,
) -> TensorRtEngine:
    """Return the engine of `part`: from the cache, or exported, built, compared with the reference and stored there.

    Args:
        part: the part.
        precision: fp32, fp16, bf16 or int8.
        cache: where engines are kept, and the timings of this device beside them.
        say: is told the progress.
        profiles: shapes per input, from a log for instance; what the part's axes allow if None.
        settings: how to build.
        how: for `TensorRtEngine`: device, capture.

    Raises:
        EngineError: the part cannot be exported or built, or the engine disagrees with the torch reference.
    """
    settings, profiles = settings or BuildSettings(), profiles or profiles_of(part)
    where = gpu_name() if torch.cuda.is_available() else device_name(torch.device("cpu"))
    timings = cache.folder / ".timings" / f"{trt.__version__}-{where.replace(' ', '_').replace('/', '_')}"

    def build(folder: Path) -> Mapping[str, object]:
        export_onnx(part, folder / _GRAPH)
        kept_wide = in_precision(folder / _GRAPH, part, precision, part_samples(part))
        plan = build_plan(folder / _GRAPH, profiles, settings, timings, say)
        (folder / _PLAN).write_bytes(plan)
        for file in folder.iterdir():  # the graph and its weights have done their service
            if file.name != _PLAN:
                file.unlink()
        engine = TensorRtEngine(part, plan, precision, say=say, **how)
        agreement = confirm_agreement(engine, part, half=precision != "fp32")
        return {**certificate(agreement), "kept_in_float32": len(kept_wide)}

    versions = {"tensorrt": trt.__version__, "opset": str(OPSET), "cuda": str(torch.version.cuda)}
    made_of = part_identity(part, "tensorrt", precision, versions, where) | {
        "profiles": {name: [shape.minimum, shape.optimum, shape.maximum] for name, shape in profiles.items()},
        "settings": [settings.workspace_bytes, settings.optimization_level, settings.compatibility],
    }
    entry = cache.get_or_build(made_of, build, say)
    return TensorRtEngine(part, (entry.folder / _PLAN).read_bytes(), precision, say=say, **how)


def _sizes(dims: trt.Dims) -> Shape:
    return tuple(dims[index] for index in range(len(dims)))


def _view(buffer: Tensor, shape: Shape) -> Tensor:
    return buffer[: math.prod(shape)].view(shape)
