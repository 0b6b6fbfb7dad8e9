"""One process of a graph in lockstep.

It does what the inline runner does, with channels in place of references: it runs all that may run, and only then takes
in more; first what others sent, then one message of its own sources. While something that it gave out waits for room,
it takes nothing, but from processes that wait for it in turn, which would stand still for ever else.
"""

from __future__ import annotations

from perception.errors import GraphError
from perception.runtime.graph import Graph
from perception.runtime.lockstep import Again, end_sources, give, source_items
from perception.runtime.lossless_channels import LosslessChannels
from perception.runtime.node import Bound
from perception.runtime.output_stamper import received
from perception.runtime.topology import Topology
from perception.runtime.worker import Worker


class LockstepWorker(Worker):
    """See the module's text; arguments and errors as of `Worker`."""

    _channels: LosslessChannels

    def __init__(self, graph: Graph, topology: Topology, process: str, run: str, epoch: int) -> None:
        super().__init__(graph, topology, process, run, epoch)
        self._topics_from: dict[str, list[str]] = {}
        for topic in self._channels.readers:
            self._topics_from.setdefault(topology.publisher[topic], []).append(topic)
        self._in_turn = topology.in_turn(process)
        self._has_sources = any(spec.is_source for spec in self._specs)
        self._items = source_items(graph, self.nodes, graph.duration_ns)

    def _opened_channels(self, run: str) -> LosslessChannels:
        return LosslessChannels(self.graph, self.topology, self.process, run)

    def _start_sources(self) -> None:
        """Their messages are asked for one by one, by the scheduler itself."""

    def _take_and_run(self) -> bool:
        """Run one call, or give bounds on, or else take in more; False where there was nothing to do."""
        self._channels.take_credits()
        busy = self.group.step() or self.group.forward_bounds() or self._take()
        if self._channels.bounds_moved:
            self._channels.give_bounds()
        return busy

    def _take(self) -> bool:
        is_full, took = not self._channels.has_sent_all(), False
        for process, topics in self._topics_from.items():
            if is_full and process not in self._in_turn:
                continue
            bounds = self._channels.bounds_of(process)  # read first and used last: sent after their messages
            for topic in topics:
                while (record := self._channels.readers[topic].take()) is not None:
                    self._channels.took(topic)
                    self._take_record(topic, record)
                    took = True
            if bounds is not None:
                self._take_bounds(bounds)
                took = True
        self._channels.give_credits()
        return took or (not is_full and self._take_source_item())

    def _take_source_item(self) -> bool:
        if not self._has_sources:
            return False
        item = next(self._items, None)
        if item is None:
            self._has_sources = False
            self._next_status_s = 0.0  # said at once
            end_sources(self.group, self.graph)
            return True
        spec, topic, given = item
        assert not isinstance(given, Again)  # the launcher refuses a log that begins again
        give(self.group, self.nodes, spec, topic, given if isinstance(given, Bound) else received(given))
        return True

    def _take_gap(self, topic: str, lost: int) -> None:
        raise GraphError(f"process '{self.process}' lost {lost} messages of '{topic}'")

    def sources_ended(self) -> bool:
        """True where all sources of this process have given their last message."""
        return not self._has_sources

    def is_idle(self) -> bool:
        """True where every node has finished, and all that they gave out has left this process."""
        with self._driving:
            return self.group.has_ended() and self._channels.has_sent_all()


__all__ = ["LockstepWorker"]
