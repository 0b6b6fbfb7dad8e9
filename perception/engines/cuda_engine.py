"""The torch-CUDA engine: a part's module on an NVIDIA GPU in fp32, fp16 or bf16, replayed as CUDA graphs.

    engine = CudaEngine(part, "fp16")
    outputs = engine.run(inputs)  # arrays on the device; `host(outputs["logits"])` waits and copies

It runs on the caller's current stream and does not wait for it: host inputs go through page-locked memory, device
inputs are read where they lie. Input shapes that come back are captured once and replayed as a graph, one launch for a
whole part; shapes that a sweep brings once run eagerly. A part that cannot be captured (its steps depend on values, or
fetch from the host) runs eagerly for good, and `notes` says why.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from perception.engines.agreement import certificate, confirm_agreement
from perception.engines.cache import EngineCache, Say
from perception.engines.engine import check_inputs, part_samples
from perception.engines.identity import gpu_name, part_identity
from perception.engines.mixed_precision import MixedModule, wide_calls
from perception.engines.tensor_array import TensorArray, device_tensor, host_tensor
from perception.errors import EngineError
from perception.messages.array import Array, DeviceArray
from perception.networks.part import Axis, Part

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
MAX_GRAPHS = 4
"""A graph holds its inputs, outputs and scratch memory: the least recently used goes when another comes."""
RUNS_BEFORE_CAPTURE = 2
"""A shape is captured at its third run: the shapes of sweeps seldom come back, those of cameras always do."""


class Replay(Protocol):
    """A captured run: reads the tensors that it was captured with, and fills `outputs` anew."""

    outputs: tuple[Tensor, ...]

    def __call__(self) -> None:
        """Run it again on the current stream."""


Capture: TypeAlias = Callable[[Callable[[], tuple[Tensor, ...]]], Replay]


@dataclass
class _Captured:
    inputs: tuple[Tensor, ...]
    replay: Replay


class RecurringShapes:
    """Decides which shapes are worth a graph, and which graph has to go."""

    def __init__(self, runs_before: int, most: int) -> None:
        self._runs_before, self._most = runs_before, most
        self._seen: OrderedDict[Shapes, int] = OrderedDict()

    def recurs(self, shapes: Shapes) -> bool:
        """Count a run of `shapes`; whether it has been run often enough before."""
        before = self._seen.pop(shapes, 0)
        self._seen[shapes] = before + 1
        while len(self._seen) > 16 * self._most:  # sweeps bring new shapes for ever
            self._seen.popitem(last=False)
        return before >= self._runs_before


class CudaEngine:
    """Runs a part in torch on one GPU; see the top of this file.

    Outputs are `TensorArray`s of the part's dtypes, contiguous, valid until the next run.

    Raises:
        EngineError: the precision is unknown, or there is no such device.
    """

    def __init__(
        self,
        part: Part,
        precision: str = "fp32",
        device: str = "cuda",
        graphs: bool = True,
        capture: Capture | None = None,
    ) -> None:
        """Copy the module to `device` and prepare it.

        Args:
            part: its module stays where it is: it is the reference.
            precision: fp32 (without TF32), fp16 or bf16.
            device: a CUDA device.
            graphs: False never captures.
            capture: how to capture; torch's CUDA graphs by default, tests pass their own.
        """
        if precision != "fp32" and precision not in DTYPES:
            raise EngineError(f"torch-cuda at '{precision}'; expected fp32, {', '.join(DTYPES)}")
        self._device = torch.device(device)
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise EngineError(
                f"torch {torch.__version__} sees no CUDA device here; expected an NVIDIA GPU and its driver"
            )
        self.inputs, self.outputs = part.inputs, part.outputs
        self.name = f"torch {torch.__version__} {device_name(self._device)} {precision}"
        self.notes: list[str] = []
        self._part_name = part.name
        self._dtypes = tuple(getattr(torch, spec.dtype) for spec in part.outputs.values())
        with self._settings():
            self._module = self._prepared(part, precision)
        self._graphs = graphs
        self._capture = capture or CudaGraphs(self._device)
        fixed = not any(isinstance(axis, Axis) for spec in part.inputs.values() for axis in spec.shape)
        self._recurring = RecurringShapes(0 if fixed else RUNS_BEFORE_CAPTURE, MAX_GRAPHS)
        self._captured: OrderedDict[Shapes, _Captured] = OrderedDict()
        self._eager: tuple[Tensor, ...] = ()  # keeps an eager run's inputs and outputs until the next run

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Enqueue a run on the caller's stream; see `Engine.run`."""
        check_inputs(self.inputs, inputs)
        arrays = tuple(inputs[name] for name in self.inputs)
        try:
            with self._settings(), torch.inference_mode():
                values = self._replayed(arrays) if self._graphs else self._eagerly(arrays)
                ready = self._event()
        except RuntimeError as error:
            raise EngineError(f"part '{self._part_name}' failed on {self.name}: {_first_line(error)}") from error
        return {name: TensorArray(value, ready) for name, value in zip(self.outputs, values, strict=True)}

    def _replayed(self, arrays: tuple[Array, ...]) -> tuple[Tensor, ...]:
        shapes: Shapes = tuple(tuple(array.shape) for array in arrays)
        captured = self._captured.get(shapes)
        if captured is None:
            if not self._recurring.recurs(shapes):
                return self._eagerly(arrays)
            captured = self._captured_now(shapes, arrays)
            if captured is None:
                return self._eagerly(arrays)
        else:
            self._captured.move_to_end(shapes)
        for target, array in zip(captured.inputs, arrays, strict=True):
            target.copy_(self._source(array), non_blocking=True)
        captured.replay()
        return captured.replay.outputs

    def _captured_now(self, shapes: Shapes, arrays: tuple[Array, ...]) -> _Captured | None:
        while len(self._captured) >= MAX_GRAPHS:
            self._captured.popitem(last=False)
        held = tuple(self._on_device(array).clone() for array in arrays)
        try:
            captured = _Captured(held, self._capture(lambda: self._computed(held)))
        except RuntimeError as error:  # what torch and CUDA raise on a step that a graph cannot hold
            self._graphs = False
            self.notes.append(f"part '{self._part_name}' runs without a CUDA graph: {_first_line(error)}")
            return None
        self._captured[shapes] = captured
        return captured

    def _eagerly(self, arrays: tuple[Array, ...]) -> tuple[Tensor, ...]:
        tensors = tuple(self._on_device(array) for array in arrays)
        values = self._computed(tensors)
        self._eager = (*tensors, *values)
        return values

    def _computed(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = self._module(*tensors)
        values = (values,) if isinstance(values, Tensor) else values
        return tuple(value.to(dtype).contiguous() for value, dtype in zip(values, self._dtypes, strict=True))

    def _on_device(self, array: Array) -> Tensor:
        return self._source(array).to(self._device, non_blocking=True)

    def _source(self, array: Array) -> Tensor:
        """Return a device array where it lies, or a host array in page-locked memory, from where a GPU can read."""
        if isinstance(array, DeviceArray):
            return device_tensor(array, self._device)
        tensor = host_tensor(array)
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _prepared(self, part: Part, precision: str) -> nn.Module:
        module = copy.deepcopy(part.module).to(self._device).eval().requires_grad_(False)
        if precision == "fp32":
            return module
        dtype = DTYPES[precision]
        samples = [tuple(tensor.to(self._device) for tensor in sample) for sample in part_samples(part)]
        return MixedModule(module, dtype, wide_calls(module, samples, dtype))

    def _settings(self) -> AbstractContextManager[Any]:
        return _true_float32(self._device) if self._device.type == "cuda" else nullcontext()

    def _event(self) -> torch.cuda.Event | None:
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event


class _true_float32(AbstractContextManager[None]):  # noqa: N801 (used as a function)
    """Make `device` current, and float32 mean float32: by default cuDNN rounds it to TF32's 10 bits."""

    def __init__(self, device: torch.device) -> None:
        self._device = torch.cuda.device(device)

    def __enter__(self) -> None:
        self._device.__enter__()  # type: ignore[no-untyped-call]
        self._before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def __exit__(self, *exception: object) -> None:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = self._before
        self._device.__exit__(*exception)


class CudaGraphs:
    """Captures runs as CUDA graphs that share one memory pool: only one of an engine's graphs runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def __call__(self, function: Callable[[], tuple[Tensor, ...]]) -> Replay:
        """Warm up on a stream of its own, as capturing demands, and capture.

        Raises:
            RuntimeError: something in `function` cannot be captured.
        """
        caller, side = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(caller)
        with torch.cuda.stream(side):
            for _ in range(2):  # libraries pick algorithms and take workspaces
                function()
        caller.wait_stream(side)
        torch.cuda.synchronize(self._device)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = function()
        return _Graph(graph, outputs)


class _Graph:
    def __init__(self, graph: torch.cuda.CUDAGraph, outputs: tuple[Tensor, ...]) -> None:
        self.graph, self.outputs = graph, outputs

    def __call__(self) -> None:
        self.graph.replay()


def device_name(device: torch.device) -> str:
    """Return "NVIDIA H100 80GB HBM3 sm90" for a GPU, or the device's type."""
    if device.type != "cuda":
        return device.type
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} sm{major}{minor}"


def build_cuda(part: Part, precision: str, cache: EngineCache, say: Say) -> CudaEngine:
    """Return the engine of `part`; nothing is compiled ahead, but the certificate is kept, so that a start is quick.

    Raises:
        EngineError: there is no GPU, or the engine disagrees with the torch reference.
    """
    engine = CudaEngine(part, precision)

    def build(folder: Path) -> Mapping[str, object]:
        agreement = confirm_agreement(engine, part, half=precision != "fp32")
        (folder / "engine.txt").write_text(f"{engine.name}\n")
        return certificate(agreement)

    versions = {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    cache.get_or_build(part_identity(part, "torch-cuda", precision, versions, gpu_name()), build, say)
    return engine


def _first_line(error: BaseException) -> str:
    return next(iter(_lines(error)), type(error).__name__)


def _lines(error: BaseException) -> Iterable[str]:
    return (line.strip() for line in str(error).splitlines() if line.strip())
