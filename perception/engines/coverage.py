"""How much of a network is in its exported parts: multiply-adds and time, measured while it runs a parity case."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from perception.engines.engine import Engine
from perception.messages.array import Array, DeviceArray
from perception.networks.parity.case import ParityCase
from perception.networks.parity.verify import adapter_of, load_filled
from perception.networks.part import Part, RunPart, run_in_torch

Use = Callable[[RunPart], object]
"""Runs a whole network on one input, its parts by the runner that it is given."""


@dataclass(frozen=True)
class MultiplyAdds:
    """Of convolutions, matrix products and attention, in torch, on one input."""

    inside: int
    """In parts."""
    total: int
    """Wherever they ran."""

    @property
    def share(self) -> float:
        return self.inside / self.total if self.total else 1.0


@dataclass(frozen=True)
class Coverage:
    """What ran inside parts and what ran around them, on one input."""

    macs: MultiplyAdds
    inside_s: float
    total_s: float

    @property
    def time_share(self) -> float:
        return self.inside_s / self.total_s


def measure_coverage(case: ParityCase) -> Coverage:
    """Run the case's network and say how much of it is in its parts.

    Raises:
        CaseError: as `perception verify`.
    """
    return coverage_of(*_parts_and_use(case))


def macs_of_case(case: ParityCase) -> MultiplyAdds:
    """Count the multiply-adds of the case's network; errors as `measure_coverage`."""
    return macs_of(*_parts_and_use(case))


def _parts_and_use(case: ParityCase) -> tuple[Mapping[str, Part], Use]:
    adapter = adapter_of(case)
    network = adapter.build(case)
    load_filled(network, case)
    return adapter.parts(case, network), lambda run: adapter.outputs(case, network, run)


def macs_of(parts: Mapping[str, Part], use: Use) -> MultiplyAdds:
    """Run a network of these parts once, in torch, and count its multiply-adds."""
    bare, inside_flops = run_in_torch(parts), 0

    def counting(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        nonlocal inside_flops
        before = counter.get_total_flops()
        outputs = bare(name, inputs)
        inside_flops += counter.get_total_flops() - before
        return outputs

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        use(counting)
    return MultiplyAdds(inside_flops // 2, counter.get_total_flops() // 2)


def coverage_of(parts: Mapping[str, Part], use: Use, timed: RunPart | None = None) -> Coverage:
    """Run a network of these parts once to count, and twice on the clock.

    Args:
        parts: of the network.
        use: see there.
        timed: what the parts run on for the clock; torch if None.
    """
    macs, clocked, inside_s = macs_of(parts, use), timed or run_in_torch(parts), 0.0

    def timing(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        nonlocal inside_s
        start = time.perf_counter()
        outputs = dict(clocked(name, inputs))  # copied to the host, where the engine is on a device
        inside_s += time.perf_counter() - start
        return outputs

    with torch.inference_mode():
        use(timing)
        inside_s = 0.0
        start = time.perf_counter()
        use(timing)
        total_s = time.perf_counter() - start
    return Coverage(macs, inside_s, total_s)


class CountedEngine:
    """An engine that counts the multiply-adds that the open `FlopCounterMode` sees in it, and its time."""

    def __init__(self, engine: Engine, counter: FlopCounterMode | None = None) -> None:
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self.flops, self.elapsed_s = 0, 0.0
        self._engine, self._counter = engine, counter

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the engine and wait for it; see `Engine.run`."""
        before = self._counter.get_total_flops() if self._counter is not None else 0
        start = time.perf_counter()
        outputs = self._engine.run(inputs)
        for output in outputs.values():
            if isinstance(output, DeviceArray):
                output.wait()
        self.elapsed_s += time.perf_counter() - start
        if self._counter is not None:
            self.flops += self._counter.get_total_flops() - before
        return outputs
