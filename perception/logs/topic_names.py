"""Name the topics of foreign logs in our way: `<sensor>/<kind>`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

_SUFFIXES = {
    "points": ("points", "points_raw", "pointcloud", "cloud", "velodyne_points", "packets", "scan", "pandar_points"),
    "image": ("image", "image_raw", "image_rect", "image_rect_color", "image_color", "compressed", "image_mono"),
    "camera_info": ("camera_info",),
    "imu": ("imu", "data", "data_raw", "imu_raw"),
    "gnss": ("fix", "gnss", "gps", "nav_sat_fix"),
    "odometry": ("odom", "odometry"),
    "events": ("events",),
}
"""Last parts of a foreign topic that only say the kind, which ours says in its own word."""


def our_topics(kinds: Mapping[str, str]) -> dict[str, str]:
    """Return our topic for each foreign one.

    Args:
        kinds: kind by foreign topic: points, image, camera_info, imu, gnss, odometry, events.

    A single LiDAR is called `lidar`, and a single odometry is `ego`, so that the shipped launch files find them.
    """
    count = Counter(kinds.values())
    named: dict[str, str] = {}
    for topic, kind in sorted(kinds.items()):
        if kind == "odometry" and count[kind] == 1:
            ours = "ego"
        elif kind == "points" and count[kind] == 1:
            ours = "lidar/points"
        else:
            ours = f"{_sensor(topic, kind)}/{kind}"
        base, number = ours, 2
        while ours in named.values():
            sensor, _, last = base.partition("/")
            ours = f"{sensor}_{number}/{last}" if last else f"{sensor}_{number}"
            number += 1
        named[topic] = ours
    return named


def _sensor(topic: str, kind: str) -> str:
    parts = [part for part in topic.strip("/").split("/") if part]
    while len(parts) > 1 and parts[-1] in _SUFFIXES.get(kind, ()):
        parts.pop()
    name = re.sub(r"[^a-z0-9]+", "_", "_".join(parts).lower()).strip("_")
    for suffix in _SUFFIXES.get(kind, ()):
        if name.endswith(f"_{suffix}"):
            name = name.removesuffix(f"_{suffix}")
            break
    return name or kind


__all__ = ["our_topics"]
