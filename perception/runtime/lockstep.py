"""Lockstep, whatever runs it: what the sources give, in one order, and what is made of a graph that runs as processes.

Every node decides by the stamps of what it reads (`inputs.py`): its calls are a function of its input topics, each in
its own order, however the topics travelled against each other. A runner only has to lose nothing: inline, one loop
hands messages on by reference; on processes there are credits (`credits.py`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from perception.messages import Message
from perception.runtime.graph import LOCAL, Graph, NodeSpec
from perception.runtime.group import Group
from perception.runtime.histories import AFTER_ALL
from perception.runtime.node import Bound, Node, Source


@dataclass(frozen=True)
class Again:
    """A source has come to its end and begins again."""


Item = tuple[NodeSpec, str, Message | Bound | Again]


def as_processes(graph: Graph, duration_ns: int | None = None) -> Graph:
    """Return a graph as its processes run it in lockstep.

    On one host: a replay needs no rig. With all sources in one process, so that none runs ahead of another. Without
    pacing: nothing is left out.
    """
    first = next((node.process for node in graph.nodes if node.is_source), "")
    nodes = tuple(
        replace(node, host=LOCAL, paced_by=None, process=first if node.is_source else node.process)
        for node in graph.nodes
    )
    return replace(graph, mode="lockstep", nodes=nodes, network=None, duration_ns=duration_ns)


def source_items(graph: Graph, nodes: Mapping[str, Node], duration_ns: int | None = None) -> Iterator[Item]:
    """Yield (source, topic, item) of all sources among the nodes, by stamp, ties by the sources' order.

    Ends after so much sensor time from the first message.
    """
    first_ns: int | None = None
    for spec, topic, item in merged(graph, nodes):
        if isinstance(item, Message):
            t_ns = item.header.t_sensor_ns
            first_ns = t_ns if first_ns is None else first_ns
            if duration_ns is not None and t_ns - first_ns > duration_ns:
                return
        yield spec, topic, item


def merged(graph: Graph, nodes: Mapping[str, Node]) -> Iterator[Item]:
    """Yield (source, topic, item) of all sources, by stamp, ties by the order of the sources."""

    def keyed(index: int, spec: NodeSpec) -> Iterator[tuple[int, int, int, NodeSpec, str, Message | Bound | Again]]:
        source, t_ns, count = nodes[spec.name], 0, 0
        assert isinstance(source, Source)
        while True:
            for topic, item in source.messages():
                t_ns, count = item.t_ns if isinstance(item, Bound) else item.header.t_sensor_ns, count + 1
                yield t_ns, index, count, spec, topic, item
            if not source.wraps():
                return
            count += 1
            yield t_ns, index, count, spec, "", Again()

    streams = [keyed(index, spec) for index, spec in enumerate(graph.nodes) if spec.is_source and spec.name in nodes]
    for _, _, _, spec, topic, item in heapq.merge(*streams, key=lambda entry: entry[:3]):
        yield spec, topic, item


def give(group: Group, nodes: Mapping[str, Node], spec: NodeSpec, topic: str, item: Message | Bound) -> None:
    """Hand a source's item to its group. A paced source gives all its topics in one order: nothing earlier comes."""
    if isinstance(item, Bound):
        group.source_bound(topic, item.t_ns)
        return
    group.source_message(spec.name, topic, group.sources[spec.name].settled(item))
    if getattr(nodes[spec.name], "paced", False):
        for output in spec.outputs.values():
            group.source_bound(output, item.header.t_sensor_ns)


def end_sources(group: Group, graph: Graph) -> None:
    """Promise that nothing comes any more from the sources of a group."""
    for spec in graph.nodes:
        if spec.name in group.sources:
            for topic in spec.outputs.values():
                group.source_bound(topic, AFTER_ALL)


__all__ = ["Again", "as_processes", "end_sources", "give", "merged", "source_items"]
