"""A double of the `tensorrt` package: it records every call, refuses unknown ones and wrong order, and computes.

Names and parameters are TensorRT's own (a test compares them with its published signatures). What it calls an engine is
the ONNX file, run by ONNX Runtime on the memory whose addresses the caller bound.
"""

from __future__ import annotations

import ctypes
import enum
import json
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime

__version__ = "11.4.0"

calls: list[str] = []
"""What was called, in order; tests clear it."""
fail: set[str] = set()
"""Names of calls that shall fail as TensorRT's do: by None, False or an error in the log."""


class WrongOrderError(AssertionError):
    """The real library would crash or give nonsense here."""


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise WrongOrderError(what)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class DataType(enum.Enum):
    FLOAT = onnx.TensorProto.FLOAT
    HALF = onnx.TensorProto.FLOAT16
    INT8 = onnx.TensorProto.INT8
    INT32 = onnx.TensorProto.INT32
    INT64 = onnx.TensorProto.INT64
    BOOL = onnx.TensorProto.BOOL


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class BuilderFlag(enum.Enum):
    TF32 = 0


class HardwareCompatibilityLevel(enum.Enum):
    NONE = 0
    AMPERE_PLUS = 1
    SAME_COMPUTE_CAPABILITY = 2


class ILogger:
    INTERNAL_ERROR: ClassVar[Any] = "internal error"
    ERROR: ClassVar[Any] = "error"
    WARNING: ClassVar[Any] = "warning"
    Severity = str

    def __init__(self) -> None:
        self.ready = True


class IProgressMonitor:
    def __init__(self) -> None:
        self.ready = True


class Dims:
    """Sizes that can be indexed and counted, and no more."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> int:
        return self._sizes[index]


class IHostMemory(bytes):
    """The real one offers the buffer protocol; nothing is done with it but `bytes(...)`."""


class ITensor:
    def __init__(self, name: str) -> None:
        self.name = name


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._model: onnx.ModelProto | None = None

    @property
    def num_inputs(self) -> int:
        _require(self._model is not None, "inputs of an empty network")
        return len(self._model.graph.input)  # type: ignore[union-attr]

    def get_input(self, index: int) -> ITensor:
        _require(self._model is not None, "inputs of an empty network")
        return ITensor(self._model.graph.input[index].name)  # type: ignore[union-attr]


class ParserError:
    def node_operator(self) -> str:
        return "Unique"

    def node_name(self) -> str:
        return "node_7"

    def desc(self) -> str:
        return "no importer is registered for it"


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        _require(isinstance(logger, ILogger) and logger.ready, "a logger whose base class was not initialised")
        self._network = network
        self.num_errors = 0

    def parse_from_file(self, model: str) -> bool:
        calls.append("parse_from_file")
        if "parse_from_file" in fail:
            self.num_errors = 1
            return False
        self._network._model = onnx.load(model)
        return True

    def get_error(self, index: int) -> ParserError:
        _require(index < self.num_errors, "an error that is not there")
        return ParserError()


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        shapes = [tuple(min), tuple(opt), tuple(max)]
        _require(len({len(shape) for shape in shapes}) == 1, "shapes of different ranks")
        self._shapes[input] = shapes


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self._entries = set(json.loads(data)["timings"]) if data.startswith(b"{") else set()
        self._damaged = bool(data) and not data.startswith(b"{")

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._entries |= input_cache._entries
        return not input_cache._damaged

    def serialize(self) -> IHostMemory:
        return IHostMemory(json.dumps({"timings": sorted(self._entries)}).encode())


class IBuilderConfig:
    __slots__ = (
        "_flags", "_limits", "_profiles", "_timings", "builder_optimization_level", "hardware_compatibility_level",
        "progress_monitor",
    )  # fmt: skip

    progress_monitor: Any
    builder_optimization_level: int
    hardware_compatibility_level: HardwareCompatibilityLevel

    def __init__(self) -> None:
        self._flags = {BuilderFlag.TF32}
        self._limits: dict[MemoryPoolType, int] = {}
        self._profiles: list[IOptimizationProfile] = []
        self._timings: ITimingCache | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        _require(isinstance(pool, MemoryPoolType) and pool_size > 0, "a memory pool of nothing")
        self._limits[pool] = pool_size

    def clear_flag(self, flag: BuilderFlag) -> None:
        calls.append(f"clear_flag {flag.name}")
        self._flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        ordered = all(
            low <= middle <= high
            for shapes in profile._shapes.values()
            for low, middle, high in zip(*shapes, strict=True)
        )
        if not ordered:
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache._damaged and not ignore_mismatch:
            return False
        self._timings = cache
        return True

    def get_timing_cache(self) -> ITimingCache:
        _require(self._timings is not None, "the timing cache of a configuration without one")
        return self._timings  # type: ignore[return-value]


class Builder:
    def __init__(self, logger: ILogger) -> None:
        _require(isinstance(logger, ILogger) and logger.ready, "a logger whose base class was not initialised")
        self._logger: Any = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        calls.append(f"create_network {flags}")
        typed = 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        _require(flags == (typed if __version__.startswith("10.") else 0), "strong typing: a flag in 10, none in 11")
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        calls.append("build_serialized_network")
        _require(network._model is not None, "a build before the file was parsed")
        names = {value.name for value in network._model.graph.input}  # type: ignore[union-attr]
        _require(len(config._profiles) == 1 and config._profiles[0]._shapes.keys() == names, "inputs without a profile")
        _require(MemoryPoolType.WORKSPACE in config._limits, "a build without a bound on its workspace")
        monitor: Any = config.progress_monitor
        monitor.phase_start("Building Engine", None, 20)
        monitor.phase_start("Timing", "Building Engine", 1)
        for step in range(20):
            _require(monitor.step_complete("Building Engine", step) is True, "the build was ended")
        monitor.phase_finish("Building Engine")
        self._logger.log(ILogger.WARNING, "a tactic was skipped")
        if "build_serialized_network" in fail:
            self._logger.log(ILogger.ERROR, "could not find any implementation for node_7")
            return None
        if config._timings is not None:
            config._timings._entries.add("conv")
        model = network._model.SerializeToString()  # type: ignore[union-attr]
        head = json.dumps({"version": __version__, "profiles": config._profiles[0]._shapes}).encode()
        return IHostMemory(len(head).to_bytes(4, "little") + head + model)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: Any) -> bool:
        calls.append(f"set_input_shape {name} {tuple(shape)}")
        low, _, high = self._engine._profiles[name]
        inside = all(first <= size <= last for first, size, last in zip(low, shape, high, strict=True))
        if inside:
            self._shapes[name] = tuple(shape)
        return inside

    def get_tensor_shape(self, name: str) -> Dims:
        _require(self._shapes.keys() == self._engine._profiles.keys(), "a shape before all inputs have theirs")
        if name in self._shapes:
            return Dims(self._shapes[name])
        zeros = {key: np.zeros(sizes, self._engine._dtype(key)) for key, sizes in self._shapes.items()}
        (value,) = self._engine._session.run([name], zeros)
        return Dims(value.shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        calls.append(f"set_tensor_address {name}")
        _require(name in self._engine._names and memory != 0, f"an address for '{name}'")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        calls.append("execute_async_v3")
        _require(self._shapes.keys() == self._engine._profiles.keys(), "a run before all inputs have a shape")
        _require(self._addresses.keys() == set(self._engine._names), "a run before every tensor has an address")
        if "execute_async_v3" in fail:
            return False
        feeds = {
            name: _memory(self._addresses[name], self._engine._dtype(name), shape)
            for name, shape in self._shapes.items()
        }
        names = [name for name in self._engine._names if name not in feeds]
        for name, value in zip(names, self._engine._session.run(names, feeds), strict=True):
            _memory(self._addresses[name], value.dtype, value.shape)[...] = value
        return True


class ICudaEngine:
    def __init__(self, profiles: dict[str, Any], model: bytes) -> None:
        self._profiles = profiles
        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        graph = onnx.load_from_string(model).graph
        self._types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
        self._names = list(self._types)
        self.num_io_tensors = len(self._names)

    def _dtype(self, name: str) -> Any:
        return onnx.helper.tensor_dtype_to_np_dtype(self._types[name])

    def get_tensor_name(self, index: int) -> str:
        return str(self._names[index])

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._profiles else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType(self._types[name])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        _require(profile_index == 0 and name in self._profiles, "the profile of an output")
        return [Dims(tuple(shape)) for shape in self._profiles[name]]

    def create_execution_context(self, strategy: Any = None) -> IExecutionContext:
        return IExecutionContext(self)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        _require(isinstance(logger, ILogger) and logger.ready, "a logger whose base class was not initialised")
        self._logger: Any = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        calls.append("deserialize_cuda_engine")
        size = int.from_bytes(serialized_engine[:4], "little")
        head = json.loads(serialized_engine[4 : 4 + size])
        if head["version"] != __version__:
            self._logger.log(ILogger.ERROR, f"the engine was built by {head['version']}")
            return None
        return ICudaEngine(head["profiles"], serialized_engine[4 + size :])


def _memory(address: int, dtype: Any, shape: tuple[int, ...]) -> Any:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


PUBLIC = (
    Builder, IBuilderConfig, INetworkDefinition, IOptimizationProfile, OnnxParser, ParserError, ITimingCache, Runtime,
    ICudaEngine, IExecutionContext,
)  # fmt: skip
FILE = Path(__file__)
