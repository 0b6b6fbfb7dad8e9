"""What every recorded log offers, whatever its format.

A log gives messages in the order of their stamps: after a message with stamp t nothing with a smaller stamp comes, on
any topic. What cannot be read is skipped, counted and named in `skipped`; what the log does not hold and the reader had
to assume is said in `notes`. Topics of types that have no counterpart here stand in `others` with type and count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from perception.messages import EventPacket, Message, host

if TYPE_CHECKING:
    from perception.geometry.rig import Rig


@dataclass(frozen=True)
class Span:
    """First and last stamp, nanoseconds of sensor time."""

    start_ns: int
    end_ns: int


class Log(ABC):
    """A recorded log, opened for reading."""

    FORMAT: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self.others: dict[str, tuple[str, int]] = {}
        self.skipped: Counter[str] = Counter()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files or folders that `open_logs` was given."""
        return (self.path,)

    @property
    @abstractmethod
    def rig(self) -> Rig | None:
        """Sensors with calibration, or None where the log does not tell."""

    @abstractmethod
    def topics(self) -> Mapping[str, type[Message]]:
        """Message type by topic."""

    @abstractmethod
    def counts(self) -> Mapping[str, int]:
        """Messages by topic, before anything that cannot be read is left out."""

    @abstractmethod
    def span(self) -> Span:
        """Return the first and the last stamp.

        Raises:
            LogError: the log holds no message.
        """

    def topic_spans(self) -> Mapping[str, Span]:
        """Return the first and the last stamp of each topic; where that is not known without reading, the log's."""
        return dict.fromkeys((topic for topic, count in self.counts().items() if count), self.span())

    @abstractmethod
    def messages(
        self, from_ns: int | None = None, until_ns: int | None = None, topics: Collection[str] | None = None
    ) -> Iterator[tuple[str, Message]]:
        """Yield (topic, message) in the order of (t_sensor_ns, topic).

        Args:
            from_ns: the first stamp wanted; None is the beginning.
            until_ns: the first stamp not wanted any more; None is the end.
            topics: the topics wanted; None is all.
        """

    def event_counts(self) -> Mapping[str, int]:
        """Events of event cameras by topic, counted by reading those topics."""
        found: dict[str, int] = {}
        topics = [topic for topic, kind in self.topics().items() if kind is EventPacket]
        for topic, message in self.messages(topics=topics) if topics else ():
            assert isinstance(message, EventPacket)
            found[topic] = found.get(topic, 0) + len(host(message.t_ns))
        return found

    def attachments(self) -> Mapping[str, bytes]:
        """Files that the log carries by name, such as the launch file and the calibration it was recorded with."""
        return {}


__all__ = ["Log", "Span"]
