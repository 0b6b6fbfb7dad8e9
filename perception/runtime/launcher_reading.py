"""What the launcher reads of a running graph: outputs, sensors, statuses, and all topics where it records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from perception.errors import GraphError, PerceptionError
from perception.messages import Message, Status
from perception.messages.codec import decode, decode_envelope
from perception.runtime.deadlines import stand_ins
from perception.runtime.graph import Graph
from perception.runtime.lossless_channels import CreditGiver
from perception.runtime.sequence_gaps import SequenceGaps
from perception.runtime.shared_memory import Reader, SharedMemoryHost
from perception.runtime.tcp_edges import TcpReader, TcpTopic
from perception.runtime.topology import LAUNCHER, Topology


class LauncherReading:
    """The launcher's reading ends.

    Args:
        graph: the graph.
        topology: its channels.
        run: the run id.
        on_line: called with what cannot be read.

    Raises:
        ChannelError: shared memory cannot be used.
    """

    def __init__(self, graph: Graph, topology: Topology, run: str, on_line: Callable[[str], None]) -> None:
        self._graph, self._on_line = graph, on_line
        memory = SharedMemoryHost(run, LAUNCHER, topology.limits(), topology.processes())
        self._sleeper = memory.sleeper(LAUNCHER)
        self.sleep = self._sleeper.sleep
        self._gaps = SequenceGaps()
        self._publisher_of, self._epochs = topology.publisher, dict[str, int]()
        far = topology.far_readings(LAUNCHER)
        self._tcp_reader = TcpReader(far, (), memory.waker(LAUNCHER).wake) if far else None
        self._passed_on = set(graph.message_types) - stand_ins(graph)
        self._readers: list[Reader | TcpTopic] = [
            self._tcp_reader.topic(reading.topic)
            if self._tcp_reader is not None and topology.publisher[reading.topic] in far
            else memory.reader(reading.topic, reading.buffer, reading.borrowed)
            for reading in topology.readings[LAUNCHER]
        ]
        self._giver = None
        if graph.mode == "lockstep":
            self._giver = CreditGiver(memory, topology, LAUNCHER, memory.waker)

    def connect(self, process: str, endpoint: str) -> None:
        """Read a process of another host at this endpoint."""
        if self._tcp_reader is not None:
            self._tcp_reader.connect(process, endpoint)

    def close(self) -> None:
        if self._tcp_reader is not None:
            self._tcp_reader.close()

    def begin_anew(self, epochs: Mapping[str, int]) -> None:
        """Take nothing any more that a process gave out before its epoch."""
        self._epochs = dict(epochs)

    def messages(self, missed: Counter[str]) -> Iterator[tuple[str, Message, memoryview]]:
        """Yield (topic, message, record) of everything that has arrived; most messages are header and timing alone.

        Args:
            missed: counts by topic what was replaced before it was read here: neither published nor recorded.

        Raises:
            GraphError: something is missing in lockstep.
        """
        for reader in self._readers:
            reader.give_back()
            while (record := reader.take()) is not None:
                try:
                    message = self._read(reader, record)
                except PerceptionError as error:
                    self._on_line(f"a record on '{reader.topic}' cannot be read: {error}")
                    continue
                if message.header.epoch < self._epochs.get(self._publisher_of[reader.topic], 0):
                    continue
                lost = self._gaps.lost(reader.topic, message.header)
                if lost and self._giver is not None and not isinstance(message, Status):
                    raise GraphError(f"the launcher lost {lost} messages of '{reader.topic}'")
                missed.update({reader.topic: lost} if lost > 0 else {})
                yield reader.topic, message, record
                if self._giver is not None:
                    self._giver.took(reader.topic)
            if self._giver is not None:
                self._giver.give()

    def _read(self, reader: Reader | TcpTopic, record: memoryview) -> Message:
        """Return a message; of what is only passed on, header and timing."""
        if reader.topic in self._passed_on:
            return decode_envelope(record, reader.cuts)
        return decode(record, self._graph.message_types.get(reader.topic, Status))


__all__ = ["LauncherReading"]
