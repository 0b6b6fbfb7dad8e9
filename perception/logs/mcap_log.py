"""Read MCAP recordings of our records; a damaged or cut file gives what is whole, and says what is not."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mcap.records import Channel

from perception.errors import LogError, MessageError
from perception.logs.log import Log, Span
from perception.logs.mcap_file import MAGIC, McapFile, Record
from perception.logs.ordering import in_stamp_order, within
from perception.messages import Message
from perception.messages.codec import decode, decode_header
from perception.messages.topics import MESSAGE_TYPES

if TYPE_CHECKING:
    from perception.geometry.rig import Rig


class McapLog(Log):
    """One MCAP file.

    Args:
        path: the file.
        file: the file, where it is opened already.

    Raises:
        LogError: the file cannot be read, or holds none of our records.
    """

    FORMAT: ClassVar[str] = "mcap"

    def __init__(self, path: Path, file: McapFile | None = None) -> None:
        super().__init__(path)
        self._file = file or McapFile(path)
        self.notes += self._file.notes
        self._file.skipped = self.skipped
        types = {key: type_of(self._file, channel) for key, channel in self._file.channels.items()}
        self._types = {self._file.channels[key].topic: found for key, found in types.items() if found is not None}
        for key, channel in self._file.channels.items():
            if types[key] is None:
                schema = self._file.schema_of(channel)
                name = schema.name if schema else channel.message_encoding
                before = self.others.get(channel.topic, ("", 0))[1]
                self.others[channel.topic] = (name, before + self._file.counts[key])
                self.notes.append(
                    f"topic '{channel.topic}' is not ours ({channel.message_encoding or 'no encoding'}): left out"
                )
        if not self._types:
            raise LogError(
                f"{path}: the recording holds no messages of ours "
                f"({len(types)} topics of others). Expected one made by perception."
            )
        self._ours = {key for key, found in types.items() if found is not None}

    @cached_property
    def rig(self) -> Rig | None:
        files = {name: data for name, data in self.attachments().items() if name.startswith("calibration/")}
        if not files:
            return None
        from perception.geometry.rig import rig_from_files

        return rig_from_files({name.removeprefix("calibration/"): data for name, data in files.items()}, str(self.path))

    def topics(self) -> Mapping[str, type[Message]]:
        return dict(sorted(self._types.items()))

    def counts(self) -> Mapping[str, int]:
        total: Counter[str] = Counter()
        for key in self._ours:
            total[self._file.channels[key].topic] += self._file.counts[key]
        return dict(sorted(total.items()))

    @cached_property
    def _span(self) -> Span:
        first = next(iter(self.messages()), None)
        if first is None:
            raise LogError(f"{self.path}: the recording holds no messages.")
        start = end = first[1].header.t_sensor_ns
        for _, message in in_stamp_order(self._decoded(self._file.last_records(self._wanted(None))), Counter()):
            end = max(end, message.header.t_sensor_ns)
        return Span(start, end)

    def span(self) -> Span:
        return self._span

    def topic_spans(self) -> Mapping[str, Span]:
        """First and last stamp by topic, of the chunks that hold them; of files without an index, the log's."""
        found: dict[str, Span] = {}
        for record in self._file.end_records(self._wanted(None)):
            with contextlib.suppress(MessageError):
                topic, t_ns = record.channel.topic, decode_header(record.data).t_sensor_ns
                span = found.get(topic, Span(t_ns, t_ns))
                found[topic] = Span(min(span.start_ns, t_ns), max(span.end_ns, t_ns))
        return found or super().topic_spans()

    def attachments(self) -> Mapping[str, bytes]:
        return self._file.attachments

    def messages(
        self, from_ns: int | None = None, until_ns: int | None = None, topics: Collection[str] | None = None
    ) -> Iterator[tuple[str, Message]]:
        stream = self._decoded(self._file.records(from_ns, self._wanted(topics)))
        yield from within(in_stamp_order(stream, self.skipped), from_ns, until_ns)

    def records(self, topics: Collection[str] | None = None) -> Iterator[tuple[str, bytes, int]]:
        """Yield (topic, record, log time) in the order of the file, as bytes."""
        for record in self._file.records(None, self._wanted(topics)):
            yield record.channel.topic, record.data, record.t_log_ns

    def _wanted(self, topics: Collection[str] | None) -> Callable[[Channel], bool]:
        return lambda channel: channel.id in self._ours and (topics is None or channel.topic in topics)

    def _decoded(self, records: Iterator[Record]) -> Iterator[tuple[str, Message]]:
        for record in records:
            try:
                yield record.channel.topic, decode(record.data)
            except MessageError as error:
                self.skipped[f"{record.channel.topic}: {error}"] += 1


def type_of(file: McapFile, channel: Channel) -> type[Message] | None:
    """Return our message type of a channel, None where it holds something else."""
    schema = file.schema_of(channel)
    if schema is None or channel.message_encoding != "msgpack":
        return None
    return MESSAGE_TYPES.get(schema.name)


__all__ = ["MAGIC", "McapLog", "type_of"]
