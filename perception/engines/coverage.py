"""How much of a network is in its exported parts: multiply-adds and time, measured while it runs a parity case."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

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


def coverage_of(parts: Mapping[str, Part], use: Callable[[RunPart], object]) -> Coverage:
    """Call `use`, which runs a network on one input, twice: once counting multiply-adds, once on the clock."""
    bare = run_in_torch(parts)
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
        outputs = bare(name, inputs)
        inside_s += time.perf_counter() - start
        return outputs

    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            use(counting)
        start = time.perf_counter()
        use(timing)
        total_s = time.perf_counter() - start
    return Coverage(inside_flops // 2, counter.get_total_flops() // 2, inside_s, total_s)
