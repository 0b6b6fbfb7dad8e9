"""Several logs, of any formats, on one timeline."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from perception.errors import LogError
from perception.geometry.rig import Rig
from perception.logs.log import Log, Span
from perception.messages import Message

OF_THE_MACHINE = frozenset({"status", "state"})
"""Topics on which every recording speaks of its own graph and machine, not of the drive."""
FAR_APART_S = 3600.0
"""Logs between which so much time lies are hardly of one drive."""


class MergedLog(Log):
    """Logs merged by stamp: of different topics, or parts of one recording, one after the other.

    Rig and attachments are the first's that has them; of `status` and `state`, the first's that has the topic.

    Raises:
        LogError: two logs hold the same topic at the same time, or with different types.
    """

    FORMAT: ClassVar[str] = "merged"

    def __init__(self, logs: Sequence[Log]) -> None:
        super().__init__(logs[0].path)
        self.logs = list(logs)
        self._taken: list[set[str]] = []
        owners: dict[str, list[Log]] = {}
        for log in self.logs:
            topics = {topic for topic in log.topics() if not (topic in OF_THE_MACHINE and topic in owners)}
            for topic in topics:
                for other in owners.setdefault(topic, []):
                    _check_apart(other, log, topic)
                owners[topic].append(log)
            self._taken.append(topics)
            self.notes += [f"{log.path}: {note}" for note in log.notes]
            self.others |= log.others
        self._note_times_apart()

    @property
    def rig(self) -> Rig | None:
        return next((log.rig for log in self.logs if log.rig is not None), None)

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for log in self.logs for path in log.paths)

    def topics(self) -> Mapping[str, type[Message]]:
        return dict(sorted((topic, kind) for log in self.logs for topic, kind in log.topics().items()))

    def counts(self) -> Mapping[str, int]:
        total: Counter[str] = Counter()
        for log, taken in zip(self.logs, self._taken, strict=True):
            total.update({topic: count for topic, count in log.counts().items() if topic in taken})
        return dict(sorted(total.items()))

    def span(self) -> Span:
        spans = [log.span() for log in self.logs]
        return Span(min(span.start_ns for span in spans), max(span.end_ns for span in spans))

    def topic_spans(self) -> Mapping[str, Span]:
        found: dict[str, Span] = {}
        for log, taken in zip(self.logs, self._taken, strict=True):
            for topic, span in log.topic_spans().items():
                if topic in taken:
                    before = found.get(topic, span)
                    found[topic] = Span(min(before.start_ns, span.start_ns), max(before.end_ns, span.end_ns))
        return found

    def messages(
        self, from_ns: int | None = None, until_ns: int | None = None, topics: Collection[str] | None = None
    ) -> Iterator[tuple[str, Message]]:
        streams = [
            log.messages(from_ns, until_ns, taken if topics is None else taken & set(topics))
            for log, taken in zip(self.logs, self._taken, strict=True)
        ]
        # A log is first read where it begins: of a recording in a hundred files one is open.
        waiting: list[tuple[int, str, int, Message | None]] = [
            (log.span().start_ns, "", place, None) for place, log in enumerate(self.logs)
        ]
        heapq.heapify(waiting)
        while waiting:
            _, topic, place, message = waiting[0]
            if message is not None:
                yield topic, message
            following = next(streams[place], None)
            if following is None:
                heapq.heappop(waiting)
            else:
                heapq.heapreplace(waiting, (following[1].header.t_sensor_ns, following[0], place, following[1]))
        self.skipped.clear()
        for log in self.logs:
            self.skipped.update(log.skipped)

    def attachments(self) -> Mapping[str, bytes]:
        return next((log.attachments() for log in self.logs if log.attachments()), {})

    def _note_times_apart(self) -> None:
        """Say where a log has nothing in common with the time of the first: stamps of another clock, perhaps."""
        first = self.logs[0].span()
        for log in self.logs[1:]:
            span = log.span()
            apart_s = max(first.start_ns - span.end_ns, span.start_ns - first.end_ns) / 1e9
            if apart_s > FAR_APART_S:
                self.notes.append(f"{log.path}: lies {apart_s:.0f} s apart from {self.logs[0].path}; is it one drive?")


def _check_apart(first: Log, second: Log, topic: str) -> None:
    """Raise LogError unless a topic of two logs is of one type, and in one of them over before the other begins."""
    if first.topics()[topic] is not second.topics()[topic]:
        raise LogError(f"{first.path} and {second.path} hold '{topic}' with different types; cut one of them")
    a, b = first.topic_spans().get(topic), second.topic_spans().get(topic)
    if a is not None and b is not None and a.start_ns <= b.end_ns and b.start_ns <= a.end_ns:
        raise LogError(
            f"{first.path} and {second.path} both hold '{topic}' at the same time; "
            "cut one of them to other topics first (perception log cut --topic)"
        )


__all__ = ["OF_THE_MACHINE", "MergedLog"]
