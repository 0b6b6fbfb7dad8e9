"""The channels of one process in lockstep: nothing is overwritten, what readers have no room for waits here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from perception.messages import Message
from perception.messages.codec import encode
from perception.runtime.channels import Channels
from perception.runtime.credits import Credits, Outbox
from perception.runtime.graph import Graph
from perception.runtime.ownership import on_host
from perception.runtime.shared_memory import SharedMemoryHost
from perception.runtime.topology import Topology
from perception.runtime.wakeups import Waker


def row_of(process: str) -> str:
    """Return the name of the row in which a process says how many records of each topic it has taken."""
    return f"taken/{process}"


class LosslessChannels(Channels):
    """See the module's text; arguments and errors as of `Channels`.

    A record that shared memory has no place for ends the run: there are no holes in lockstep.
    """

    def __init__(self, graph: Graph, topology: Topology, process: str, run: str) -> None:
        super().__init__(graph, topology, process, run)
        room = {topic: topology.waiting(topic) for topic in self.rank if topology.publisher.get(topic) == process}
        readers = {reader for readers in room.values() for reader in readers}
        self._credits_of = {reader: self._memory.row_reader(row_of(reader), len(self.rank)) for reader in readers}
        self._outbox = Outbox(room, self.rank, self._write, super().bound)
        self._giver = CreditGiver(self._memory, topology, process, self._waker)
        self.took = self._giver.took
        self.give_credits = self._giver.give

    def announce(self, topics: Iterable[str]) -> None:
        """Do nothing: in lockstep there is always something to do meanwhile."""

    def emit(self, topic: str, message: Message) -> None:
        """Give a message to all who read its topic, as soon as they have room."""
        if topic not in self.rank:
            super().emit(topic, message)  # of the status the newest is enough
        elif topic in self._writers:
            self._outbox.record(topic, encode(on_host(message, self.process, time.time_ns)))

    def bound(self, topic: str, t_ns: int) -> None:
        """Take the bound of a topic of this process; it follows the records that it speaks of."""
        self._outbox.bound(topic, t_ns)

    def take_credits(self) -> None:
        """Take what readers have room for now, and send what waited for it."""
        for reader, credits in self._credits_of.items():
            row = credits.take()
            if row is not None:
                self._outbox.credit(reader, row.tolist())

    def has_sent_all(self) -> bool:
        """True where nothing waits for room."""
        return self._outbox.is_empty()

    def bounds_of(self, process: str) -> NDArray[np.int64] | None:
        """Return the newest bounds of another process, or None where nothing is new."""
        return self._bounds_of(process) if process in self._bounds_readers else None


class CreditGiver:
    """Tells the writers of what one process reads how much of it was taken.

    Args:
        memory: the process' shared memory.
        topology: the channels of the graph.
        process: the process that reads.
        waker: opens what wakes another process.
    """

    def __init__(
        self, memory: SharedMemoryHost, topology: Topology, process: str, waker: Callable[[str], Waker]
    ) -> None:
        rank = {topic: rank for rank, topic in enumerate(topology.topics)}
        room = {
            reading.topic: reading.buffer for reading in topology.readings.get(process, ()) if reading.topic in rank
        }
        self._credits = Credits(room, rank)
        self._writer = memory.row_writer(row_of(process), len(rank)) if room else None
        publishers = {topic: topology.publisher[topic] for topic in room}
        wakers = {publisher: waker(publisher) for publisher in {*publishers.values()}}
        self._wakers = {topic: wakers[publisher] for topic, publisher in publishers.items()}

    def took(self, topic: str) -> None:
        """Count a record that was taken, if its topic has credits: a status has none."""
        if topic in self._wakers:
            self._credits.took(topic)

    def give(self) -> None:
        """Tell what was taken, where its writers should know it by now."""
        due = self._credits.due()
        if not due or self._writer is None:
            return
        self._writer.write(self._credits.row)
        for waker in {id(self._wakers[topic]): self._wakers[topic] for topic in due}.values():
            waker.wake()


__all__ = ["CreditGiver", "LosslessChannels", "row_of"]
