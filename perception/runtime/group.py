"""The nodes of one process: they run one after the other in one thread, and hand messages to each other by reference.

The runner gives what comes from outside to `offer` and `bound`, calls `step`, and is called back with every message and
bound that the group's nodes give out, for channels, publisher and recorder.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from perception.messages import Message
from perception.runtime.executor import NodeExecutor
from perception.runtime.graph import Graph, NodeSpec
from perception.runtime.histories import AFTER_ALL, BEFORE_ALL
from perception.runtime.inputs import CLOCK_JUMP_NS
from perception.runtime.node import Node
from perception.runtime.output_stamper import OutputStamper, RunContext
from perception.runtime.places import Places
from perception.runtime.sensor_states import SensorMarks, SensorsBehind

Emit = Callable[[str, Message], None]
EmitBound = Callable[[str, int], None]
Announce = Callable[[Iterable[str]], None]


class Group:
    """See the module's text.

    Args:
        graph: the whole graph; ranks of topics come from it.
        nodes: the nodes of this process by name; sources among them only stamp what they are given.
        context: what all outputs have in common.
        emit: called with each message that a node of the group published.
        emit_bound: called with each bound that a node of the group moved on.
        announce: called with the topics on which a call that begins is expected to give out something in a moment.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Mapping[str, Node],
        context: RunContext,
        emit: Emit,
        emit_bound: EmitBound,
        announce: Announce | None = None,
    ) -> None:
        ranks = {topic: rank for rank, topic in enumerate(graph.message_types)}
        specs = [spec for spec in graph.nodes if spec.name in nodes]
        behind, self._marks = SensorsBehind(graph), SensorMarks(graph)
        self._emit, self._emit_bound = emit, emit_bound
        self.executors = {
            spec.name: NodeExecutor(spec, nodes[spec.name], ranks, context, behind, announce)
            for spec in downstream_first(specs)
            if not spec.is_source
        }
        self.sources = {spec.name: OutputStamper(spec, context) for spec in specs if spec.is_source}
        self._readers: dict[str, list[NodeExecutor]] = {}
        for executor in self.executors.values():
            for topic in dict.fromkeys(edge.topic for edge in executor.spec.edges):
                self._readers.setdefault(topic, []).append(executor)
        self._given_bounds: dict[str, int] = {}

    def offer(self, topic: str, message: Message) -> None:
        """Take a message from outside, or from a node of the group."""
        for executor in self._readers.get(topic, ()):
            executor.offer(topic, message)

    def place_outputs(
        self,
        nodes: Mapping[str, Node],
        places_of: Callable[[NodeSpec, threading.Lock], Places],
        driving: threading.Lock,
    ) -> None:
        """Let nodes make arrays in shared memory; sources do it where nobody else uses the channels."""
        stampers = [executor.stamper for executor in self.executors.values()]
        for stamper in (*stampers, *self.sources.values()):
            stamper.places = places_of(stamper.spec, driving)
            nodes[stamper.spec.name].placed_in(stamper.places)

    def count_drop(self, topic: str, reason: str, count: int) -> None:
        """Count messages that were lost before they reached the readers of a topic."""
        for executor in self._readers.get(topic, ()):
            executor.counters[topic].drop(reason, count)

    def bound(self, topic: str, t_ns: int) -> None:
        """Take a bound from outside."""
        for executor in self._readers.get(topic, ()):
            executor.bound(topic, t_ns)

    def source_message(self, source: str, topic: str, message: Message) -> None:
        """Publish a message that a source of the group measured."""
        self._publish(topic, self.sources[source].stamp(topic, self._marks.marked(topic, message)))

    def source_bound(self, topic: str, t_ns: int) -> None:
        """Move on the bound of a source's topic."""
        self._give_bound(topic, t_ns)

    def _give_bound(self, topic: str, t_ns: int) -> bool:
        if not self._has_moved(topic, t_ns):
            return False
        self._given_bounds[topic] = t_ns
        self.bound(topic, t_ns)
        self._emit_bound(topic, t_ns)
        return True

    def _has_moved(self, topic: str, t_ns: int) -> bool:
        """True where a bound went on, or far back, as after a clock was set back."""
        given_ns = self._given_bounds.get(topic, BEFORE_ALL)
        return t_ns > given_ns or BEFORE_ALL < t_ns < given_ns - CLOCK_JUMP_NS

    def step(self) -> bool:
        """Run at most one call of one node, the one farthest downstream that may run; False when none may."""
        for executor in self.executors.values():
            outputs = executor.run_next()
            if outputs is not None:
                for topic, message in outputs:
                    self._publish(topic, message)
                return True
        return False

    def settle(self) -> None:
        """Count what the last calls took; for when there is time."""
        for executor in self.executors.values():
            executor.settle()

    def forward_bounds(self) -> bool:
        """Give on the bounds of all nodes, upstream first; True where one moved."""
        moved = False
        for executor in reversed(self.executors.values()):
            t_ns = executor.output_bound()
            for topic in executor.spec.outputs.values():
                if t_ns == AFTER_ALL and self.bound_of(topic) < AFTER_ALL:
                    self._give_bound(topic, executor.last_bound())  # what ends also says when, for readers' ticks
                moved |= self._give_bound(topic, t_ns)
        return moved

    def run_until_idle(self) -> None:
        """Run all that may run, and give bounds on, until nothing moves any more."""
        while True:
            while self.step():
                pass
            if not self.forward_bounds():
                self.settle()
                return

    def finish(self) -> None:
        """Run what is left and then `finish` of each node, upstream first."""
        self.run_until_idle()
        for executor in reversed(self.executors.values()):
            for topic, message in executor.finish():
                self._publish(topic, message)
            self.run_until_idle()

    def bound_of(self, topic: str) -> int:
        """Return the bound that this group has given on for a topic of its own."""
        return self._given_bounds.get(topic, BEFORE_ALL)

    def has_ended(self) -> bool:
        """True where every node has finished, in lockstep."""
        return all(executor.has_finished for executor in self.executors.values())

    def is_idle(self) -> bool:
        """True where no message waits to be run."""
        return all(executor.is_idle() for executor in self.executors.values())

    def is_quick(self) -> bool:
        """True where the last call of every node was quick and gave out something."""
        return all(executor.is_quick for executor in self.executors.values())

    def is_light(self) -> bool:
        """True where the last call of some node was quick, whether it gave out something or not."""
        return any(executor.is_light for executor in self.executors.values())

    def begin_anew(self, reason: str) -> None:
        """Forget what belongs to the past, in all nodes, after a seek or a loop; what waits is counted as dropped."""
        self._given_bounds.clear()
        for executor in self.executors.values():
            executor.forget(reason, reason)
            executor.stamper.begin_anew()
        for stamper in self.sources.values():
            stamper.begin_anew()

    def _publish(self, topic: str, message: Message) -> None:
        self._emit(topic, message)
        if topic in self._readers:
            self.offer(topic, message)


def downstream_first(specs: Sequence[NodeSpec]) -> list[NodeSpec]:
    """Return the nodes so that each stands before those whose outputs it reads; the order of the file breaks ties."""
    publisher = {topic: spec for spec in specs for topic in spec.outputs.values()}
    order: list[NodeSpec] = []
    visiting: set[str] = set()

    def visit(spec: NodeSpec) -> None:
        if spec in order or spec.name in visiting:
            return
        visiting.add(spec.name)
        for edge in spec.edges:
            if edge.topic in publisher:
                visit(publisher[edge.topic])
        order.append(spec)

    for spec in specs:
        visit(spec)
    return order[::-1]


__all__ = ["Group", "downstream_first"]
