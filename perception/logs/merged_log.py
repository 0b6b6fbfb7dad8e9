"""Several logs, of any formats, on one timeline."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar

from perception.errors import LogError
from perception.geometry.rig import Rig
from perception.logs.log import Log, Span
from perception.messages import Message


class MergedLog(Log):
    """Logs whose topics differ, merged by stamp; rig and attachments are the first's that has them.

    Raises:
        LogError: two logs hold the same topic.
    """

    FORMAT: ClassVar[str] = "merged"

    def __init__(self, logs: Sequence[Log]) -> None:
        super().__init__(logs[0].path)
        self.logs = list(logs)
        owners: dict[str, Log] = {}
        for log in self.logs:
            for topic in log.topics():
                if topic in owners:
                    raise LogError(
                        f"{owners[topic].path} and {log.path} both hold '{topic}'; "
                        "cut one of them to other topics first (perception log cut --topic)"
                    )
                owners[topic] = log
            self.notes += [f"{log.path}: {note}" for note in log.notes]
            self.others |= log.others

    @property
    def rig(self) -> Rig | None:
        return next((log.rig for log in self.logs if log.rig is not None), None)

    def topics(self) -> Mapping[str, type[Message]]:
        return dict(sorted((topic, kind) for log in self.logs for topic, kind in log.topics().items()))

    def counts(self) -> Mapping[str, int]:
        return dict(sorted((topic, count) for log in self.logs for topic, count in log.counts().items()))

    def span(self) -> Span:
        spans = [log.span() for log in self.logs]
        return Span(min(span.start_ns for span in spans), max(span.end_ns for span in spans))

    def topic_spans(self) -> Mapping[str, Span]:
        return {topic: span for log in self.logs for topic, span in log.topic_spans().items()}

    def messages(
        self, from_ns: int | None = None, until_ns: int | None = None, topics: Collection[str] | None = None
    ) -> Iterator[tuple[str, Message]]:
        streams = [log.messages(from_ns, until_ns, topics) for log in self.logs]
        yield from heapq.merge(*streams, key=lambda item: (item[1].header.t_sensor_ns, item[0]))
        for log in self.logs:
            self.skipped.update(log.skipped)

    def attachments(self) -> Mapping[str, bytes]:
        return next((log.attachments() for log in self.logs if log.attachments()), {})


__all__ = ["MergedLog"]
