"""What one process reads and writes: shared memory with who is on its host, TCP with who is not.

The nodes' side sees one kind of reading end, one `emit` for messages and one row of bounds; where the other end is, is
decided here, once, from the topology.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from perception.errors import ChannelError
from perception.messages import Header, LinkStatus, Message
from perception.messages.codec import Record, encode
from perception.runtime.graph import Graph, NodeSpec
from perception.runtime.histories import AFTER_ALL, BEFORE_ALL
from perception.runtime.ownership import on_host
from perception.runtime.places import Places, SourcePlaces
from perception.runtime.shared_memory import Reader, RowReader, SharedMemoryHost, Writer, memory_id
from perception.runtime.tcp_edges import TcpBounds, TcpReader, TcpTopic, TcpWriter
from perception.runtime.topology import LAUNCHER, Topology
from perception.runtime.wakeups import Waker

REFUSED_TOLD_S = 10.0
"""How long a record that could not be written degrades the graph."""


class Channels:
    """The channels of one process. Not for two threads at once, but for `wake` and `sleep`.

    Args:
        graph: the whole graph, for addresses.
        topology: its channels.
        process: the name of this process.
        run: the run id.
        epoch: how often this process began before.

    Raises:
        ChannelError: shared memory or the network cannot be used.
    """

    def __init__(self, graph: Graph, topology: Topology, process: str, run: str, epoch: int = 0) -> None:
        self.process, self._topology, self._host = process, topology, topology.hosts[process]
        place = memory_id(run, graph.host_index(self._host))
        self._memory = SharedMemoryHost(place, process, topology.limits(), topology.processes())
        self._known_wakers: dict[str, Waker] = {}
        self.sleeper = self._memory.sleeper(process)
        self.wake, self.sleep = self._waker(process).wake, self.sleeper.sleep
        self.rank = {topic: rank for rank, topic in enumerate(topology.topics)}
        self.bounds_moved = False
        self._refused: Counter[str] = Counter()
        self._refused_s = 0.0
        self._bounds = [BEFORE_ALL] * (2 * len(topology.topics))
        """The newest bounds of this process' topics, and in the second half `AFTER_ALL` for those that have ended."""
        self._epoch, self._epochs = epoch, dict[str, int]()
        self._open_writers(graph)
        self._open_readers()

    def _open_writers(self, graph: Graph) -> None:
        topology, process = self._topology, self.process
        published = [topic for topic, publisher in topology.publisher.items() if publisher == process]
        near = {topic: topology.near_readers(topic) for topic in published}
        self._writers = {topic: self._memory.writer(topic) for topic in published if near[topic]}
        self._wakers = {topic: [self._waker(other) for other in near[topic]] for topic in published}
        self._waiting = {
            topic: [self._waker(other) for other in near[topic] if other != LAUNCHER] for topic in published
        }
        """Who is told that a record of a topic comes: all near readers but the launcher, which is never in a hurry."""
        self._answered = {topic: self._answers_to(graph, topic) for topic in published}
        """For each topic, who may answer its records at once, and who is waiting for the answers then."""
        self._foretold = {topic for topic in published if self._is_foretold(graph, topic)}
        self._announced = set[str]()
        given_to = topology.bounds_readers(process, far=False)
        self._bounds_writer = self._memory.row_writer(f"bounds/{process}", len(self._bounds) + 1) if given_to else None
        self._bounds_wakers = [self._waker(other) for other in given_to]
        self._far_bounds_readers = len(topology.bounds_readers(process, far=True))
        self._far_readers = topology.far_readers(process)
        self._tcp_writer: TcpWriter | None = None
        if self._far_readers or self._far_bounds_readers:
            waiting = sum(r.buffer for of in topology.readings.values() for r in of if r.topic in self._far_readers)
            self._tcp_writer = TcpWriter(graph.address_of(self._host), self._far_readers, 2 + 2 * waiting)
        self.gives_bounds = self._bounds_writer is not None or self._far_bounds_readers > 0

    def _open_readers(self) -> None:
        topology, process = self._topology, self.process
        far_readings = topology.far_readings(process)
        waited_for = sorted(topology.reads_bounds.get(process, ()))
        far_bounds = [other for other in waited_for if topology.hosts[other] != self._host]
        far = TcpReader(far_readings, far_bounds, self.wake) if far_readings or far_bounds else None
        self._tcp_reader = far
        self.readers: dict[str, Reader | TcpTopic] = {}
        for reading in topology.readings.get(process, ()):
            if far is not None and topology.publisher[reading.topic] in far_readings:
                self.readers[reading.topic] = far.topic(reading.topic)
            else:
                self.readers[reading.topic] = self._memory.reader(reading.topic, reading.buffer, reading.borrowed)
        self._bounds_readers: dict[str, RowReader | TcpBounds] = {
            other: far.bounds(other)
            if far is not None and other in far_bounds
            else self._memory.row_reader(f"bounds/{other}", len(self._bounds) + 1)
            for other in waited_for
        }
        self.reads_bounds = bool(waited_for)
        self.has_bounds = self.reads_bounds or self.gives_bounds

    def _waker(self, process: str) -> Waker:
        if process not in self._known_wakers:
            self._known_wakers[process] = self._memory.waker(process)
        return self._known_wakers[process]

    def _answers_to(self, graph: Graph, topic: str) -> list[tuple[Waker, list[Waker]]]:
        found: list[tuple[Waker, list[Waker]]] = []
        for other in self._topology.near_readers(topic):
            nodes = [node for node in graph.processes().get(other, ()) if any(e.topic == topic for e in node.edges)]
            waiting = {
                name for node in nodes for of in node.outputs.values() for name in self._topology.near_readers(of)
            }
            waiting -= {LAUNCHER, self.process}
            if waiting:
                found.append((self._waker(other), [self._waker(name) for name in sorted(waiting)]))
        return found

    def _is_foretold(self, graph: Graph, topic: str) -> bool:
        """True where all that a topic's records answer comes from other processes of this host."""
        node = next((node for node in graph.nodes if topic in node.outputs.values()), None)
        near = {of for of in self._topology.publisher if self.process in self._topology.near_readers(of)}
        return node is not None and bool(node.edges) and all(edge.topic in near for edge in node.edges)

    def announce(self, topics: Iterable[str]) -> None:
        """Wake those who read these topics for messages that come in a moment, but who is told by others."""
        for topic in topics:
            if not (self.sleeper.answers_at_once and topic in self._foretold):
                for waker in self._waiting.get(topic, ()):
                    waker.announce()
            self._announced.add(topic)

    def announce_once(self, topic: str) -> None:
        """Announce the next message of a topic where that was not done before."""
        if topic not in self._announced:
            self.announce((topic,))

    def emit(self, topic: str, message: Message) -> None:
        """Give a message to all who read its topic and wake them: for it where that was not done before, and by it."""
        writer, is_read_far = self._writers.get(topic), topic in self._far_readers
        if writer is None and not is_read_far:
            return
        self.announce_once(topic)
        self._announced.discard(topic)
        message = on_host(message, self.process, time.time_ns)
        record = encode(message) if writer is None else writer.laid_out(message)
        if writer is not None:
            try:
                self._write(topic, record)
            except ChannelError as error:  # readers count it by the gap in seq
                self._refused[str(error)] += 1
                self._refused_s = time.monotonic()
                return
            self._announce_answers(topic)
        if is_read_far and self._tcp_writer is not None:
            self._tcp_writer.write(topic, record)

    def _announce_answers(self, topic: str) -> None:
        """Wake those who will read what others answer at once, who are asleep until then."""
        for reader, waiting in self._answered[topic]:
            if reader.answers_at_once:
                for waker in waiting:
                    waker.announce()

    def _write(self, topic: str, record: Record) -> None:
        self._writers[topic].write(record)
        for waker in self._wakers[topic]:
            waker.wake()

    def places(self, spec: NodeSpec, driving: threading.Lock) -> Places:
        """Return the memory for the outputs of a node or source; `driving` as in `SourcePlaces`."""
        near = {name: of for name, of in spec.outputs.items() if of in self._writers and of not in self._far_readers}
        placings = {name: self._writers[of].placing for name, of in near.items()}
        return SourcePlaces(placings, driving, self.announce) if spec.is_source else Places(placings)

    def writes(self) -> bool:
        """True where others of this host but the launcher read what this process gives out."""
        return any(self._waiting.values())

    def loop(self) -> tuple[Writer, Reader]:
        """Return both ends of a channel of this process alone."""
        return self._memory.loop(f"loop/{self.process}")

    def refused(self) -> tuple[tuple[str, ...], bool]:
        """Return what could not be written so far, a text for each reason, and whether that was just now."""
        texts = tuple(f"{reason}: {count} records not sent" for reason, count in self._refused.items())
        return texts, time.monotonic() - self._refused_s < REFUSED_TOLD_S

    def bound(self, topic: str, t_ns: int) -> None:
        """Take the bound of a topic of this process; `give_bounds` sends it."""
        ended, place = t_ns == AFTER_ALL, self.rank[topic]
        if not ended:
            self._bounds[place] = t_ns
        self._bounds[len(self.rank) + place] = AFTER_ALL if ended else BEFORE_ALL
        self.bounds_moved = True

    def give_bounds(self) -> None:
        """Send the newest bounds to those who wait for them."""
        self.bounds_moved = False
        row = [*self._bounds, self._epoch]
        if self._bounds_writer is not None:
            self._bounds_writer.write(row)
            for waker in self._bounds_wakers:
                waker.wake()
        if self._far_bounds_readers and self._tcp_writer is not None:
            self._tcp_writer.write_bounds(self.process, row)

    def settle(self, *, answers_at_once: bool) -> None:
        """Return the records that nobody looks at any more, and make room for the next; for when there is time.

        Args:
            answers_at_once: whether this process gives out something in a moment for all that it is given.
        """
        if answers_at_once != self.sleeper.answers_at_once:
            self.sleeper.answers_at_once = answers_at_once
        for reader in self.readers.values():
            reader.give_back()
        for writer in self._writers.values():
            writer.settle()

    def take_bounds(self) -> list[NDArray[np.int64]]:
        """Return the rows of bounds that are new."""
        return [row for process in self._bounds_readers if (row := self._bounds_of(process)) is not None]

    def _bounds_of(self, process: str) -> NDArray[np.int64] | None:
        row = self._bounds_readers[process].take()
        return None if row is None or row[-1] < self._epochs.get(process, 0) else row[:-1]

    def begin_anew(self, epochs: Mapping[str, int]) -> None:
        """Take back all bounds; what others gave out before they began anew is not taken any more.

        Args:
            epochs: by process, of what comes from now on.
        """
        self._epochs, self._epoch = dict(epochs), epochs[self.process]
        self._bounds, self.bounds_moved = [BEFORE_ALL] * len(self._bounds), True

    def is_outdated(self, topic: str, header: Header) -> bool:
        """True for a record that was given out before its publisher began anew."""
        return header.epoch < self._epochs.get(self._topology.publisher[topic], 0)

    @property
    def endpoint(self) -> str:
        """Where processes on other hosts read this one; empty where none does."""
        return "" if self._tcp_writer is None else self._tcp_writer.endpoint

    def connect(self, endpoints: Mapping[str, str]) -> None:
        """Read these processes on other hosts at these endpoints from now on."""
        if self._tcp_reader is not None:
            for process, endpoint in endpoints.items():
                self._tcp_reader.connect(process, endpoint)

    def is_read(self) -> bool:
        """True where all readers on other hosts have reached this process."""
        wanted = sum(self._far_readers.values()) + self._far_bounds_readers
        return self._tcp_writer is None or self._tcp_writer.subscriptions() >= wanted

    def links(self) -> tuple[LinkStatus, ...]:
        """Return what crossed between hosts so far."""
        sent = {} if self._tcp_writer is None else self._tcp_writer.sent
        received = {} if self._tcp_reader is None else self._tcp_reader.received
        return (
            *(LinkStatus(topic=topic, sent=count) for topic, count in sent.items()),
            *(LinkStatus(topic=topic, received=count) for topic, count in received.items()),
        )

    def close(self) -> None:
        """Close the network's ends; shared memory ends with the process."""
        if self._tcp_reader is not None:
            self._tcp_reader.close()
        if self._tcp_writer is not None:
            self._tcp_writer.close()
            self._tcp_writer = None


__all__ = ["Channels"]
