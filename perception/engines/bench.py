"""Measure a part's engines on this machine, in one run, taking turns so that noise meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from perception.engines.cache import EngineCache, Say
from perception.engines.choose import EngineSettings, compile_part
from perception.engines.engine import Engine, axis_names, resized_example
from perception.errors import EngineError
from perception.networks.part import Part


@dataclass(frozen=True)
class Timing:
    """How long one run of one part takes on one engine."""

    part: str
    engine: str
    threads: int
    median_ms: float
    p90_ms: float
    error: str = ""
    """Why it was not measured."""


def bench_part(
    part: Part,
    settings: Sequence[EngineSettings],
    repeats: int = 20,
    cache: EngineCache | None = None,
    say: Say = lambda text: None,
) -> list[Timing]:
    """Time `part` on its example (at the fixed axes) on each engine; an engine that cannot be had says why."""
    timings: list[Timing] = []
    engines: list[tuple[EngineSettings, Engine]] = []
    for chosen in settings:
        try:
            engines.append((chosen, compile_part(part, chosen, cache, say)))
        except EngineError as error:
            timings.append(Timing(part.name, chosen.engine, chosen.threads or 0, 0.0, 0.0, str(error)))
    samples: dict[int, list[float]] = {index: [] for index in range(len(engines))}
    for round_ in range(repeats + 2):
        for index, (chosen, engine) in enumerate(engines):
            elapsed = _run_ms(part, chosen, engine)
            if round_ >= 2:  # the first two rounds warm caches and allocators
                samples[index].append(elapsed)
    for index, (chosen, engine) in enumerate(engines):
        ordered = sorted(samples[index])
        median, p90 = statistics.median(ordered), ordered[int(0.9 * (len(ordered) - 1))]
        timings.append(Timing(part.name, engine.name, chosen.threads or torch.get_num_threads(), median, p90))
    return timings


def _run_ms(part: Part, settings: EngineSettings, engine: Engine) -> float:
    axes = {name: size for name, size in settings.axes.items() if name in axis_names(part)}
    example = resized_example(part, axes)
    inputs = {name: tensor.numpy() for name, tensor in zip(part.inputs, example, strict=True)}
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads or threads)
    try:
        start = time.perf_counter()
        engine.run(inputs)
        return (time.perf_counter() - start) * 1e3
    finally:
        torch.set_num_threads(threads)
