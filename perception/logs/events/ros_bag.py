"""Events in ROS bags (ROS 2 with sqlite3 or MCAP, ROS 1), through rosbags.

Every topic of type `event_camera_msgs/EventPacket` or `dvs_msgs/EventArray` (or its prophesee namesake) is a camera.
Bags without message definitions are read by those below.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from perception.errors import LogError, NotInstalledError
from perception.logs.events.decoder import Decoded
from perception.logs.events.reader import EventReader
from perception.logs.events.ros_packets import OF_ANOTHER_SIZE, PacketDecoder
from perception.logs.ros.bounded import bound_decompressors, check_fits_the_disk

SQLITE_MAGIC, ROS1_MAGIC = b"SQLite format 3\x00", b"#ROSBAG V2.0"
PACKET, ARRAY = "event_camera_msgs/msg/EventPacket", "/msg/EventArray"
DAMAGED, UNREADABLE = "packet that cannot be read", "bag that ends in a fault"
_PACKET_FIELDS = """std_msgs/Header header
uint32 height
uint32 width
uint64 seq
uint64 time_base
string encoding
bool is_bigendian
uint8[] events
"""
DEFINITIONS = {
    PACKET: _PACKET_FIELDS,
    "event_array_msgs/msg/EventArray": _PACKET_FIELDS,  # its older name
    **{
        f"{package}/msg/{name}": text
        for package in ("dvs_msgs", "prophesee_event_msgs")
        for name, text in (
            ("Event", "uint16 x\nuint16 y\nbuiltin_interfaces/Time ts\nbool polarity\n"),
            ("EventArray", f"std_msgs/Header header\nuint32 height\nuint32 width\n{package}/Event[] events\n"),
        )
    },
}


class BagEvents(EventReader):
    """One topic of a bag."""

    triggers = True

    def __init__(self, path: Path, topic: str) -> None:
        super().__init__()
        self._path, self._topic = path, topic
        first = next(self._messages(), None)
        if first is None:
            raise LogError(f"{path}: no message on {topic} can be read")
        self._size = (int(first.height), int(first.width))
        self._encoding = str(getattr(first, "encoding", "array"))
        self.name = f"ros_{self._encoding}"
        self.notes.append(f"{topic}: encoding {self._encoding}")

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    def pieces(self, from_ns: int | None = None) -> Iterator[Decoded]:
        del from_ns
        self.skipped.clear()
        decoder = PacketDecoder(self._encoding, *self._size)
        offsets: list[int] = []
        for message in self._messages():
            if (int(message.height), int(message.width)) != self._size or (
                str(getattr(message, "encoding", "array")) != self._encoding
            ):
                self.skipped[OF_ANOTHER_SIZE] += 1
                continue
            decoded = _decoded(decoder, message)
            if len(decoded.events):
                stamp = message.header.stamp
                offsets.append(int(stamp.sec) * 10**9 + int(stamp.nanosec) - int(decoded.events.t_ns[0]))
            yield decoded
        yield decoder.finish()
        self.skipped.update(decoder.skipped)
        self._note_offset(offsets)

    def _note_offset(self, offsets: list[int]) -> None:
        """Say how far the camera's clock is from the bag's."""
        median = sorted(offsets)[len(offsets) // 2] if offsets else 0
        if abs(median) > 1_000_000_000:
            note = f"{self._topic}: host time is the camera's plus {median} ns, by the median of the packets' stamps"
            if note not in self.notes:
                self.notes.append(note)

    def _messages(self) -> Iterator[Any]:
        with opened(self._path) as bag:
            connections = [connection for connection in bag.connections if connection.topic == self._topic]
            stream = bag.messages(connections)
            while True:
                try:
                    connection, _, data = next(stream)
                except StopIteration:
                    return
                except Exception as error:  # noqa: BLE001 - whatever the storage raises on damage
                    self.skipped[f"{UNREADABLE}: {error}"] += 1
                    return
                try:
                    yield bag.deserialize(data, connection.msgtype)
                except Exception:  # noqa: BLE001 - damaged bytes raise errors of many kinds
                    self.skipped[DAMAGED] += 1


def _decoded(decoder: PacketDecoder, message: Any) -> Decoded:
    if hasattr(message, "encoding"):
        return decoder.feed(np.asarray(message.events, np.uint8), int(message.time_base))
    events = message.events
    t = [int(event.ts.sec) * 10**9 + int(event.ts.nanosec) for event in events]
    return decoder.arrays(
        t, [event.x for event in events], [event.y for event in events], [event.polarity for event in events]
    )


@contextmanager
def opened(path: Path, definitions: Mapping[str, str] = DEFINITIONS) -> Iterator[Any]:
    """Open a bag; `definitions` are of message types that it may hold without telling what they are.

    Raises:
        NotInstalledError: rosbags is missing.
        LogError: it is no bag, or damaged beyond what can be read.
    """
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError:
        raise NotInstalledError(f"{path}: ROS bags need rosbags: pip install 'perception-runtime[ros]'") from None
    bound_decompressors()
    check_fits_the_disk(path)
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, text in definitions.items():
        store.register(get_types_from_msg(text, name))
    try:
        reader = AnyReader([path], default_typestore=store)
        reader.open()
    except Exception as error:  # noqa: BLE001 - whatever the storage raises on damage
        raise LogError(f"{path}: not a ROS bag that can be read: {error}") from None
    try:
        yield reader
    finally:
        reader.close()


def bag_readers(path: Path) -> dict[str, BagEvents]:
    """Return the readers of a bag by camera; none where no topic holds events.

    Raises:
        NotInstalledError, LogError: as `opened`.
    """
    with opened(path) as bag:
        topics = sorted(
            {c.topic for c in bag.connections if (c.msgtype == PACKET or c.msgtype.endswith(ARRAY)) and c.msgcount}
        )
    if len(topics) == 1:
        return {"event_camera": BagEvents(path, topics[0])}
    return {topic.strip("/").removesuffix("/events").replace("/", "_"): BagEvents(path, topic) for topic in topics}


def is_bag_database(path: Path) -> bool:
    """Return whether an SQLite file is a ROS 2 bag."""
    try:
        with sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True) as database:
            names = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error:
        return False
    return {"topics", "messages"} <= names


__all__ = ["ROS1_MAGIC", "SQLITE_MAGIC", "BagEvents", "bag_readers", "is_bag_database", "opened"]
