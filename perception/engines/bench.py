"""Measure a network's parts on this machine's engines, in one run, in turns, so that noise meets all of them alike."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from perception.engines.agreement import confirm_agreement
from perception.engines.cache import EngineCache, Say
from perception.engines.choose import EngineSettings, compile_part
from perception.engines.engine import Engine, axis_names, part_samples, pinned, resized_example
from perception.engines.fastest import store_fastest
from perception.engines.log_samples import with_stored_samples
from perception.engines.precision import EngineName
from perception.errors import EngineError, NotInstalledError
from perception.messages.array import Array, host
from perception.networks.part import Part

BATCH_AXES = ("batch", "images", "clips")
CPU_ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino", "torch")


@dataclass(frozen=True)
class Timing:
    """How long one run of one part takes on one engine, from inputs on the host to outputs on the host."""

    part: str
    engine: str
    threads: int
    median_ms: float
    p90_ms: float
    error: str = ""
    """Why it was not measured."""
    agreement: float = 0.0
    """The largest error over the tolerance of its class."""


@dataclass(frozen=True)
class Choice:
    """A network as a whole on one engine: what somebody who has a latency budget chooses from."""

    network: str
    engine: str
    precision: str
    batch: int
    threads: int
    latency_ms: float
    """Medians of its parts, added up."""
    parameters: int
    agreement: float
    error: str = ""

    @property
    def throughput_hz(self) -> float:
        return 1e3 * self.batch / self.latency_ms

    def beaten_by(self, other: Choice) -> bool:
        """Whether the other is as good in everything and better in something."""
        ours = (self.latency_ms, -self.throughput_hz, -self.parameters, self.precision != "fp32")
        theirs = (other.latency_ms, -other.throughput_hz, -other.parameters, other.precision != "fp32")
        return all(a >= b for a, b in zip(ours, theirs, strict=True)) and ours != theirs


def pareto(choices: Iterable[Choice]) -> list[Choice]:
    """Return the choices that no other beats in latency, throughput, size of the network and precision at once."""
    measured = [choice for choice in choices if not choice.error]
    return [choice for choice in measured if not any(choice.beaten_by(other) for other in measured)]


def bench_part(
    part: Part,
    settings: Sequence[EngineSettings],
    repeats: int = 20,
    cache: EngineCache | None = None,
    say: Say = lambda text: None,
) -> list[Timing]:
    """Time `part` on its example (at the fixed axes) on each engine, in the order of `settings`; or say why not."""
    engines: list[Engine | str] = []
    for chosen in settings:
        try:
            engines.append(compile_part(part, chosen, cache, say))
        except (EngineError, NotInstalledError) as error:
            engines.append(str(error))
    samples: list[list[float]] = [[] for _ in engines]
    for round_ in range(repeats + 2):
        for index, (chosen, engine) in enumerate(zip(settings, engines, strict=True)):
            if isinstance(engine, str):
                continue
            elapsed = _run_ms(part, chosen, engine)
            if round_ >= 2:  # the first two rounds warm caches and allocators
                samples[index].append(elapsed)
    return [_timing(part, *each) for each in zip(settings, engines, samples, strict=True)]


def find_fastest(
    part: Part,
    settings: EngineSettings,
    repeats: int = 10,
    cache: EngineCache | None = None,
    say: Say = lambda text: None,
) -> None:
    """Measure a part on every engine of a CPU that is installed and agrees, and keep the fastest for "auto".

    Measured on the middle one of a log's samples, where those are kept, and on the part's example elsewhere. With one
    engine that agrees there is nothing to keep.
    """
    cache = cache or EngineCache()
    engines: dict[EngineName, Engine] = {}
    for name in CPU_ENGINES:
        with contextlib.suppress(EngineError, NotInstalledError):
            engines[name] = compile_part(part, replace(settings, engine=name), cache, say)
    fixed = pinned(with_stored_samples(cache.folder, part), _axes(part, settings))
    samples = part_samples(fixed)
    sample = dict(zip(part.inputs, (tensor.numpy() for tensor in samples[len(samples) // 2]), strict=True))
    times_ms: dict[EngineName, list[float]] = {name: [] for name in engines}
    for _ in range(repeats + 2):
        for name, engine in engines.items():
            times_ms[name].append(_elapsed_ms(engine, sample, settings.threads))
    medians = {name: statistics.median(times[2:]) for name, times in times_ms.items()}
    if len(medians) > 1:
        best = min(medians, key=lambda name: medians[name])
        why = ", ".join(f"{name} {ms:.2f} ms" for name, ms in medians.items())
        store_fastest(cache.folder, part, settings, best, why)
        say(f"part '{part.name}': {why}: auto takes {best}")


def choices_of(
    network: str, parts: Mapping[str, Part], settings: Sequence[EngineSettings], timings: Sequence[Sequence[Timing]]
) -> list[Choice]:
    """Add up the parts' timings, a choice for each of `settings`; `timings` holds a list per part, in their order."""
    weights = {id(weight): weight.numel() for part in parts.values() for weight in part.module.parameters()}
    found = []
    for chosen, each in zip(settings, zip(*timings, strict=True), strict=True):
        error = next((timing.error for timing in each if timing.error), "")
        batch = next((chosen.axes[name] for name in BATCH_AXES if name in chosen.axes), 1)
        latency_ms, size = sum(timing.median_ms for timing in each), sum(weights.values())
        agreement, threads = max(timing.agreement for timing in each), each[0].threads
        found.append(
            Choice(network, chosen.engine, chosen.precision, batch, threads, latency_ms, size, agreement, error)
        )
    return found


def _timing(part: Part, settings: EngineSettings, engine: Engine | str, samples: list[float]) -> Timing:
    threads = settings.threads or torch.get_num_threads()
    if isinstance(engine, str):
        return Timing(part.name, f"{settings.engine} {settings.precision}", threads, 0.0, 0.0, engine)
    ordered = sorted(samples)
    median, p90 = statistics.median(ordered), ordered[math.ceil(0.9 * len(ordered)) - 1]
    fixed = pinned(part, _axes(part, settings))
    agreement = confirm_agreement(engine, fixed, half=settings.precision != "fp32").worst
    return Timing(part.name, engine.name, threads, median, p90, agreement=agreement)


def _run_ms(part: Part, settings: EngineSettings, engine: Engine) -> float:
    example = resized_example(part, _axes(part, settings))
    inputs = {name: tensor.numpy() for name, tensor in zip(part.inputs, example, strict=True)}
    return _elapsed_ms(engine, inputs, settings.threads)


def _elapsed_ms(engine: Engine, inputs: Mapping[str, Array], threads: int | None) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        start = time.perf_counter()
        for output in engine.run(inputs).values():
            host(output)
        return (time.perf_counter() - start) * 1e3
    finally:
        torch.set_num_threads(before)


def _axes(part: Part, settings: EngineSettings) -> dict[str, int]:
    return {name: size for name, size in settings.axes.items() if name in axis_names(part)}
