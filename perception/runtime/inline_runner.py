"""Run a whole graph in this process and thread: for lockstep replay, tests and offline use.

Sources are asked in the order of their stamps; after every message the graph runs until nothing moves. Nothing is ever
dropped for lack of time, and in lockstep two runs give equal bytes. Where a log begins again, what waits is run first,
as at an end, and then every node forgets what was.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from perception.messages import Message, NodeStatus
from perception.runtime.graph import Graph
from perception.runtime.group import Group
from perception.runtime.lockstep import Again, end_sources, give, source_items
from perception.runtime.node import Node
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
    for source, topic, item in source_items(graph, made, duration_ns):
        if stop is not None and stop.is_set():
            break
        if isinstance(item, Again):
            end_sources(group, graph)
            group.run_until_idle()
            context.epoch += 1
            group.begin_anew("loop")
            continue
        give(group, made, source, topic, item)
        group.run_until_idle()
    end_sources(group, graph)
    group.finish()
    result.statuses = [executor.status() for executor in group.executors.values()]
    return result


__all__ = ["InlineResult", "run_inline"]
