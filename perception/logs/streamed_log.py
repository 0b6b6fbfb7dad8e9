"""Base of logs that are one stream: what they hold is known after one pass, which is made when it is asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from perception.errors import LogError
from perception.geometry.rig import Rig
from perception.logs.log import Log, Span
from perception.logs.ordering import in_stamp_order, within
from perception.messages import Message


class StreamedLog(Log):
    """A subclass gives `topics` and `stream`; counts and span come of a pass over it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)

    @property
    def rig(self) -> Rig | None:
        return None

    @abstractmethod
    def stream(self, topics: Collection[str] | None) -> Iterator[tuple[str, Message]]:
        """Yield (topic, message) as they are recorded; what cannot be read is counted in `skipped`."""

    def counts(self) -> Mapping[str, int]:
        return self._pass[0]

    def span(self) -> Span:
        spans = self._pass[1].values()
        if not spans:
            raise LogError(f"{self.path}: no message of it can be read ({self.first_fault() or 'it is empty'})")
        return Span(min(span.start_ns for span in spans), max(span.end_ns for span in spans))

    def topic_spans(self) -> Mapping[str, Span]:
        return self._pass[1]

    def first_fault(self) -> str:
        """Return the commonest reason for which something was skipped, for an error's text."""
        return next((reason for reason, _ in self.skipped.most_common(1)), "")

    @cached_property
    def _pass(self) -> tuple[dict[str, int], dict[str, Span]]:
        counts: Counter[str] = Counter(dict.fromkeys(self.topics(), 0))
        spans: dict[str, Span] = {}
        for topic, message in self.messages():
            counts[topic] += 1
            t_ns = message.header.t_sensor_ns
            spans[topic] = Span(spans[topic].start_ns if topic in spans else t_ns, t_ns)
        return dict(sorted(counts.items())), spans

    def messages(
        self, from_ns: int | None = None, until_ns: int | None = None, topics: Collection[str] | None = None
    ) -> Iterator[tuple[str, Message]]:
        self.skipped.clear()
        yield from within(in_stamp_order(self.stream(topics), self.skipped), from_ns, until_ns)


__all__ = ["StreamedLog"]
