"""Build a TensorRT engine of an ONNX file, for TensorRT 11 and, by the same calls, 10.

Networks are strongly typed: each layer computes in the type that the file says (`onnx_precision`, `onnx_quantization`),
in 11 always, in 10 by a flag. What has run on real hardware is said in docs/engines.md.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import tensorrt as trt

from perception.engines.cache import Say
from perception.engines.precision import Compatibility
from perception.errors import EngineError
from perception.networks.part import Axis, Part, TensorSpec

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class BuildSettings:
    """How TensorRT builds."""

    compatibility: Compatibility = "none"
    workspace_bytes: int = 4 << 30
    """Scratch memory that a layer may use."""
    optimization_level: int = 3
    """0 builds fast, 5 runs fast."""


@dataclass(frozen=True)
class Profile:
    """Smallest, most frequent and largest shape of an input; TensorRT is fastest at the middle one."""

    minimum: Shape
    optimum: Shape
    maximum: Shape


def profiles_of(part: Part) -> dict[str, Profile]:
    """Return the shapes that a part's axes allow, by input."""
    return {name: _profile(spec) for name, spec in part.inputs.items()}


def build_plan(
    graph: Path, profiles: Mapping[str, Profile], settings: BuildSettings, timing_cache: Path | None, say: Say
) -> bytes:
    """Return the serialized engine.

    Args:
        graph: the ONNX file, weights beside it where they are external.
        profiles: of each input.
        settings: how to build.
        timing_cache: measurements of earlier builds on this device, read before and written after; None keeps none.
        say: is told about TensorRT's warnings and the progress of the build.

    Raises:
        EngineError: TensorRT refuses the file, the profile or the build; with its reasons.
    """
    logger = ToldLogger(say)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags())
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons = [parser.get_error(index) for index in range(parser.num_errors)]
        told = "; ".join(f"{reason.node_operator()} '{reason.node_name()}': {reason.desc()}" for reason in reasons)
        raise EngineError(f"{graph}: TensorRT {trt.__version__} cannot read this graph: {told}")
    config = builder.create_builder_config()
    _configure(config, settings)
    config.progress_monitor = ToldProgress(say)
    _add_profile(builder, config, network, profiles)
    if timing_cache is not None:
        _read_timings(config, timing_cache)
    plan = cast("trt.IHostMemory | None", builder.build_serialized_network(network, config))  # None where it fails
    if plan is None:
        told = "; ".join(logger.errors) or "it gives no reason"
        raise EngineError(f"{graph}: TensorRT {trt.__version__} cannot build this engine: {told}")
    if timing_cache is not None:
        _write_timings(config, timing_cache)
    return bytes(plan)


def _network_flags() -> int:
    """Return strong typing where it has to be asked for; TensorRT 11 knows nothing else."""
    major = int(trt.__version__.partition(".")[0])
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if major < 11 else 0


def _configure(config: trt.IBuilderConfig, settings: BuildSettings) -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    config.builder_optimization_level = settings.optimization_level
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32; who wants less says fp16
    levels = {
        "none": trt.HardwareCompatibilityLevel.NONE,
        "same_compute_capability": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
        "ampere_plus": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
    }
    config.hardware_compatibility_level = levels[settings.compatibility]


def _add_profile(
    builder: trt.Builder, config: trt.IBuilderConfig, network: trt.INetworkDefinition, profiles: Mapping[str, Profile]
) -> None:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        name = network.get_input(index).name
        shapes = profiles[name]
        profile.set_shape(name, shapes.minimum, shapes.optimum, shapes.maximum)
    if config.add_optimization_profile(profile) < 0:
        told = ", ".join(f"{name} {shape.minimum} {shape.optimum} {shape.maximum}" for name, shape in profiles.items())
        raise EngineError(f"TensorRT refuses the shapes {told}; expected minimum <= optimum <= maximum in each")


def _read_timings(config: trt.IBuilderConfig, path: Path) -> None:
    """Take what earlier builds measured; what is damaged or of another device or version starts empty."""
    try:
        stored = path.read_bytes()
    except OSError:
        stored = b""
    cache = config.create_timing_cache(stored)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _write_timings(config: trt.IBuilderConfig, path: Path) -> None:
    """Store the measurements, those of a build that ran beside this one included, and whole or not at all."""
    timings = config.get_timing_cache()
    with contextlib.suppress(OSError):
        timings.combine(config.create_timing_cache(path.read_bytes()), ignore_mismatch=False)
    with contextlib.suppress(OSError):  # a build is not lost for its timings
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".timings-", delete=False) as file:
            file.write(bytes(timings.serialize()))
        os.replace(file.name, path)  # noqa: PTH105 (the name is a string)


def _profile(spec: TensorSpec) -> Profile:
    def shape(of: Callable[[Axis], int]) -> Shape:
        return tuple(of(side) if isinstance(side, Axis) else side for side in spec.shape)

    return Profile(shape(lambda axis: axis.minimum), shape(lambda axis: axis.typical), shape(lambda axis: axis.maximum))


class ToldLogger(trt.ILogger):
    """Passes warnings on and keeps errors, which are the reason of what failed."""

    def __init__(self, say: Say) -> None:
        super().__init__()
        self.say = say
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(msg)
        elif severity == trt.ILogger.WARNING:
            self.say(f"TensorRT: {msg}")


class ToldProgress(trt.IProgressMonitor):
    """Says each tenth of the outermost phases; a build takes minutes."""

    def __init__(self, say: Say) -> None:
        super().__init__()
        self.say = say
        self.phases: dict[str, tuple[int, int]] = {}  # outermost phase -> steps, tenths said

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # type: ignore[override]
        if not parent_phase:
            self.phases[phase_name] = (int(num_steps), 0)
            self.say(f"TensorRT: {phase_name}")

    def step_complete(self, phase_name: str, step: int) -> bool:  # type: ignore[override]
        if phase_name in self.phases:
            steps, said = self.phases[phase_name]
            tenths = 10 * (int(step) + 1) // max(steps, 1)
            if said < tenths < 10:
                self.say(f"TensorRT: {phase_name} {10 * tenths} %")
                self.phases[phase_name] = (steps, tenths)
        return True  # False would end the build

    def phase_finish(self, phase_name: str) -> None:
        self.phases.pop(phase_name, None)
