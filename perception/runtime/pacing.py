"""Pacing: the slowest branch of a graph chooses the instants that a source gives out, for all its readers alike.

Where branches of one instant meet again, each taking the newest on its own would leave nothing to meet. So the source
holds its newest instant back until the node named by `paced_by` has finished with the one before. Readiness travels as
a bound: the source promises "nothing before t", and the node's own bound reaches t only when it has nothing left to do.
No clock is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set

from perception.messages import EventPacket, Image, Message, PointCloud
from perception.runtime.graph import Graph, NodeSpec
from perception.runtime.group import Group
from perception.runtime.histories import AFTER_ALL, BEFORE_ALL
from perception.runtime.inputs import CLOCK_JUMP_NS
from perception.runtime.node import Join, On
from perception.runtime.node_factory import node_class

Item = tuple[str, Message]

HALF_NS = 100_000_000
"""Half a period of a topic that has given only one message yet."""
REFERENCES_LOST_NS = 1_000_000_000
"""Where what makes the instants is silent for so long, as when the LiDAR is unplugged, another topic makes them."""
PATIENCE_NS = 2_000_000_000
LONGEST_NS = 20_000_000_000


class Pacer:
    """Holds one source's newest instant.

    Args:
        references: topics of the source that the pacing node reads; they make an instant.
        others: the source's other topics; of each, the message nearest to the instant goes with it. Odometry and truth
            that nothing else waits for should not be held: leave them out.
    """

    def __init__(self, references: Collection[str], others: Collection[str]) -> None:
        self._references, self._others = frozenset(references), frozenset(others)
        self._instant: Item | None = None
        self._held: dict[str, Message] = {}
        self._admitted_ns: int | None = None
        self._stand_in: str | None = None
        """The topic that makes the instants while the references are silent."""
        self._reference_ns: int | None = None
        """Stamp of the last message of a reference, or of the first message of all."""
        self._half_ns: dict[str, int] = {}
        self._last_ns: dict[str, int] = {}
        self.held_back: Counter[str] = Counter()
        """Messages by topic that no instant took."""

    def offer(self, topic: str, message: Message) -> list[Item]:
        """Take a message and return what may go out at once: what is not paced, or belongs to the admitted instant."""
        t_ns = message.header.t_sensor_ns
        if topic in self._last_ns and t_ns > self._last_ns[topic]:
            self._half_ns[topic] = (t_ns - self._last_ns[topic]) // 2
        self._last_ns[topic] = t_ns
        if self._makes_instants(topic, t_ns):
            if self._instant is not None:
                self.held_back[self._instant[0]] += 1
            self._instant = (topic, message)
            return []
        if topic not in self._others:
            return [(topic, message)]
        if self._belongs(topic, t_ns):
            return [(topic, message)]
        if topic in self._held:
            self.held_back[topic] += 1
        self._held[topic] = message
        return []

    def _makes_instants(self, topic: str, t_ns: int) -> bool:
        """True for a reference, and for the first other topic that finds all references silent, until one speaks."""
        if topic in self._references:
            self._stand_in, self._reference_ns = None, t_ns
        elif topic in self._others:
            self._reference_ns = t_ns if self._reference_ns is None else self._reference_ns
            if self._stand_in is None and t_ns - self._reference_ns > REFERENCES_LOST_NS:
                self._stand_in = topic
        return topic in self._references or topic == self._stand_in

    def _belongs(self, topic: str, t_ns: int) -> bool:
        """True within half a period of the topic around the admitted instant: one message is, the nearest."""
        half_ns = self._half_ns.get(topic, HALF_NS)
        return self._admitted_ns is not None and -half_ns <= t_ns - self._admitted_ns < half_ns

    def forget(self) -> None:
        """Count what waits as held back, and begin anew."""
        self.held_back.update([self._instant[0]] if self._instant is not None else [])
        self.held_back.update(self._held.keys())
        self._instant, self._admitted_ns = None, None
        self._stand_in, self._reference_ns = None, None
        self._held.clear()
        self._half_ns.clear()
        self._last_ns.clear()

    def promised_ns(self) -> int | None:
        """Return the stamp of the instant that waits: nothing of the references comes before it; None without one."""
        return None if self._instant is None else self._instant[1].header.t_sensor_ns

    def admit(self, ready_ns: int) -> list[Item]:
        """Return the waiting instant, if the pacing node has finished with everything before it.

        Args:
            ready_ns: the pacing node's bound: nothing below it will come out of it any more.
        """
        if self._instant is None or ready_ns < self._instant[1].header.t_sensor_ns:
            return []
        instant, self._instant = self._instant, None
        t_ns = instant[1].header.t_sensor_ns
        out = [instant]
        self._admitted_ns = t_ns
        for topic in sorted(self._held):
            message = self._held.pop(topic)
            if self._belongs(topic, message.header.t_sensor_ns):
                out.append((topic, message))
            else:
                self.held_back[topic] += 1
        return sorted(out, key=lambda item: item[1].header.t_sensor_ns)

    def has_ended(self, ended: Set[str]) -> bool:
        """Return whether nothing goes out any more, once the source has no more of some topics.

        What is held back then finds no instant.
        """
        return self._instant is None and self._references <= ended

    def bound_ns(self, topic: str, newest_ns: int) -> int:
        """Return the stamp below which nothing of a topic goes out any more, `newest_ns` being the source's newest."""
        if topic in self._references or topic == self._stand_in:
            return newest_ns if self._instant is None else self._instant[1].header.t_sensor_ns
        if topic in self._held:
            return self._held[topic].header.t_sensor_ns
        return newest_ns


class _Reader:
    """A node that reads paced topics, and whether it has finished with what it was given."""

    def __init__(self, node: NodeSpec, paced: Collection[str]) -> None:
        self.outputs = tuple(node.outputs.values())
        self.topics = frozenset(edge.topic for edge in node.edges) & frozenset(paced)
        self.given_ns = BEFORE_ALL
        """Stamp of the newest message that it was given."""
        self.given_up_at_ns: int | None = None
        """Its bound when it was found to have stopped; it is waited for again when that moves."""

    def is_ready(self, bound_ns: int) -> bool:
        if self.given_up_at_ns is not None:
            if bound_ns == self.given_up_at_ns:
                return True
            self.given_up_at_ns = None
        return self.given_ns == BEFORE_ALL or bound_ns > self.given_ns


class PacedSource:
    """A paced source in its process: what it measures goes into the pacer, what the pacer admits goes out.

    An instant is admitted when every node that reads paced topics has finished with the one before: the slowest is
    `paced_by`, and where another is slower for a while, it is waited for as well, so that no branch misses an instant.
    A node that has stopped (its process is being restarted) is given up after `PATIENCE_NS` of sensor time, or three
    times the longest it ever took, until it moves again: the rest of the graph goes on.
    """

    def __init__(self, spec: NodeSpec, graph: Graph) -> None:
        assert spec.paced_by is not None
        self.spec, self.paced_by = spec, spec.paced_by
        references = instant_topics(spec, graph)
        frames = paced_topics(spec, graph)
        self.pacer = Pacer(references, frames - references)
        self._readers = [_Reader(node, frames | references) for node in paced_readers(spec, graph)]
        self._free: list[Item] = []
        self._ended: set[str] = set()
        self._newest_ns = BEFORE_ALL
        self._admitted_ns: int | None = None
        self._longest_ns = 0

    def offer(self, topic: str, message: Message) -> None:
        """Take what the source measured; where its clock was set back, begin anew."""
        if message.header.t_sensor_ns < self._newest_ns - CLOCK_JUMP_NS:
            self._forget()
        self._newest_ns = max(self._newest_ns, message.header.t_sensor_ns)
        self._free += self.pacer.offer(topic, message)

    def end(self, topic: str) -> None:
        """Take that the source has no more of a topic."""
        self._ended.add(topic)

    def begin_anew(self) -> None:
        """Give up what waits, and wait for nobody."""
        self.pacer.held_back.update(topic for topic, _ in self._free)
        self._free.clear()
        self._forget()

    def _forget(self) -> None:
        self.pacer.forget()
        self._ended.clear()
        self._newest_ns, self._admitted_ns, self._longest_ns = BEFORE_ALL, None, 0
        for reader in self._readers:
            reader.given_ns, reader.given_up_at_ns = BEFORE_ALL, None

    def release(self, group: Group, bounds: Sequence[int], ranks: Mapping[str, int]) -> bool:
        """Publish what may go out, and the bounds; True where a message went."""
        items, self._free = self._free, []
        if self._all_ready(group, bounds, ranks):
            admitted = self.pacer.admit(self._newest_ns)
            if admitted:
                self._longest_ns = max(self._longest_ns, min(self._waited_ns(), LONGEST_NS))
                self._admitted_ns = self._newest_ns
            items = [*items, *admitted]
        for topic, message in items:
            for reader in self._readers:
                if topic in reader.topics:
                    reader.given_ns = max(reader.given_ns, message.header.t_sensor_ns)
            group.source_message(self.spec.name, topic, message)
        for topic in self.spec.outputs.values():
            done = topic in self._ended and self.pacer.has_ended(self._ended)
            group.source_bound(topic, AFTER_ALL if done else self.pacer.bound_ns(topic, self._newest_ns))
        return bool(items)

    def _all_ready(self, group: Group, bounds: Sequence[int], ranks: Mapping[str, int]) -> bool:
        patient = self._waited_ns() <= max(PATIENCE_NS, 3 * self._longest_ns)
        ready = True
        for reader in self._readers:
            bound_ns = min(max(bounds[ranks[topic]], group.bound_of(topic)) for topic in reader.outputs)
            if not reader.is_ready(bound_ns):
                if patient:
                    ready = False
                else:
                    reader.given_up_at_ns = bound_ns
        return ready

    def _waited_ns(self) -> int:
        return 0 if self._admitted_ns is None else self._newest_ns - self._admitted_ns


def instant_topics(spec: NodeSpec, graph: Graph) -> frozenset[str]:
    """Return the topics of a source that make an instant: what the first input of its pacing node reads of it.

    Of a join that is the reference; what is looked up makes no instant, however often it comes.
    """
    assert spec.paced_by is not None
    node, outputs = graph.node(spec.paced_by), set(spec.outputs.values())
    for name, port in node_class(node.target).inputs().items():
        if isinstance(port, On | Join):
            place = name if isinstance(port, On) else f"{name}.{next(iter(port.members))}"
            found = {edge.topic for edge in node.edges if edge.input == place} & outputs
            if found:
                return frozenset(found)
    return frozenset({edge.topic for edge in node.edges} & outputs)


def paced_topics(spec: NodeSpec, graph: Graph) -> frozenset[str]:
    """Return the topics of a source that come in instants: sweeps, pictures, events; not the truth of a simulator."""
    kinds = (Image, PointCloud, EventPacket)
    return frozenset(
        topic
        for topic in spec.outputs.values()
        if issubclass(graph.message_types[topic], kinds) and not topic.startswith("truth/")
    )


def paced_readers(spec: NodeSpec, graph: Graph) -> tuple[NodeSpec, ...]:
    """Return the node that paces a source, and the others that take its instants one by one."""
    if spec.paced_by is None:
        return ()
    topics = paced_topics(spec, graph)
    found = [graph.node(spec.paced_by)]
    for node in graph.nodes:
        if node is found[0] or not node.outputs:
            continue
        ports = node_class(node.target).inputs()
        if any(edge.topic in topics and isinstance(ports.get(edge.input), On) for edge in node.edges):
            found.append(node)
    return tuple(found)


__all__ = ["PacedSource", "Pacer", "instant_topics", "paced_readers"]
