"""The engines of DeepInteraction++: each part on what computes it best here, and what may be computed in bfloat16.

A part of this network hands features to the next; what anybody sees are the boxes at the end. The gate of a part looks
at the worst of millions of features, and refuses bfloat16 for a difference that moves no box. So in bfloat16 on a CPU
the whole network is judged: image branch and interaction, most of its arithmetic, run in it where the boxes of a frame
stay. Map and decoder stay in float32: in bfloat16 each of the two loses 7 of 109 boxes of the published case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perception.engines.cache import EngineCache, Say
from perception.engines.choose import EngineSettings, compile_parts
from perception.engines.compiled_by import is_compiled_by_another
from perception.engines.engine import Engine, run_on
from perception.engines.task_agreement import found_boxes
from perception.engines.torch_engine import TorchEngine
from perception.engines.whole_runs import whole_run
from perception.errors import EngineError
from perception.networks.layers.interaction_parts import IN_TORCH
from perception.networks.part import Part, RunPart, run_in_torch
from perception.ops.processor import MULTIPLIES_BFLOAT16

if TYPE_CHECKING:
    from perception.networks.deepinteraction import DeepInteraction

IN_BFLOAT16 = ("image", "interaction")


def compile_fusion(
    network: DeepInteraction, views: int, settings: EngineSettings, cache: EngineCache | None = None, say: Say = print
) -> dict[str, Engine]:
    """Build all parts of a network for a number of views.

    Args:
        network: weights loaded, in evaluation mode.
        views: that the parts are built for.
        settings: as for `compile_parts`. In bf16 on a CPU "torch" computes `IN_BFLOAT16` in it, and so does "auto",
            unless the processor cannot multiply such numbers: there it would be slower.
        cache: where compiled engines are kept; the user's cache if None.
        say: is told what happens.

    Raises:
        EngineError: the engine that was asked for by name cannot be built, or disagrees with the reference.
    """
    parts = network.parts(views=views)
    small: dict[str, Engine] = {}
    on_cpu = not torch.cuda.is_available() and settings.engine in ("auto", "torch")
    # Whoever builds or watches in our place needs every part
    if on_cpu and settings.precision == "bf16" and not is_compiled_by_another():
        if settings.engine == "auto" and not MULTIPLIES_BFLOAT16:
            say("this processor does not multiply in bfloat16, which would be slower: the network runs in float32")
        else:
            small = _in_bfloat16(network, parts, views, settings, say)
        settings = replace(settings, precision="fp32")
    rest = {name: part for name, part in parts.items() if name not in small}
    engines = compile_parts({n: p for n, p in rest.items() if n not in IN_TORCH}, settings, cache, say)
    if settings.engine == "auto" and not any("cuda" in engine.name for engine in engines.values()):
        settings = EngineSettings("torch", "fp32", settings.threads)
    in_torch = compile_parts({n: p for n, p in rest.items() if n in IN_TORCH}, settings, cache, say)
    return engines | in_torch | small


def bfloat16_engines(parts: Mapping[str, Part]) -> dict[str, Engine]:
    """Return the engines of `IN_BFLOAT16`, not judged yet."""
    return {name: TorchEngine(parts[name], "bf16") for name in IN_BFLOAT16}


def mixed_runner(engines: Mapping[str, Engine], others: RunPart) -> RunPart:
    """Return the runner of some parts on engines, and of the others by another runner."""
    on_engines = run_on(engines)

    def run(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return (on_engines if name in engines else others)(name, inputs)

    return run


def _in_bfloat16(
    network: DeepInteraction, parts: Mapping[str, Part], views: int, settings: EngineSettings, say: Say
) -> dict[str, Engine]:
    small, reference = bfloat16_engines(parts), run_in_torch(parts)
    with torch.inference_mode():
        detect = whole_run("deepinteraction", network, views=views)
        expected = detect(reference)
        got = detect(mixed_runner(small, reference))
    figure = found_boxes(got[0], expected[0])
    if figure.passed:
        return small
    text = f"bfloat16 finds {figure.share:.1%} of the boxes of float32, expected at least {figure.least:.0%}"
    if settings.engine != "auto":
        raise EngineError(f"torch in bf16 disagrees with the torch reference: {text}")
    say(f"{text}: the network runs in float32")
    return {}


__all__ = ["IN_BFLOAT16", "bfloat16_engines", "compile_fusion", "mixed_runner"]
