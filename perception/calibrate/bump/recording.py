"""What the check needs of a drive: sweeps, the way of the vehicle, and some pictures of each camera."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.bump.ego_track import EgoTrack
from perception.calibrate.bump.sweep import Sweep
from perception.errors import PerceptionError, UserError
from perception.messages import Image, Message, Odometry, PointCloud, host

Grey: TypeAlias = NDArray[np.uint8]
MOST_PICTURES = 100
SHORTEST_M = 10.0
FEWEST_POINTS = 100


@dataclass(frozen=True, eq=False)
class Recording:
    """Some seconds of a drive.

    Attributes:
        lidar: name of the LiDAR.
        sweeps: in the order of stamps.
        track: the vehicle's motion.
        pictures: (stamp, grey (H, W)) of each camera by name, at most MOST_PICTURES, spread over the time.
    """

    lidar: str
    sweeps: tuple[Sweep, ...]
    track: EgoTrack
    pictures: dict[str, list[tuple[int, Grey]]]


def recording_of(
    messages: Iterable[tuple[str, Message]], lidar: str, ego_topic: str, cameras: Iterable[str],
    grey_of: Callable[[Image], Grey],
) -> Recording:  # fmt: skip
    """Collect a recording.

    Args:
        messages: (topic, message) in the order of stamps.
        lidar: name of the LiDAR; its topic is `<lidar>/points`.
        ego_topic: of the odometry.
        cameras: names; their topics are `<camera>/image`.
        grey_of: a picture's grey values; pictures of which it raises a PerceptionError are left out.

    Raises:
        UserError: too little odometry, or the vehicle hardly drove.
    """
    sweeps: list[Sweep] = []
    poses: list[Odometry] = []
    shown: dict[str, list[tuple[int, Grey]]] = {camera: [] for camera in cameras}
    for topic, message in messages:
        name = topic.partition("/")[0]
        if isinstance(message, PointCloud) and name == lidar:
            sweep = sweep_of(message)
            if len(sweep.xyz_m) > FEWEST_POINTS:
                sweeps.append(sweep)
        elif isinstance(message, Odometry) and topic == ego_topic:
            poses.append(message)
        elif isinstance(message, Image) and name in shown:
            try:
                shown[name].append((message.header.t_sensor_ns, grey_of(message)))
            except PerceptionError:
                continue
    track = track_of(poses)
    if track.distance_m() < SHORTEST_M:
        raise UserError(f"the vehicle drove {track.distance_m():.1f} m; the check needs {SHORTEST_M:g} m and more")
    spread = {name: taken[:: max(1, len(taken) // MOST_PICTURES)] for name, taken in shown.items()}
    return Recording(lidar, tuple(sweeps), track, spread)


def track_of(poses: Sequence[Odometry]) -> EgoTrack:
    """Return the track of odometry messages. Raises UserError for fewer than two."""
    return EgoTrack.of(
        [p.header.t_sensor_ns for p in poses], [p.translation_m for p in poses], [p.rotation_xyzw for p in poses]
    )


def sweep_of(cloud: PointCloud) -> Sweep:
    """Return a sweep without points that are not there."""
    t_ns = cloud.header.t_sensor_ns
    xyz = host(cloud.xyz_m).astype(np.float64)
    there = np.isfinite(xyz).all(axis=1) & (np.abs(xyz).max(axis=1, initial=0.0) > 1e-3)
    offsets = np.zeros(len(xyz), np.int64) if cloud.t_offset_ns is None else host(cloud.t_offset_ns).astype(np.int64)
    ring = None if cloud.ring is None else host(cloud.ring).astype(np.int64)[there]
    return Sweep(t_ns, xyz[there], t_ns + offsets[there], ring)


__all__ = ["Recording", "recording_of", "sweep_of", "track_of"]
