"""Can this graph meet its deadlines on this machine? What was measured of its nodes, added up along each path.

`perception engine bench FILE` measures the nodes and keeps the figures, by what decides them: the node's class and
settings, its threads and the processor. `launch` reads them before it starts, which costs no time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from perception.networks.address import user_cache
from perception.runtime.graph import Graph, NodeSpec


def measured_ms(graph: Graph) -> dict[str, float]:
    """Return what one call of each measured node takes here, by node."""
    found = {}
    for spec in graph.nodes:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found[spec.name] = float(json.loads(_file(spec).read_text())["p90_ms"])
    return found


def keep_measured_ms(spec: NodeSpec, p90_ms: float) -> None:
    """Keep what nine in ten calls of a node stay within."""
    file = _file(spec)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"node": spec.name, "target": spec.target, "p90_ms": p90_ms}))


def late_outputs(graph: Graph, times_ms: Mapping[str, float]) -> list[str]:
    """Return, a line each, the outputs whose deadline the measured nodes on their way cannot meet.

    Joins wait for what is late already, so they add nothing to the shortest way; nodes without a figure count as
    instant, so nothing is reported that is not sure.
    """
    publishers = {topic: node for node in graph.nodes for topic in node.outputs.values()}
    lines = []
    for output in graph.outputs:
        path = _slowest(output.topic, publishers, times_ms)
        total_ms = sum(times_ms.get(name, 0.0) for name in path)
        if output.deadline_ns is not None and total_ms * 1e6 > output.deadline_ns:
            way = " + ".join(f"{name} {times_ms[name]:.0f} ms" for name in path if name in times_ms)
            lines.append(
                f"output '{output.publish_as}' has {output.deadline_ns / 1e6:g} ms, but on this machine {way} were "
                "measured: it will be late. A smaller network, a lower precision or more threads would help"
            )
    return lines


def _slowest(topic: str, publishers: Mapping[str, NodeSpec], times_ms: Mapping[str, float]) -> tuple[str, ...]:
    """Return the nodes of the slowest way to a topic, the first one first."""
    node = publishers.get(topic)
    if node is None or node.is_source:
        return ()
    ways = [_slowest(edge.topic, publishers, times_ms) for edge in node.edges]
    before = max(ways, key=lambda way: sum(times_ms.get(name, 0.0) for name in way), default=())
    return (*before, node.name)


def _file(spec: NodeSpec) -> Path:
    stated = [
        spec.target,
        spec.config.model_dump(mode="json"),
        spec.threads,
        platform.machine(),
        os.cpu_count(),
        _cpu(),
    ]
    return user_cache() / "latency" / f"{hashlib.sha256(json.dumps(stated).encode()).hexdigest()[:32]}.json"


def _cpu() -> str:
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return ""
