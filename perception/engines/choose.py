"""Choose what a network's parts run on, build it, and fall back where that is allowed.

    engines = compile_parts(network.parts(), "auto", say=print)
    boxes = network.detect(points, run_on(engines))

"auto" takes the engine that was measured to be the fastest here (`fastest`), or else the one that most often is, if it
agrees with the torch reference, and says why where it had to leave one out; a name takes that engine or raises.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from perception.engines import compiled_by
from perception.engines.agreement import confirm_agreement
from perception.engines.cache import EngineCache, Say
from perception.engines.engine import Engine, axis_names, limited, pinned, run_on
from perception.engines.fastest import stored_fastest
from perception.engines.log_samples import with_stored_samples
from perception.engines.log_shapes import stored_limits
from perception.engines.precision import Compatibility, EngineName, Precision
from perception.engines.torch_engine import TorchEngine
from perception.errors import EngineError, NotInstalledError, UserError, did_you_mean
from perception.networks.parity.verify import RunOn
from perception.networks.part import Part, RunPart, run_in_torch


@dataclass(frozen=True)
class EngineSettings:
    """What a launch file may say about the engines of a node."""

    engine: EngineName = "auto"
    precision: Precision = "fp32"
    threads: int | None = None
    """Threads of one run; None leaves it to the library."""
    axes: Mapping[str, int] = field(default_factory=dict)
    """Free axes to fix, for example {"batch": 1, "height": 256, "width": 512}: a fixed engine is faster."""
    compatibility: Compatibility = "none"
    """GPUs that a TensorRT engine must run on: the one it was built on, its compute capability, or Ampere and later."""


def compile_part(
    part: Part, settings: EngineSettings | None = None, cache: EngineCache | None = None, say: Say = lambda text: None
) -> Engine:
    """Build one part, or take it from the cache.

    Args:
        part: the part, weights loaded, in evaluation mode.
        settings: engine, precision, threads, fixed axes.
        cache: where compiled engines are kept; the user's cache if None.
        say: is told what happens (a build starts, a damaged file, a fall-back); a node passes it on to its status.

    Raises:
        EngineError: the engine that was asked for by name cannot be built, or disagrees with the reference.
    """
    settings = settings or EngineSettings()
    if (compiled := compiled_by.by_another({part.name: part}, settings)) is not None:
        return compiled[part.name]
    axes = {name: size for name, size in settings.axes.items() if name in axis_names(part)}
    cache = cache or EngineCache()
    fastest = stored_fastest(cache.folder, part, settings) if settings.engine == "auto" else None
    part = limited(with_stored_samples(cache.folder, part), stored_limits(cache.folder, part))
    part = pinned(part, axes) if axes else part
    if settings.engine == "torch" and settings.precision == "fp32":
        return TorchEngine(part)
    for name, precision in _candidates(settings, fastest):
        try:
            return _compiled(part, name, replace(settings, precision=precision), cache, say)
        except (EngineError, NotInstalledError) as error:
            if settings.engine != "auto":
                raise
            say(f"part '{part.name}' does not run on {name} in {precision}: {error}")
    say(f"part '{part.name}' runs on torch, the slow reference")
    return TorchEngine(part)


def _candidates(settings: EngineSettings, fastest: EngineName | None) -> list[tuple[EngineName, Precision]]:
    """Return what "auto" tries, the fastest first; what disagrees below float32 may agree in it."""
    wanted = settings.precision
    if settings.engine != "auto":
        return [(settings.engine, wanted)]
    found: list[tuple[EngineName, Precision]] = [] if fastest is None else [(fastest, wanted)]
    if torch.cuda.is_available():
        if importlib.util.find_spec("tensorrt"):
            found += [("tensorrt", wanted), ("tensorrt", "fp32")]
        found += [("torch-cuda", wanted), ("torch-cuda", "fp32")]
    if wanted in ("fp16", "bf16"):
        found.append(("torch", wanted))
    if wanted == "int8":
        found.append(("onnxruntime", wanted))
    return list(dict.fromkeys([*found, ("onnxruntime", "fp32")]))


def _compiled(part: Part, name: EngineName, settings: EngineSettings, cache: EngineCache, say: Say) -> Engine:
    if name == "openvino":
        from perception.engines.openvino_engine import build_openvino

        return build_openvino(part, cache, say, settings.threads, settings.precision)
    if name == "torch-cuda":
        from perception.engines.cuda_engine import build_cuda

        return build_cuda(part, settings.precision, cache, say)
    if name == "tensorrt":
        return _tensorrt(part, settings, cache, say)
    if name in ("onnxruntime", "onnxruntime-cuda"):
        from perception.engines.onnxruntime_engine import build_onnxruntime

        device: Literal["cpu", "cuda"] = "cuda" if name == "onnxruntime-cuda" else "cpu"
        return build_onnxruntime(part, cache, say, settings.threads, device, settings.precision)
    engine = TorchEngine(part, settings.precision)
    confirm_agreement(engine, part, half=True)
    return engine


def _tensorrt(part: Part, settings: EngineSettings, cache: EngineCache, say: Say) -> Engine:
    if importlib.util.find_spec("tensorrt") is None:
        raise NotInstalledError(
            "TensorRT is not installed: pip install tensorrt (from NVIDIA's index), or use an image that has it"
        )
    from perception.engines.tensorrt_build import BuildSettings
    from perception.engines.tensorrt_engine import build_tensorrt

    return build_tensorrt(part, settings.precision, cache, say, settings=BuildSettings(settings.compatibility))


def compile_parts(
    parts: Mapping[str, Part],
    settings: EngineSettings | None = None,
    cache: EngineCache | None = None,
    say: Say = lambda text: None,
) -> dict[str, Engine]:
    """Build all parts of a network; see `compile_part`."""
    if (compiled := compiled_by.by_another(parts, settings or EngineSettings())) is not None:
        return compiled
    return {name: compile_part(part, settings, cache, say) for name, part in parts.items()}


def settings_of(
    engine: str, precision: str = "fp32", threads: int | None = None, axes: Mapping[str, int] | None = None
) -> EngineSettings:
    """Return settings from what somebody typed.

    Raises:
        UserError: there is no such engine or precision.
    """
    for given, kind, known in ((engine, "engine", get_args(EngineName)), (precision, "precision", get_args(Precision))):
        if given not in known:
            raise UserError(f"no {kind} '{given}'; expected {', '.join(known)}.{did_you_mean(given, known)}")
    return EngineSettings(engine, precision, threads, dict(axes or {}))  # type: ignore[arg-type]  # checked above


def runner(engine: str, precision: str = "fp32", say: Say = lambda text: None) -> RunOn:
    """Return what compiles a network's parts for a named engine, each when it first runs; torch is the bare reference.

    Raises:
        UserError: there is no such engine or precision.
    """
    settings = settings_of(engine, precision)
    if engine == "torch" and precision == "fp32":
        return run_in_torch

    def run_on_engines(parts: Mapping[str, Part]) -> RunPart:
        engines: dict[str, Engine] = {}

        def run(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            if name not in engines:
                engines[name] = compile_part(parts[name], settings, say=say)
            return run_on(engines)(name, inputs)

        return run

    return run_on_engines
