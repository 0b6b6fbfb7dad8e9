"""Make a rig of what a ROS or Foxglove log says: the static transforms from `base_link`, intrinsics, a first cloud."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from perception.errors import GeometryError
from perception.geometry.rig import Rig
from perception.geometry.rig_file import LidarFile
from perception.geometry.transforms import Transform
from perception.logs.log_rig import LogCamera, LogLidar, rig_of
from perception.messages import CameraInfo

BASE = "base_link"


@dataclass(frozen=True, eq=False)
class StaticRig:
    """Frames of a log's topics, and where they are.

    Attributes:
        base_link_from: transform by frame.
        frames: frame by our topic, and its intrinsics where these are what the topic tells.
    """

    base_link_from: Mapping[str, Transform]
    frames: Mapping[str, tuple[str, CameraInfo | None]]

    @classmethod
    def read(cls, messages: Iterable[Any], frames: Mapping[str, tuple[str, CameraInfo | None]]) -> StaticRig | None:
        """Return what static transforms, in messages like ROS' TFMessage, tell; None where nothing of `base_link`."""
        parents: dict[str, tuple[str, Transform]] = {}
        for message in messages:
            for stamped in message.transforms:
                t, q = stamped.transform.translation, stamped.transform.rotation
                try:
                    transform = Transform.from_quaternion((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
                except GeometryError:
                    continue
                child, parent = str(stamped.child_frame_id).lstrip("/"), str(stamped.header.frame_id).lstrip("/")
                parents.setdefault(child, (parent, transform))
        known = {frame: found for frame in [*parents, BASE] if (found := _from_base(frame, parents)) is not None}
        return cls(known, frames) if len(known) > 1 else None

    def rig(self, name: str) -> Rig | None:
        """Return the rig of the sensors whose frames are known, None where there is none."""
        cameras = {}
        lidar: LogLidar | None = None
        for topic, (frame, info) in self.frames.items():
            sensor = topic.partition("/")[0]
            if frame not in self.base_link_from:
                continue
            if info is not None:
                cameras[sensor] = LogCamera(
                    (info.width_px, info.height_px), info.focal_px, info.center_px, self.base_link_from[frame], 10.0,
                    info.model, info.coefficients,
                )  # fmt: skip
            elif topic == "lidar/points":
                what = LidarFile(rings=128, range_m=(0.3, 200.0), vertical_fov_deg=(-30.0, 30.0), intensity_scale=255)
                lidar = LogLidar(what, self.base_link_from[frame], 10.0)
        return rig_of(name, "as the log's", lidar, cameras) if cameras or lidar else None


def _from_base(frame: str, parents: Mapping[str, tuple[str, Transform]]) -> Transform | None:
    found = Transform.identity()
    for _ in range(64):  # a loop in the tree leads nowhere
        if frame == BASE:
            return found
        if frame not in parents:
            return None
        frame, parent_from_frame = parents[frame]
        found = parent_from_frame @ found
    return None


__all__ = ["StaticRig"]
