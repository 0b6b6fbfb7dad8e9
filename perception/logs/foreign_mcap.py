"""MCAP files of other writers: ROS 2 CDR and Foxglove's schemas in JSON or protobuf; other topics are counted.

Stamps are the message's own, and the time of logging where it has none. The rig of a Foxglove log comes of its
transforms from `base_link` and its CameraCalibrations.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property, partial
from itertools import islice
from typing import Any, ClassVar

from mcap.records import Channel, Schema

from perception.errors import LogError, NotInstalledError, PerceptionError
from perception.geometry.rig import Rig
from perception.logs import foxglove
from perception.logs.log import Span
from perception.logs.mcap_file import McapFile
from perception.logs.ros.ego_transform import LOOKED_AT, EgoTransform, ego_frames
from perception.logs.ros.messages import CONVERTERS, stamp_ns
from perception.logs.static_rig import StaticRig
from perception.logs.streamed_log import StreamedLog
from perception.logs.topic_names import our_topics
from perception.messages import CameraInfo, Header, Message, Odometry


class ForeignMcapLog(StreamedLog):
    """One file.

    Args:
        file: the file, opened.
    """

    FORMAT: ClassVar[str] = "mcap_foreign"

    def __init__(self, file: McapFile) -> None:
        super().__init__(file.path)
        self._file = file
        file.skipped = self.skipped
        self.notes += file.notes
        self._readers: dict[int, _Reader] = {}
        self._ego: int | None = None
        kinds: dict[str, str] = {}
        self._types: dict[str, type[Message]] = {}
        for key, channel in file.channels.items():
            schema = file.schema_of(channel)
            try:
                found = _known(channel, schema)
            except LogError as error:
                self.notes.append(f"{channel.topic}: {error}; left out")
                found = None
            if found is None:
                before = self.others.get(channel.topic, ("", 0))[1]
                name = schema.name if schema is not None and schema.name else channel.message_encoding or "no type"
                self.others[channel.topic] = (name, before + file.counts[key])
                continue
            self._types[channel.topic], kinds[channel.topic], self._readers[key] = found
        if "odometry" not in kinds.values():
            self._look_for_ego(kinds)
        self._named = our_topics(kinds)
        self.notes += [f"{topic} is {ours}" for topic, ours in self._named.items()]

    def _look_for_ego(self, kinds: dict[str, str]) -> None:
        """Take the vehicle's motion from the first topic of transforms that holds it."""
        for key, channel, schema in self._transform_channels():
            try:
                parse = _parser(channel, schema)
                frames = ego_frames(self._transforms(key, parse))
            except Exception as error:  # noqa: BLE001 - bytes of another writer may raise errors of any kind
                self.notes.append(f"{channel.topic}: transforms that cannot be read: {type(error).__name__}")
                continue
            if frames is not None:
                self._types[channel.topic], kinds[channel.topic] = Odometry, "odometry"
                self._readers[key] = _ego_reader(parse, frames)
                self.others.pop(channel.topic, None)
                self._ego = key
                self.notes.append(f"ego is the transform {' to '.join(frames)} of {channel.topic}")
                return

    def _transform_channels(self) -> Iterator[tuple[int, Channel, Schema]]:
        for key, channel in self._file.channels.items():
            schema = self._file.schema_of(channel)
            if schema is not None and schema.name in foxglove.TRANSFORMS and channel.message_encoding in ENCODINGS:
                yield key, channel, schema

    def _transforms(self, key: int, parse: _Parser) -> Iterator[Any]:
        """Yield the first transforms of a channel."""
        for record in islice(self._file.records(None, partial(_is_channel, key)), LOOKED_AT):
            yield foxglove.transforms(parse(record.data))

    @property
    def rig(self) -> Rig | None:
        return self._rig

    @cached_property
    def _rig(self) -> Rig | None:
        found: list[Any] = []
        for key, channel, schema in self._transform_channels():
            try:
                found.extend(self._transforms(key, _parser(channel, schema)))
            except Exception:  # noqa: BLE001 - bytes of another writer; `_look_for_ego` has said so
                continue
        static = StaticRig.read(found, self._frames())
        rig = static.rig(self.path.stem) if static is not None else None
        self.notes += [] if rig is None else ["the rig is that of the transforms from base_link"]
        return rig

    def _frames(self) -> dict[str, tuple[str, CameraInfo | None]]:
        """Return the frame that the first message of each Foxglove topic names, and its intrinsics."""
        first: dict[str, tuple[str, CameraInfo | None]] = {}
        for key, read in self._readers.items():
            channel = self._file.channels[key]
            schema = self._file.schema_of(channel)
            if schema is None or schema.name not in foxglove.CONVERTERS:
                continue
            try:
                record = next(self._file.records(None, partial(_is_channel, key)))
                frame = str(_parser(channel, schema)(record.data)["frame_id"]).lstrip("/")
                message = read(record.data, frame, record.t_log_ns, 0)
            except Exception:  # noqa: BLE001 - an empty channel, or bytes of another writer: reading it will say so
                continue
            first[self._named[channel.topic]] = (frame, message if isinstance(message, CameraInfo) else None)
        return first

    def topics(self) -> Mapping[str, type[Message]]:
        return dict(sorted((self._named[topic], found) for topic, found in self._types.items()))

    def span(self) -> Span:
        if self._named:
            return super().span()
        times = [record.t_log_ns for record in self._file.records(None, lambda channel: True)]
        if not times:
            raise LogError(f"{self.path}: the recording holds no messages.")
        return Span(min(times), max(times))

    def counts(self) -> Mapping[str, int]:
        total: Counter[str] = Counter()
        for key in self._readers:
            total[self._named[self._file.channels[key].topic]] += self._file.counts[key]
        if self._ego is not None:  # of the transforms, those of the vehicle
            total["ego"] = super().counts()["ego"]
        return dict(sorted(total.items()))

    def attachments(self) -> Mapping[str, bytes]:
        return self._file.attachments

    def stream(self, topics: Collection[str] | None) -> Iterator[tuple[str, Message]]:
        seq = Counter[str]()

        def wanted(channel: Channel) -> bool:
            return channel.id in self._readers and (topics is None or self._named[channel.topic] in topics)

        for record in self._file.records(None, wanted):
            topic = record.channel.topic
            ours = self._named[topic]
            frame = ours.partition("/")[0] + ("_optical" if ours.endswith(("/image", "/camera_info")) else "")
            try:
                message = self._readers[record.channel.id](record.data, frame, record.t_log_ns, seq[ours])
            except PerceptionError as error:
                self.skipped[f"{topic}: {error}"] += 1
                continue
            except Exception as error:  # noqa: BLE001 - bytes of another writer may raise errors of any kind
                self.skipped[f"{topic}: message that cannot be read: {type(error).__name__}: {error}"] += 1
                continue
            if message is not None:
                seq[ours] += 1
                yield ours, message


def _is_channel(key: int, channel: Channel) -> bool:
    return bool(channel.id == key)


def needs_the_bag_reader(file: McapFile) -> bool:
    """True where a file of ROS 2 holds packets, events or transforms, which only the reader of bags turns into ours."""
    from perception.logs.events.ros_bag import ARRAY, PACKET
    from perception.logs.ros.bag_log import SCANS
    from perception.logs.ros.ego_transform import TRANSFORMS

    kinds = {schema.name for schema in file.schemas.values()}
    return bool(kinds & {*SCANS, PACKET, *TRANSFORMS}) or any(kind.endswith(ARRAY) for kind in kinds)


_Reader = Callable[[bytes, str, int, int], Message | None]
_Parser = Callable[[bytes], Mapping[str, Any]]
ENCODINGS = ("json", "protobuf")


def _known(channel: Channel, schema: Schema | None) -> tuple[type[Message], str, _Reader] | None:
    """Return our message type, its kind of topic and its reader, None where there is no counterpart."""
    if schema is None:
        return None
    if channel.message_encoding == "cdr" and schema.name in CONVERTERS:
        message_type, kind, _ = CONVERTERS[schema.name]
        return message_type, kind, _ros_reader(schema)
    if schema.name in foxglove.CONVERTERS and channel.message_encoding in ENCODINGS:
        message_type, kind, convert = foxglove.CONVERTERS[schema.name]
        parse = _parser(channel, schema)

        def read(data: bytes, frame: str, t_log_ns: int, seq: int) -> Message:
            document = parse(data)
            t_ns = foxglove.stamp_ns(document) or t_log_ns
            return convert(document, Header(frame_id=frame, t_sensor_ns=t_ns, clock="log", seq=seq))

        return message_type, kind, read
    return None


def _parser(channel: Channel, schema: Schema) -> _Parser:
    """Return what makes a plain document of a message."""
    return json.loads if channel.message_encoding == "json" else _protobuf_parser(schema)


def _ego_reader(parse: _Parser, frames: tuple[str, str]) -> _Reader:
    ego = EgoTransform(frames)

    def read(data: bytes, frame: str, t_log_ns: int, seq: int) -> Message | None:
        return ego.odometry(foxglove.transforms(parse(data)), t_log_ns, seq)

    return read


def _ros_reader(schema: Schema) -> _Reader:
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError:
        raise NotInstalledError("ROS messages need rosbags: pip install 'perception-runtime[ros]'") from None
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(get_types_from_msg(schema.data.decode(), schema.name))
    except Exception as error:  # noqa: BLE001 - damaged text raises errors of many kinds
        raise LogError(f"schema {schema.name}: no definition of a ROS message: {type(error).__name__}") from None
    convert = CONVERTERS[schema.name][2]

    def read(data: bytes, frame: str, t_log_ns: int, seq: int) -> Message:
        message: Any = store.deserialize_cdr(data, schema.name)
        header = Header(frame_id=frame, t_sensor_ns=stamp_ns(message.header.stamp) or t_log_ns, clock="log", seq=seq)
        return convert(message, header)

    return read


def _protobuf_parser(schema: Schema) -> _Parser:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.json_format import MessageToDict
    from google.protobuf.message_factory import GetMessageClass

    pool = DescriptorPool()
    try:
        waiting = list(FileDescriptorSet.FromString(schema.data).file)
    except Exception as error:  # noqa: BLE001 - the library's own kinds of errors
        raise LogError(f"schema {schema.name}: no descriptors of protobuf: {type(error).__name__}") from None
    while waiting:  # a file may stand before those that it imports
        later = []
        for file in waiting:
            try:
                pool.Add(file)
            except TypeError:
                later.append(file)
        if len(later) == len(waiting):
            raise LogError(f"schema {schema.name}: its descriptors are not complete")
        waiting = later
    try:
        made = GetMessageClass(pool.FindMessageTypeByName(schema.name))
    except KeyError:
        raise LogError(f"schema {schema.name}: its descriptors do not name it") from None

    def parse(data: bytes) -> Mapping[str, Any]:
        document: Mapping[str, Any] = MessageToDict(made.FromString(data), preserving_proto_field_name=True)
        return document

    return parse


__all__ = ["ForeignMcapLog"]
