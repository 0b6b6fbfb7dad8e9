"""Edges that lose nothing, for lockstep: a writer knows what its readers have room for.

A channel overwrites its oldest record when it is full and never blocks. So each reader tells, in a row of numbers, how
many records of each topic it has taken, and a record that one of its readers has no room for waits in its writer's
process, with the bounds behind it. A process that holds something back takes nothing in (`lockstep_worker.py`), so the
slowest reader holds its source back in the end, and each edge holds a bounded number of records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from perception.messages.codec import Record
from perception.runtime.histories import AFTER_ALL


class Outbox:
    """What one process gives out, topic by topic in the order in which it was given.

    Args:
        room: by topic, the records that may wait for each reader.
        rank: place of a topic in a reader's row.
        write: writes a record to its channel.
        bound: sends a bound.
    """

    def __init__(
        self,
        room: Mapping[str, Mapping[str, int]],
        rank: Mapping[str, int],
        write: Callable[[str, Record], None],
        bound: Callable[[str, int], None],
    ) -> None:
        self._room, self._rank, self._write, self._bound = room, rank, write, bound
        self._waiting: dict[str, deque[Record | int]] = {}
        self._sent = dict.fromkeys(room, 0)
        self._taken = {topic: dict.fromkeys(readers, 0) for topic, readers in room.items()}

    def record(self, topic: str, record: Record) -> None:
        """Send a record, or keep it until there is room."""
        if topic in self._waiting or not self._has_room(topic):
            self._waiting.setdefault(topic, deque()).append(record)
        else:
            self._send(topic, record)

    def bound(self, topic: str, t_ns: int) -> None:
        """Send a bound, but never before the records that it speaks of."""
        waiting = self._waiting.get(topic)
        if waiting is None:
            self._bound(topic, t_ns)
        elif isinstance(waiting[-1], int) and t_ns < AFTER_ALL:
            waiting[-1] = t_ns
        else:
            waiting.append(t_ns)

    def credit(self, reader: str, row: Sequence[int]) -> None:
        """Take what a reader says: how many records of each topic it has taken; and send what has room now."""
        for topic, taken in self._taken.items():
            if reader in taken:
                taken[reader] = row[self._rank[topic]]
        for topic in list(self._waiting):
            self._flush(topic)

    def is_empty(self) -> bool:
        """True where nothing waits."""
        return not self._waiting

    def _flush(self, topic: str) -> None:
        waiting = self._waiting[topic]
        while waiting:
            item = waiting[0]
            if isinstance(item, int):
                self._bound(topic, item)
            elif self._has_room(topic):
                self._send(topic, item)
            else:
                return
            waiting.popleft()
        del self._waiting[topic]

    def _has_room(self, topic: str) -> bool:
        sent, taken = self._sent.get(topic, 0), self._taken.get(topic, {})
        return all(sent - taken[reader] < room for reader, room in self._room.get(topic, {}).items())

    def _send(self, topic: str, record: Record) -> None:
        self._sent[topic] = self._sent.get(topic, 0) + 1
        self._write(topic, record)


class Credits:
    """What one process has taken of the topics that it reads.

    Args:
        room: by topic, the records that may wait for this process.
        rank: place of a topic in the row.
    """

    def __init__(self, room: Mapping[str, int], rank: Mapping[str, int]) -> None:
        self._room, self._rank = room, rank
        self.row = [0] * len(rank)
        self._told = dict.fromkeys(room, 0)

    def took(self, topic: str) -> None:
        """Count a record that was taken."""
        self.row[self._rank[topic]] += 1

    def due(self) -> list[str]:
        """Return the topics whose writers should be told the row now.

        Half of the room at a time is early enough: a writer without room has as many records in the channel, which the
        reader takes before it tells.
        """
        topics = [
            topic for topic, told in self._told.items() if 2 * (self.row[self._rank[topic]] - told) >= self._room[topic]
        ]
        for topic in topics:
            self._told[topic] = self.row[self._rank[topic]]
        return topics


__all__ = ["Credits", "Outbox"]
