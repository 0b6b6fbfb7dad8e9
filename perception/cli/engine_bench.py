"""What `perception engine bench` does: networks on engines, or the nodes of a launch file."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Say = Callable[[str], None]


def bench_networks(
    targets: Sequence[str],
    engines: Sequence[str],
    precisions: Sequence[str],
    batches: Sequence[int],
    threads: Sequence[int],
    axes: Mapping[str, int],
    repeats: int,
    say: Say,
) -> None:
    """Time every network on every engine, and say which choices no other beats.

    Raises:
        PerceptionError: there is no such network, engine or precision.
    """
    import torch
    from torch import nn

    from perception.cli.engine_build import weights_address
    from perception.engines.bench import BATCH_AXES, bench_part, choices_of, pareto
    from perception.engines.choose import settings_of
    from perception.networks.load import load_network

    if not engines:
        engines = ("torch-cuda",) if torch.cuda.is_available() else ("torch", "onnxruntime")
    choices = []
    for target in targets:
        network: Any = load_network(weights_address(target), nn.Module)
        parts = network.network.parts()
        settings = [
            settings_of(engine, precision, count, {**axes, **(dict.fromkeys(BATCH_AXES, size) if size else {})})
            for size, count, engine, precision in itertools.product(batches or [0], threads, engines, precisions)
        ]
        say(f"{network.card.name}")
        say(f"  {'part':<16} {'engine':<40} {'threads':>7} {'median':>11} {'p90':>11}")
        timings = []
        for part in parts.values():
            timings.append(bench_part(part, settings, repeats, say=say))
            for timing in timings[-1]:
                measured = f"{timing.median_ms:>8.2f} ms {timing.p90_ms:>8.2f} ms" if not timing.error else timing.error
                say(f"  {timing.part:<16} {timing.engine:<40} {timing.threads:>7} {measured}")
        choices += choices_of(network.card.name, parts, settings, timings)
    front = pareto(choices)
    say(
        f"{'':1} {'network':<28} {'engine':<16} {'type':<5} {'batch':>5} {'threads':>7} {'latency':>10} {'rate':>12} "
        f"{'weights':>9} {'error':>6}"
    )
    for choice in sorted((choice for choice in choices if not choice.error), key=lambda choice: choice.latency_ms):
        say(
            f"{'*' if choice in front else ' '} {choice.network:<28} {choice.engine:<16} {choice.precision:<5} "
            f"{choice.batch:>5} {choice.threads:>7} {choice.latency_ms:>7.2f} ms {choice.throughput_hz:>9.1f} Hz "
            f"{choice.parameters / 1e6:>7.2f} M {choice.agreement:>6.2f}"
        )
    say("* no other is as fast, as large and as exact. error: largest difference from the reference over its tolerance")


def bench_launch(file: Path, repeats: int, say: Say) -> None:
    """Time the nodes of a launch file on made-up input, keep the figures, and say which deadlines they cannot meet.

    Raises:
        PerceptionError: the launch file is not sound, or a node cannot be made.
    """
    from perception.cli.graph_of import graph_of
    from perception.runtime.latency_budget import keep_measured_ms, late_outputs, measured_ms
    from perception.runtime.node_factory import make_node

    graph = graph_of(file)
    for spec in graph.nodes:
        if spec.is_source:
            continue
        node = make_node(spec, graph)
        times_ms = []
        for _ in range(repeats):
            start_s = time.perf_counter()
            node.warm_up()
            times_ms.append((time.perf_counter() - start_s) * 1e3)
        p90_ms = sorted(times_ms)[math.ceil(0.9 * len(times_ms)) - 1]
        if p90_ms > 0.05:  # nodes without a warm-up of their own have nothing to measure here
            keep_measured_ms(spec, p90_ms)
            say(f"{spec.name:<24} {spec.threads} threads  p90 {p90_ms:>9.2f} ms")
    for line in late_outputs(graph, measured_ms(graph)):
        say(f"warning: {line}")
