"""Open a recorded log of any known format, recognised by its content."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from perception.errors import LogError, did_you_mean
from perception.logs.log import Log

FORMATS = """\
  a .mcap file                      MCAP with our records (perception launch --record, perception record), or with ROS 2
                                    CDR, Foxglove JSON or protobuf
  a file of events                  Prophesee RAW and DAT, AEDAT4, AEDAT-2, Event Stream (.es), N-MNIST, HDF5 (DSEC,
                                    M3ED), .npy, .npz, text with t x y p
  a .pcap or .pcapng file           UDP packets of a Velodyne, Hesai or Ouster LiDAR
  a ROS 1 or ROS 2 bag              .bag, .db3 or a folder with metadata.yaml: sensors, packets, odometry, events
  a folder with velodyne_points or image_0N     KITTI raw, <date>_drive_<n>_sync or a subset of it
  a folder with velodyne            KITTI object, tracking (velodyne/NNNN; one of several sequences is named by its
                                    calib/NNNN.txt) or SemanticKITTI
  a folder with mav0 or cam0        EuRoC
  a folder with sensors/lidar       a log of Argoverse 2
  a folder with v1.0-*, info.json   nuScenes tables, one nuScenes keyframe in mmdetection3d's format"""


def open_log(path: Path | str, *, assume_rate_hz: float = 10.0) -> Log:
    """Open a log for reading.

    Args:
        path: a file or a folder.
        assume_rate_hz: rate of the sensors where the log holds no times; the clock is then named "assumed".

    Raises:
        LogError: nothing is there, nothing known is there, or it is damaged beyond what can be skipped.
    """
    path = Path(path)
    if not path.exists():
        beside = [other.name for other in islice(path.parent.glob("*"), 1000)]
        raise LogError(f"{path}: there is no such log, neither a file nor a folder.{did_you_mean(path.name, beside)}")
    from perception.logs.kitti_tracking import KittiTrackingLog, tracking_sequence

    sequence = tracking_sequence(path)
    if sequence is not None:
        return KittiTrackingLog(path, *sequence, assume_rate_hz=assume_rate_hz)
    if path.is_file():
        return _open_file(path)
    from perception.logs.argoverse import ArgoverseLog, looks_like_argoverse
    from perception.logs.euroc import EurocLog, euroc_folder
    from perception.logs.kitti_object import KittiObjectLog, looks_like_kitti_object
    from perception.logs.kitti_raw import KittiRawLog, looks_like_kitti_raw
    from perception.logs.nuscenes_info import NuscenesInfoLog
    from perception.logs.nuscenes_tables import NuscenesTablesLog

    if looks_like_kitti_raw(path):
        return KittiRawLog(path, assume_rate_hz=assume_rate_hz)
    if looks_like_argoverse(path):
        return ArgoverseLog(path)
    if any(path.glob("v1.0-*/sample.json")) or (path / "sample.json").is_file():
        return NuscenesTablesLog(path)
    if (path / "info.json").is_file():
        return NuscenesInfoLog(path)
    if euroc_folder(path) is not None:
        return EurocLog(path)
    if looks_like_kitti_object(path):
        return KittiObjectLog(path, assume_rate_hz=assume_rate_hz)
    if (path / "metadata.yaml").is_file():
        from perception.logs.ros.bag_log import open_bag

        return open_bag(path)
    raise LogError(f"{path}: the folder holds no known log. Expected one of:\n{FORMATS}")


def open_logs(paths: Sequence[Path], *, assume_rate_hz: float = 10.0) -> Log:
    """Open one log, or several, of any formats, on one timeline.

    Raises:
        LogError: as `open_log`, or two of them hold the same topic at the same time.
    """
    logs = [open_log(path, assume_rate_hz=assume_rate_hz) for path in paths]
    if len(logs) == 1:
        return logs[0]
    from perception.logs.merged_log import MergedLog

    return MergedLog(logs)


def _open_file(path: Path) -> Log:
    from perception.logs.mcap_log import MAGIC

    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise LogError(f"{path}: cannot be read: {error.strerror}") from None
    if not head:
        raise LogError(f"{path}: the file is empty. Expected one of:\n{FORMATS}")
    if head.startswith(MAGIC):
        return _open_mcap(path)
    from perception.logs.lidar.pcap import is_capture

    if is_capture(head):
        from perception.logs.pcap_log import PcapLog

        return PcapLog(path)
    from perception.logs.events.ros_bag import ROS1_MAGIC, SQLITE_MAGIC, is_bag_database

    if head.startswith(ROS1_MAGIC) or (head.startswith(SQLITE_MAGIC) and is_bag_database(path)):
        from perception.logs.ros.bag_log import open_bag

        return open_bag(path)
    event_log = _event_log(path)
    if event_log is not None:
        return event_log
    raise LogError(f"{path}: not a known log (it begins with {head[:8].hex(' ')}). Expected one of:\n{FORMATS}")


def _open_mcap(path: Path) -> Log:
    from perception.logs.mcap_file import McapFile
    from perception.logs.mcap_log import McapLog, type_of

    file = McapFile(path)
    foreign = any(channel.message_encoding != "msgpack" for channel in file.channels.values())
    if foreign and all(type_of(file, channel) is None for channel in file.channels.values()):
        from perception.logs.foreign_mcap import ForeignMcapLog, needs_the_bag_reader
        from perception.logs.ros.bag_log import open_bag

        if needs_the_bag_reader(file):
            with contextlib.suppress(LogError):  # damaged, or without its index: what can be read of it is
                return open_bag(path)
        return ForeignMcapLog(file)
    return McapLog(path, file)


def _event_log(path: Path) -> Log | None:
    from perception.logs.events.open_events import open_event_file

    return open_event_file(path)


__all__ = ["open_log", "open_logs"]
