"""Deadlines of outputs: which instants are owed, which came late, and what planners get in their place.

An instant begins when the reference sensor of an output's path delivers it: the first input of each node, from the
output up to a source. From then the output has `deadline_ms`. A newer output settles all instants before it, since a
planner wants the newest only. When a deadline passes, `on_late` decides:

    publish_partial     nothing at once; what comes late is published as what it is, with `deadline_met` false. Joins on
                        the way go on without members that miss their own deadline, so that what comes may be partial
    skip                nothing; what comes late is dropped
    use_last            the last record again, marked; what comes late is kept for the next time
    fallback NODE       the newest output of another node, marked; what comes late is dropped

Each miss is counted, in the state topic and in the summary. In lockstep nothing is late: there time is the sensors'.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from perception.messages import Header, Message, Odometry
from perception.messages.codec import encode
from perception.runtime.graph import Graph, OutputSpec

OPEN_INSTANTS = 256


@dataclass
class _Path:
    output: OutputSpec
    reference: str
    """The source topic whose arrival begins an instant."""
    open: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=OPEN_INSTANTS))
    """Stamp and host time of arrival of instants that are owed, oldest first."""
    missed_until_ns: int = -1
    """Stamp of the newest instant that was given up."""
    last: Message | None = None
    last_seq: tuple[int, int] = (0, 0)
    """Epoch and seq of the newest output; what stands in bears them, so that it is no gap."""
    substitute: Message | None = None


class Deadlines:
    """Watches the outputs with a deadline of one running graph."""

    def __init__(self, graph: Graph) -> None:
        self.missed: Counter[str] = Counter()
        """By published topic."""
        self._paths = {
            output.topic: _Path(output, reference_topic(graph, output.topic))
            for output in graph.outputs
            if output.deadline_ns is not None
        }
        self._by_reference: dict[str, list[_Path]] = {}
        self._by_substitute: dict[str, list[_Path]] = {}
        for path in self._paths.values():
            self._by_reference.setdefault(path.reference, []).append(path)
            if path.output.fallback_topic:
                self._by_substitute.setdefault(path.output.fallback_topic, []).append(path)

    def seen(self, topic: str, message: Message, now_ns: int) -> None:
        """Take any message of the graph: it may begin an instant, or stand in for an output."""
        for path in self._by_reference.get(topic, ()):
            path.open.append((message.header.t_sensor_ns, message.timing.t_received_ns or now_ns))
        for path in self._by_substitute.get(topic, ()):
            path.substitute = message.keep()

    def arrived(self, topic: str, message: Message) -> bool:
        """Take an output; False where it came too late and is not to be published."""
        path = self._paths.get(topic)
        if path is None:
            return True
        t_ns = message.header.t_sensor_ns
        while path.open and path.open[0][0] <= t_ns:
            path.open.popleft()
        path.last_seq = message.header.epoch, message.header.seq
        late = t_ns <= path.missed_until_ns
        if path.output.on_late == "use_last":
            path.last = message.keep()
        return not late or path.output.on_late == "publish_partial"

    def forget(self) -> None:
        """Owe nothing any more: time stood still, or everything begins anew."""
        for path in self._paths.values():
            path.open.clear()
            path.missed_until_ns, path.last, path.substitute = -1, None, None

    def due(self, now_ns: int) -> Iterator[tuple[OutputSpec, Message | None]]:
        """Yield each output whose deadline has passed since the last call, and what to publish in its place."""
        for path in self._paths.values():
            deadline_ns = path.output.deadline_ns or 0
            passed = [t_ns for t_ns, began_ns in path.open if now_ns - began_ns > deadline_ns]
            if not passed:
                continue
            path.missed_until_ns = max(passed)
            while path.open and path.open[0][0] <= path.missed_until_ns:
                path.open.popleft()
            self.missed[path.output.publish_as] += len(passed)
            yield path.output, self._in_place_of(path)

    def _in_place_of(self, path: _Path) -> Message | None:
        output = path.output
        if output.on_late == "use_last" and path.last is not None:
            return _marked(path.last, f"late: the last {output.publish_as} again")
        if output.on_late == "fallback" and path.substitute is not None:
            epoch, seq = path.last_seq
            header = msgspec.structs.replace(path.substitute.header, epoch=epoch, seq=seq)
            stands_in = msgspec.structs.replace(path.substitute, header=header)
            return _marked(stands_in, f"late: {output.publish_as} from {output.fallback_topic}")
        return None


def stand_ins(graph: Graph) -> set[str]:
    """Return the topics whose messages may be published once more in the place of a late output."""
    again = {output.topic for output in graph.outputs if output.on_late == "use_last"}
    return again | {output.fallback_topic for output in graph.outputs if output.fallback_topic}


def reference_topic(graph: Graph, topic: str) -> str:
    """Return the source topic at the upper end of an output's path; ego motion begins no instant."""
    publisher = {published: node for node in graph.nodes for published in node.outputs.values()}
    seen: set[str] = set()
    while topic in publisher and topic not in seen:
        seen.add(topic)
        node = publisher[topic]
        edges = [edge for edge in node.edges if edge.message_type is not Odometry]
        if node.is_source or not edges:
            return topic
        topic = edges[0].topic
    return topic


def _marked(message: Message, reason: str) -> Message:
    header: Header = msgspec.structs.replace(message.header, degraded=(*message.header.degraded, reason))
    timing = msgspec.structs.replace(message.timing, deadline_met=False)
    return msgspec.structs.replace(message, header=header, timing=timing)


def record_of(message: Message, now_ns: int) -> bytes:
    """Return a stand-in as it is published."""
    timing = msgspec.structs.replace(message.timing, t_published_ns=now_ns)
    return encode(msgspec.structs.replace(message, timing=timing)).to_bytes()


__all__ = ["Deadlines", "record_of", "reference_topic", "stand_ins"]
