"""ROS 1 bags and ROS 2 bags (sqlite3, MCAP) through rosbags: sensors and odometry as our messages, the rest counted.

Packets of Velodyne and Hesai (VelodyneScan, PandarScan) become clouds, a message a cloud. Event topics are read as
event recordings are. The rig comes of /tf_static and CameraInfo where `base_link` is in it, and without an odometry the
ego motion comes of /tf.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from perception.errors import LogError, PerceptionError
from perception.geometry.rig import Rig
from perception.logs.assumed_rig import NOTE, lidar_rig
from perception.logs.events.event_file import EventFileLog
from perception.logs.events.ros_bag import ARRAY, DEFINITIONS, PACKET, bag_readers, opened
from perception.logs.lidar.hesai import HesaiDecoder, angles_beside
from perception.logs.lidar.sweep import PacketDecoder, Points, point_cloud
from perception.logs.lidar.velodyne import VelodyneDecoder
from perception.logs.log import Log, Span
from perception.logs.ordering import in_stamp_order, within
from perception.logs.ros.definitions import PACKET_SCANS
from perception.logs.ros.ego_transform import LOOKED_AT, TRANSFORMS, EgoTransform, ego_frames
from perception.logs.ros.messages import CONVERTERS, camera_info, stamp_ns
from perception.logs.static_rig import StaticRig
from perception.logs.streamed_log import StreamedLog
from perception.logs.topic_names import our_topics
from perception.messages import CameraInfo, Header, Message, Odometry, PointCloud

SCANS = {"velodyne_msgs/msg/VelodyneScan": "Velodyne", "pandar_msgs/msg/PandarScan": "Hesai"}
STATIC_TOPICS = ("/tf_static", "/tf")


class RosBagLog(StreamedLog):
    """One bag: a folder with metadata.yaml, a .db3 or .mcap of it, or a ROS 1 .bag.

    Raises:
        LogError: it cannot be read, or no topic of it can be turned into our messages.
        NotInstalledError: rosbags is missing.
    """

    FORMAT: ClassVar[str] = "ros_bag"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        kinds: dict[str, str] = {}
        self._types: dict[str, str] = {}
        self._recorded_counts: Counter[str] = Counter()
        has_events = False
        with opened(path, {**DEFINITIONS, **PACKET_SCANS}) as bag:
            self._recorded = Span(int(bag.start_time), int(bag.end_time))
            for connection in bag.connections:
                kind = connection.msgtype
                self._recorded_counts[connection.topic] += int(connection.msgcount)
                self._types[connection.topic] = kind
                if kind == PACKET or kind.endswith(ARRAY):
                    has_events = has_events or bool(connection.msgcount)
                elif kind in SCANS:
                    kinds[connection.topic] = "points"
                elif kind in CONVERTERS:
                    kinds[connection.topic] = CONVERTERS[kind][1]
                else:
                    before = self.others.get(connection.topic, (kind, 0))[1]
                    self.others[connection.topic] = (kind, before + int(connection.msgcount))
        self._ego: tuple[str, str] | None = None
        if "odometry" not in kinds.values() and self._types.get("/tf") in TRANSFORMS:
            self._ego = ego_frames(message for _, message, _ in islice(self._raw({"/tf"}), LOOKED_AT))
        if self._ego is not None:
            kinds["/tf"] = "odometry"
            del self.others["/tf"]
        self._named = our_topics(kinds)
        self._events = EventFileLog(path, bag_readers(path)) if has_events else None
        self.notes = [f"{topic} is {ours}" for topic, ours in self._named.items()]
        self.notes += [f"ego is the transform {' to '.join(self._ego)} of /tf"] if self._ego else []
        self.notes += self._events.notes if self._events else []

    def events_alone(self) -> EventFileLog | None:
        """Return the events of a bag that holds nothing else that is read."""
        if self._named or self._events is None:
            return None
        self._events.others = self.others
        return self._events

    def topics(self) -> Mapping[str, type[Message]]:
        ours = {self._named[topic]: self._message_type(topic) for topic in self._named}
        return dict(sorted({**ours, **(self._events.topics() if self._events else {})}.items()))

    def _message_type(self, topic: str) -> type[Message]:
        kind = self._types[topic]
        if kind in TRANSFORMS:
            return Odometry
        return PointCloud if kind in SCANS else CONVERTERS[kind][0]

    def counts(self) -> Mapping[str, int]:
        counts = {ours: self._recorded_counts[topic] for topic, ours in self._named.items()}
        if self._ego is not None:  # of /tf, what it holds of the vehicle
            counts["ego"] = super().counts()["ego"]
        return dict(sorted({**counts, **(self._events.counts() if self._events else {})}.items()))

    def event_counts(self) -> Mapping[str, int]:
        """Events by topic."""
        return self._events.event_counts() if self._events else {}

    def span(self) -> Span:
        if self.topics():
            return super().span()
        if self._recorded.start_ns >= self._recorded.end_ns:
            raise LogError(f"{self.path}: the bag holds no message.")
        return self._recorded

    @property
    def rig(self) -> Rig | None:
        return self._rig

    @cached_property
    def _rig(self) -> Rig | None:
        lidars = [topic for topic, ours in self._named.items() if ours.endswith("/points")]
        found = StaticRig.read(self._static_messages(), self._frames)
        rig = found.rig(self.path.stem) if found is not None else None
        self.notes += [] if rig is None else ["the rig is that of the transforms from base_link"]
        if rig is None and len(lidars) == 1:
            vendor = SCANS.get(self._types[lidars[0]], "")
            self.notes.append(NOTE)
            return lidar_rig(self.path.stem, vendor, 128)
        return rig

    @cached_property
    def _frames(self) -> dict[str, tuple[str, CameraInfo | None]]:
        """Return the frame of the first message by our topic, and its intrinsics."""
        first: dict[str, tuple[str, CameraInfo | None]] = {}
        for topic, message, _ in self._raw(set(self._named)):
            ours = self._named[topic]
            if ours not in first and hasattr(message, "header"):
                frame = str(message.header.frame_id).lstrip("/")
                first[ours] = (frame, _intrinsics(message, frame) if ours.endswith("/camera_info") else None)
                if len(first) == len(self._named):
                    break
        return first

    def _static_messages(self) -> Iterator[Any]:
        for topic in STATIC_TOPICS:
            if self._types.get(topic) in TRANSFORMS:
                raw = self._raw({topic})
                yield from (message for _, message, _ in (raw if topic == "/tf_static" else islice(raw, LOOKED_AT)))

    def stream(self, topics: Collection[str] | None) -> Iterator[tuple[str, Message]]:
        wanted = {topic for topic, ours in self._named.items() if topics is None or ours in topics}
        decoders: dict[str, PacketDecoder] = {}
        ego = None if self._ego is None else EgoTransform(self._ego)
        seq = Counter[str]()
        for topic, message, t_bag_ns in self._raw(wanted):
            ours = self._named[topic]
            try:
                if ego is not None and self._types[topic] in TRANSFORMS:
                    converted: Message | None = ego.odometry(message, t_bag_ns, seq[ours])
                else:
                    converted = self._converted(topic, message, t_bag_ns, seq[ours], decoders)
            except PerceptionError as error:
                self.skipped[f"{topic}: {error}"] += 1
                continue
            except Exception as error:  # noqa: BLE001 - numbers of a damaged message may break anything
                self.skipped[f"{topic}: message that cannot be read: {type(error).__name__}"] += 1
                continue
            if converted is not None:
                seq[ours] += 1
                yield ours, converted
        for topic, decoder in decoders.items():
            self.skipped.update({f"{topic}: {reason}": count for reason, count in decoder.skipped.items()})

    def messages(
        self, from_ns: int | None = None, until_ns: int | None = None, topics: Collection[str] | None = None
    ) -> Iterator[tuple[str, Message]]:
        self.skipped.clear()
        streams = [within(in_stamp_order(self.stream(topics), self.skipped), from_ns, until_ns)]
        if self._events is not None:
            streams.append(self._events.messages(from_ns, until_ns, topics))
        yield from heapq.merge(*streams, key=lambda item: (item[1].header.t_sensor_ns, item[0]))
        if self._events is not None:
            self.skipped.update(self._events.skipped)

    def _raw(self, topics: Collection[str]) -> Iterator[tuple[str, Any, int]]:
        if not topics:
            return  # rosbags would take none for all
        with opened(self.path, {**DEFINITIONS, **PACKET_SCANS}) as bag:
            stream = bag.messages([connection for connection in bag.connections if connection.topic in topics])
            while True:
                try:
                    connection, t_ns, data = next(stream)
                except StopIteration:
                    return
                except Exception as error:  # noqa: BLE001 - whatever the storage raises on damage
                    self.skipped[f"bag that ends in a fault: {error}"] += 1
                    return
                try:
                    yield connection.topic, bag.deserialize(data, connection.msgtype), int(t_ns)
                except Exception as error:  # noqa: BLE001 - damaged bytes raise errors of many kinds
                    self.skipped[f"{connection.topic}: message that cannot be read: {type(error).__name__}"] += 1

    def _converted(
        self, topic: str, message: Any, t_bag_ns: int, seq: int, decoders: dict[str, PacketDecoder]
    ) -> Message | None:
        kind = self._types[topic]
        stamp = stamp_ns(message.header.stamp)
        sensor = self._named[topic].partition("/")[0]
        optical = f"{sensor}_optical" if CONVERTERS.get(kind, ("", "", None))[1] in ("image", "camera_info") else sensor
        header = Header(frame_id=optical, t_sensor_ns=stamp or t_bag_ns, clock="log", seq=seq)
        if kind not in SCANS:
            return CONVERTERS[kind][2](message, header)
        if topic not in decoders:
            decoders[topic] = VelodyneDecoder() if SCANS[kind] == "Velodyne" else HesaiDecoder(angles_beside(self.path))
        decoder = decoders[topic]
        parts = [
            decoder.points(bytes(packet.data[: int(getattr(packet, "size", len(packet.data)))]), stamp_ns(packet.stamp))
            for packet in message.packets
        ]
        sweep = Points.joined([part for part in parts if part is not None])
        if not len(sweep):
            raise LogError("scan without a point")
        return point_cloud(sweep, frame_id=sensor, clock="log", seq=seq, intensity_scale=decoder.intensity_scale)


def open_bag(path: Path) -> Log:
    """Open a bag; one that holds nothing but events is a recording of event cameras.

    Raises:
        LogError, NotInstalledError: as `RosBagLog`.
    """
    bag = RosBagLog(path)
    events = bag.events_alone()
    return bag if events is None else events


def _intrinsics(message: Any, frame: str) -> CameraInfo | None:
    try:
        return camera_info(message, Header(frame_id=frame, t_sensor_ns=0))
    except LogError:
        return None


__all__ = ["RosBagLog", "open_bag"]
