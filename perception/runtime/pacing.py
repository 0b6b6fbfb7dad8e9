"""Pacing: the slowest branch of a graph chooses the instants that a source gives out, for all its readers alike.

Where branches of one instant meet again, each taking the newest on its own would leave nothing to meet. So the source
holds its newest instant back until the node named by `paced_by` has finished with the one before. Readiness travels as
a bound: the source promises "nothing before t", and the node's own bound reaches t only when it has nothing left to do.
No clock is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from perception.messages import EventPacket, Image, Message, PointCloud
from perception.runtime.graph import Graph, NodeSpec
from perception.runtime.group import Group
from perception.runtime.histories import BEFORE_ALL

Item = tuple[str, Message]


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
        self._window_ns: tuple[int, int] = (BEFORE_ALL, BEFORE_ALL)
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
        if topic in self._references:
            if self._instant is not None:
                self.held_back[self._instant[0]] += 1
            self._instant = (topic, message)
            return []
        if topic not in self._others:
            return [(topic, message)]
        start, end = self._window_ns
        if start <= t_ns <= end:
            return [(topic, message)]
        if topic in self._held:
            self.held_back[topic] += 1
        self._held[topic] = message
        return []

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
        half = max([self._half_ns.get(topic, 0) for topic in (instant[0], *self._held)], default=0)
        self._window_ns = (t_ns - half, t_ns + half)
        for topic in sorted(self._held):
            message = self._held.pop(topic)
            if abs(message.header.t_sensor_ns - t_ns) <= half:
                out.append((topic, message))
            else:
                self.held_back[topic] += 1
        return sorted(out, key=lambda item: item[1].header.t_sensor_ns)

    def bound_ns(self, topic: str, newest_ns: int) -> int:
        """Return the stamp below which nothing of a topic goes out any more, `newest_ns` being the source's newest."""
        if topic in self._references:
            return newest_ns if self._instant is None else self._instant[1].header.t_sensor_ns
        if topic in self._held:
            return self._held[topic].header.t_sensor_ns
        return newest_ns


class PacedSource:
    """A paced source in its process: what it measures goes into the pacer, what the pacer admits goes out."""

    def __init__(self, spec: NodeSpec, graph: Graph) -> None:
        assert spec.paced_by is not None
        self.spec, self.paced_by = spec, spec.paced_by
        pacing_node = graph.node(spec.paced_by)
        references = {edge.topic for edge in pacing_node.edges} & set(spec.outputs.values())
        frames = {
            topic
            for topic in spec.outputs.values()
            if issubclass(graph.message_types[topic], Image | PointCloud | EventPacket)
        }
        self.pacer = Pacer(references, frames - references)
        self._answer = next(iter(pacing_node.outputs.values()))
        self._free: list[Item] = []
        self._newest_ns = BEFORE_ALL

    def offer(self, topic: str, message: Message) -> None:
        """Take what the source measured."""
        self._newest_ns = max(self._newest_ns, message.header.t_sensor_ns)
        self._free += self.pacer.offer(topic, message)

    def release(self, group: Group, bounds: Sequence[int], ranks: Mapping[str, int]) -> bool:
        """Publish what may go out, and the bounds; True where a message went."""
        ready_ns = max(bounds[ranks[self._answer]], group.bound_of(self._answer))
        items, self._free = [*self._free, *self.pacer.admit(ready_ns)], []
        for topic, message in items:
            group.source_message(self.spec.name, topic, message)
        for topic in self.spec.outputs.values():
            group.source_bound(topic, self.pacer.bound_ns(topic, self._newest_ns))
        return bool(items)


__all__ = ["PacedSource", "Pacer"]
