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


@dataclass(frozen=True)
class Coverage:
    """What ran inside parts and what ran around them, in torch, on one input."""

    inside_macs: int
    total_macs: int
    """Of convolutions, matrix products and attention, wherever they ran."""
    inside_s: float
    total_s: float

    @property
    def mac_share(self) -> float:
        return self.inside_macs / self.total_macs if self.total_macs else 1.0

    @property
    def time_share(self) -> float:
        return self.inside_s / self.total_s


def measure_coverage(case: ParityCase) -> Coverage:
    """Run the case's network and say how much of it is in its parts.

    Raises:
        CaseError: as `perception verify`.
    """
    adapter = adapter_of(case)
    network = adapter.build(case)
    load_filled(network, case)
    return coverage_of(adapter.parts(case, network), lambda run: adapter.outputs(case, network, run))


def coverage_of(parts: Mapping[str, Part], use: Callable[[RunPart], object], timed: RunPart | None = None) -> Coverage:
    """Call `use`, which runs a network on one input: once counting multiply-adds, twice on the clock.

    Args:
        parts: of the network.
        use: runs the whole network, its parts by the runner that it is given.
        timed: what the parts run on for the clock; torch if None.
    """
    bare = run_in_torch(parts)
    clocked = timed or bare
    inside_flops, inside_s = 0, 0.0

    def counting(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        nonlocal inside_flops
        before = counter.get_total_flops()
        outputs = bare(name, inputs)
        inside_flops += counter.get_total_flops() - before
        return outputs

    def timing(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        nonlocal inside_s
        start = time.perf_counter()
        outputs = dict(clocked(name, inputs))  # copied to the host, where the engine is on a device
        inside_s += time.perf_counter() - start
        return outputs

    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            use(counting)
        use(timing)
        inside_s = 0.0
        start = time.perf_counter()
        use(timing)
        total_s = time.perf_counter() - start
    return Coverage(inside_flops // 2, counter.get_total_flops() // 2, inside_s, total_s)


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
