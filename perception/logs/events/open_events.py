"""Recognise a recording of event cameras by its content, and make the log that streams it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from perception.errors import LogError
from perception.logs.events.event_file import SENSOR, EventFileLog
from perception.logs.events.reader import EventReader

HEAD_BYTES = 1 << 18


def open_event_file(path: Path) -> EventFileLog | None:
    """Return the log of an event recording, None where the file is none.

    Raises:
        LogError: it is one, but of a kind that is not known, or damaged at its beginning.
        NotInstalledError: the packages of an extra are needed for it.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    cameras = _cameras(head, path)
    return EventFileLog(path, cameras) if cameras else None


def open_event_bag(path: Path) -> EventFileLog:
    """Return the log of the event topics of a ROS bag: a folder with metadata.yaml, or its file.

    Raises:
        LogError: it cannot be read, or no topic of it holds events.
        NotInstalledError: rosbags is missing.
    """
    from perception.logs.events.ros_bag import bag_readers

    cameras = bag_readers(path)
    if not cameras:
        raise LogError(f"{path}: no topic of the bag holds events (event_camera_msgs/EventPacket, dvs_msgs/EventArray)")
    return EventFileLog(path, cameras)


def _cameras(head: bytes, path: Path) -> Mapping[str, EventReader] | None:
    from perception.logs.events import aedat4, hdf5, ros_bag
    from perception.logs.events.tables import table_reader
    from perception.logs.events.word_files import word_reader

    if head.startswith(aedat4.MAGIC[:12]):
        return {SENSOR: aedat4.Aedat4(path)}
    if head.startswith(hdf5.MAGIC):
        return hdf5.hdf5_readers(path)
    if head.startswith(ros_bag.ROS1_MAGIC) or (head.startswith(ros_bag.SQLITE_MAGIC) and ros_bag.is_bag_database(path)):
        return open_event_bag(path).cameras
    reader: EventReader | None = word_reader(head, path) or table_reader(head, path)
    return None if reader is None else {SENSOR: reader}


__all__ = ["open_event_bag", "open_event_file"]
