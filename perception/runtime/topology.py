"""Who reads what, between the processes of a graph: computed once from the graph, the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perception.runtime.deadlines import reference_topic
from perception.runtime.graph import LOCAL, Edge, Graph, NodeSpec
from perception.runtime.node import Every, Join, Lookup
from perception.runtime.node_factory import node_class
from perception.runtime.pacing import paced_readers
from perception.runtime.shared_memory import TopicLimits

LAUNCHER = "launcher"
"""The process that publishes, records and watches; it reads like any other."""
WAITING = 16
"""Records that wait for the launcher, by topic."""
LOCKSTEP_WAITING = 8
"""Records that wait for a process in lockstep, by topic; so far its source may be ahead of it."""
LOOKUP_WAITING = 128


def status_topic(process: str) -> str:
    """Return the channel on which a process says how it is doing."""
    return f"status/{process}"


@dataclass(frozen=True)
class Reading:
    """How one process reads one topic of another."""

    topic: str
    buffer: int
    borrowed: int


@dataclass(frozen=True)
class Topology:
    """The channels of a graph.

    Attributes:
        publisher: process by topic.
        readers: processes that read a topic from outside the process that publishes it.
        readings: by process, what it reads from others.
        reads_bounds: by process, the other processes whose bounds it waits for.
        topics: all topics of the graph, in the order of their rank; bounds travel as a row of these.
        hosts: host by process, the launcher's too; what crosses hosts goes over TCP, all else through shared memory.
    """

    publisher: Mapping[str, str]
    readers: Mapping[str, tuple[str, ...]]
    readings: Mapping[str, tuple[Reading, ...]]
    reads_bounds: Mapping[str, frozenset[str]]
    topics: tuple[str, ...]
    hosts: Mapping[str, str]

    def near_readers(self, topic: str) -> tuple[str, ...]:
        """Return the readers of a topic on its publisher's host."""
        host = self.hosts[self.publisher[topic]]
        return tuple(process for process in self.readers.get(topic, ()) if self.hosts[process] == host)

    def far_readers(self, process: str) -> dict[str, int]:
        """Return how many readers on other hosts each topic of a process has, for topics that have any."""
        found = {
            topic: len(self.readers.get(topic, ())) - len(self.near_readers(topic))
            for topic, publisher in self.publisher.items()
            if publisher == process
        }
        return {topic: count for topic, count in found.items() if count}

    def far_readings(self, process: str) -> dict[str, dict[str, int]]:
        """Return what a process reads on other hosts: by publishing process, topics with the records that may wait."""
        found: dict[str, dict[str, int]] = {}
        for reading in self.readings.get(process, ()):
            publisher = self.publisher[reading.topic]
            if self.hosts[publisher] != self.hosts[process]:
                found.setdefault(publisher, {})[reading.topic] = reading.buffer
        return found

    def bounds_readers(self, process: str, *, far: bool) -> list[str]:
        """Return the processes that wait for this one's bounds, on other hosts or on its own."""
        return [
            other
            for other, sources in self.reads_bounds.items()
            if process in sources and (self.hosts[other] != self.hosts[process]) == far
        ]

    def far_sources(self, process: str) -> frozenset[str]:
        """Return the processes on other hosts that this one reads, records or bounds."""
        others = {*self.far_readings(process), *self.reads_bounds.get(process, ())}
        return frozenset(other for other in others if self.hosts[other] != self.hosts[process])

    def waiting(self, topic: str) -> dict[str, int]:
        """Return how many records of a topic may wait for each process that reads it."""
        return {
            reader: next(reading.buffer for reading in self.readings[reader] if reading.topic == topic)
            for reader in self.readers.get(topic, ())
        }

    def in_turn(self, process: str) -> frozenset[str]:
        """Return the processes that read this one, directly or not, and are read by it."""
        return frozenset(other for other in self._downstream(process) - {process} if process in self._downstream(other))

    def _downstream(self, process: str) -> frozenset[str]:
        found: set[str] = set()
        pending = [process]
        while pending:
            upstream = pending.pop()
            near = {name for of, by in self.publisher.items() if by == upstream for name in self.readers.get(of, ())}
            pending += near - found
            found |= near
        return frozenset(found)

    def distance(self, process: str) -> int:
        """Return how many channels a record of the nearest source crosses to come to a process; 0 where none comes."""
        distance, reached = 0, {process}
        while feeding := {self.publisher[of.topic] for name in reached for of in self.readings.get(name, ())} - reached:
            reached |= feeding
            distance += 1
            if any(not self.readings.get(name) for name in feeding):
                break
        return distance

    def limits(self) -> dict[str, TopicLimits]:
        """Return what each topic's service must hold."""
        found: dict[str, TopicLimits] = {}
        for readings in self.readings.values():
            for reading in readings:
                before = found.get(reading.topic, TopicLimits(0, 1, 1))
                found[reading.topic] = TopicLimits(
                    before.readers + 1, max(before.buffer, reading.buffer), max(before.borrowed, reading.borrowed)
                )
        return found

    def processes(self) -> int:
        """Count the processes, the launcher included."""
        return len(set(self.publisher.values()) | set(self.readings) | {LAUNCHER})


def distance_to_keep(graph: Graph, topology: Topology, process: str) -> int | None:
    """Return a process' distance, by which its threads keep off the cores of its neighbours; None where they shall not.

    Where `cores` is given that counts. Sources beside other nodes are left alone: what these compute may need the same
    core.
    """
    specs = graph.processes()[process]
    is_mixed = len({spec.is_source for spec in specs}) > 1
    if is_mixed or any(spec.cores for spec in specs) or graph.mode == "lockstep":
        return None
    return topology.distance(process)


def topology_of(graph: Graph, *, recorded: bool = False) -> Topology:
    """Work out the channels of a graph; `recorded`: the launcher reads every topic."""
    publisher = {topic: node.process for node in graph.nodes for topic in node.outputs.values()}
    readings: dict[str, dict[str, Reading]] = {}
    for node in graph.nodes:
        for edge in node.edges:
            if publisher.get(edge.topic) != node.process:
                reading = _reading(node, edge, lockstep=graph.mode == "lockstep")
                _widen(readings.setdefault(node.process, {}), reading)
    watched = set(publisher) if recorded else {output.topic for output in graph.outputs} & set(publisher)
    watched |= {output.fallback_topic for output in graph.outputs if output.fallback_topic in publisher}
    watched |= {reference_topic(graph, output.topic) for output in graph.outputs if output.deadline_ns} & set(publisher)
    watched |= {topic for sensor in graph.sensors for topic in sensor.topics if topic in publisher}
    launcher = readings.setdefault(LAUNCHER, {})
    for topic in watched:
        launcher[topic] = Reading(topic, WAITING, WAITING + 4)
    for process in graph.processes():
        topic = status_topic(process)
        publisher[topic] = process
        launcher[topic] = Reading(topic, 4, 8)
    readers: dict[str, list[str]] = {}
    for process, by_topic in readings.items():
        for topic in by_topic:
            readers.setdefault(topic, []).append(process)
    return Topology(
        publisher=publisher,
        readers={topic: tuple(names) for topic, names in readers.items()},
        readings={process: tuple(by_topic.values()) for process, by_topic in readings.items()},
        reads_bounds=_reads_bounds(graph, publisher),
        topics=tuple(graph.message_types),
        hosts={**graph.hosts(), LAUNCHER: LOCAL},
    )


def _reading(node: NodeSpec, edge: Edge, *, lockstep: bool) -> Reading:
    """Live queues drop in the executor; the channel holds a little more, so that what is dropped is counted there."""
    port = node_class(node.target).inputs().get(edge.input.partition(".")[0])
    if isinstance(port, Lookup):
        # small messages at a high rate, all of which are wanted
        return Reading(edge.topic, LOOKUP_WAITING, LOOKUP_WAITING + 32)
    if lockstep:
        return Reading(edge.topic, LOCKSTEP_WAITING, 3 * LOCKSTEP_WAITING + edge.holds)
    if isinstance(port, Join):
        return Reading(edge.topic, 16, 64)
    buffer = 2 if edge.keep == "latest" else max(2, edge.bound)
    return Reading(edge.topic, buffer, buffer + edge.bound + edge.holds + 2)


def _widen(by_topic: dict[str, Reading], reading: Reading) -> None:
    before = by_topic.get(reading.topic, reading)
    by_topic[reading.topic] = Reading(
        reading.topic, max(before.buffer, reading.buffer), max(before.borrowed, reading.borrowed)
    )


def _reads_bounds(graph: Graph, publisher: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """A process reads bounds of those it reads from, where anything waits, and of what paces its sources."""
    wants = _wants_bounds(graph)
    found: dict[str, set[str]] = {}
    for node in graph.nodes:
        if node.paced_by is not None:
            found.setdefault(node.process, set()).update(reader.process for reader in paced_readers(node, graph))
        for edge in node.edges:
            if node.process in wants and edge.topic in publisher:
                found.setdefault(node.process, set()).add(publisher[edge.topic])
    return {process: frozenset(others - {process}) for process, others in found.items()}


def _wants_bounds(graph: Graph) -> set[str]:
    """Return the processes with a node that waits for bounds, and those upstream of it, which must give them on."""
    waiting = {
        node.name
        for node in graph.nodes
        if any(isinstance(port, Join | Lookup | Every) for port in node_class(node.target).inputs().values())
    }
    waiting |= {reader.name for node in graph.nodes for reader in paced_readers(node, graph)}
    if graph.mode == "lockstep":
        waiting = {node.name for node in graph.nodes}
    publisher = {topic: node for node in graph.nodes for topic in node.outputs.values()}
    pending = list(waiting)
    while pending:
        for edge in graph.node(pending.pop()).edges:
            upstream = publisher.get(edge.topic)
            if upstream is not None and upstream.name not in waiting:
                waiting.add(upstream.name)
                pending.append(upstream.name)
    return {graph.node(name).process for name in waiting}


__all__ = ["LAUNCHER", "Reading", "Topology", "distance_to_keep", "status_topic", "topology_of"]
