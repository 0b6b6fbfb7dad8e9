"""Run a whole graph in this process and thread: for lockstep replay, tests and offline use.

Sources are asked in the order of their stamps; after every message the graph runs until nothing moves. Nothing is ever
dropped for lack of time, and in lockstep two runs give equal bytes. Where a log begins again, what waits is run first,
as at an end, and then every node forgets what was.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from perception.messages import Message, NodeStatus
from perception.runtime.graph import Graph, NodeSpec
from perception.runtime.group import Group
from perception.runtime.histories import AFTER_ALL
from perception.runtime.node import Bound, Node, Source
from perception.runtime.node_factory import make_node
from perception.runtime.output_stamper import RunContext


@dataclass
class InlineResult:
    """What a run gave."""

    messages: Counter[str] = field(default_factory=Counter)
    statuses: list[NodeStatus] = field(default_factory=list)


def run_inline(
    graph: Graph,
    *,
    nodes: Mapping[str, Node] | None = None,
    on_message: Callable[[str, Message], None] | None = None,
    stop: threading.Event | None = None,
    run: str = "inline",
    duration_ns: int | None = None,
) -> InlineResult:
    """Run a graph until its sources end.

    Args:
        graph: a checked graph.
        nodes: nodes that are made already, by name, such as fakes; the others are made here.
        on_message: called with (topic, message) of every message, sources' included, in the order of publication.
        stop: ends the run early when set.
        run: the run id for the headers; give the same for runs that shall be equal.
        duration_ns: ends the run after so much sensor time.

    Raises:
        PerceptionError: a node cannot be made, or the graph cannot go on.
    """
    made = dict(nodes or {})
    for spec in graph.nodes:
        if spec.name not in made:
            made[spec.name] = make_node(spec, graph)
    result = InlineResult()

    def emit(topic: str, message: Message) -> None:
        result.messages[topic] += 1
        if on_message is not None:
            on_message(topic, message)

    context = RunContext(
        run=run, calibration=graph.calibration, lockstep=graph.mode == "lockstep", clock_ns=time.time_ns
    )
    group = Group(graph, made, context, emit, lambda topic, t_ns: None)
    first_ns: int | None = None
    for source, topic, message in merged(graph, made):
        if stop is not None and stop.is_set():
            break
        if isinstance(message, Again):
            _end_sources(group, graph)
            group.run_until_idle()
            context.epoch += 1
            group.begin_anew("loop")
        elif isinstance(message, Bound):
            group.source_bound(topic, message.t_ns)
        else:
            t_ns = message.header.t_sensor_ns
            first_ns = t_ns if first_ns is None else first_ns
            if duration_ns is not None and t_ns - first_ns > duration_ns:
                break
            group.source_message(source.name, topic, message)
            _move_bounds(group, graph, made, source, t_ns)
        group.run_until_idle()
    _end_sources(group, graph)
    group.finish()
    result.statuses = [executor.status() for executor in group.executors.values()]
    return result


def _end_sources(group: Group, graph: Graph) -> None:
    for spec in graph.nodes:
        if spec.is_source:
            for topic in spec.outputs:
                group.source_bound(topic, AFTER_ALL)


def _move_bounds(group: Group, graph: Graph, nodes: Mapping[str, Node], source: NodeSpec, t_ns: int) -> None:
    """After a message of a paced source, which gives all its topics in one order, none has anything earlier."""
    if not getattr(nodes[source.name], "paced", False):
        return
    for topic in source.outputs:
        group.source_bound(topic, t_ns)


@dataclass(frozen=True)
class Again:
    """A source has come to its end and begins again."""


Item = Message | Bound | Again


def merged(graph: Graph, nodes: Mapping[str, Node]) -> Iterator[tuple[NodeSpec, str, Item]]:
    """Yield (source, topic, message or bound) of all sources, by stamp, ties by the order of the sources."""

    def keyed(index: int, spec: NodeSpec) -> Iterator[tuple[int, int, int, NodeSpec, str, Item]]:
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

    streams = [keyed(index, spec) for index, spec in enumerate(graph.nodes) if spec.is_source]
    for _, _, _, spec, topic, item in heapq.merge(*streams, key=lambda entry: entry[:3]):
        yield spec, topic, item


__all__ = ["InlineResult", "merged", "run_inline"]
