"""Ego motion of a ROS log that holds no odometry: the transform from `odom` or `map` to the vehicle, on /tf."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from perception.errors import GeometryError, LogError
from perception.geometry.transforms import Transform
from perception.logs.poses import pose_fields
from perception.logs.ros.messages import stamp_ns
from perception.messages import Header, Odometry

TRANSFORMS = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")
PARENTS, CHILDREN = ("odom", "map", "world"), ("base_link", "base_footprint")
"""Frames between which the vehicle's motion is looked for, the best first."""
LONGEST_STEP_NS = 1_000_000_000
LOOKED_AT = 200
"""Messages of transforms that are looked at for places of sensors, and for the vehicle's motion."""


def ego_frames(messages: Iterable[Any]) -> tuple[str, str] | None:
    """Return parent and child of the best transform that tells the vehicle's motion, None where none does."""
    seen = {frames_of(stamped) for message in messages for stamped in message.transforms}
    return next(((parent, child) for child in CHILDREN for parent in PARENTS if (parent, child) in seen), None)


def frames_of(stamped: Any) -> tuple[str, str]:
    """Return parent and child of a stamped transform; ROS 1 writes them with a slash."""
    return str(stamped.header.frame_id).lstrip("/"), str(stamped.child_frame_id).lstrip("/")


class EgoTransform:
    """Turns one transform of /tf into odometry; velocities are what it moved since the one before.

    Args:
        frames: parent and child.
    """

    def __init__(self, frames: tuple[str, str]) -> None:
        self.frames = frames
        self._before: tuple[int, Transform] | None = None

    def odometry(self, message: Any, t_bag_ns: int, seq: int) -> Odometry | None:
        """Return the odometry of a message, None where it holds other transforms.

        Raises:
            LogError: its rotation is none.
        """
        stamped = next((one for one in message.transforms if frames_of(one) == self.frames), None)
        if stamped is None:
            return None
        t_ns, t, q = (
            stamp_ns(stamped.header.stamp) or t_bag_ns,
            stamped.transform.translation,
            stamped.transform.rotation,
        )
        try:
            pose = Transform.from_quaternion((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
        except GeometryError as error:
            raise LogError(f"transform {' to '.join(self.frames)}: {error}") from None
        velocity = turning = np.zeros(3)
        if self._before is not None and self._before[0] > t_ns:
            self._before = None  # read again from the start
        if self._before is not None and 0 < t_ns - self._before[0] <= LONGEST_STEP_NS:
            passed_s = (t_ns - self._before[0]) / 1e9
            moved = self._before[1].inverse() @ pose
            velocity, turning = moved.translation_m / passed_s, moved.rotation_xyzw[:3] * 2 / passed_s
        self._before = (t_ns, pose)
        translation, rotation = pose_fields(pose)
        return Odometry(
            header=Header(frame_id="odom", t_sensor_ns=t_ns, clock="log", seq=seq), translation_m=translation,
            rotation_xyzw=rotation, velocity_mps=_triple(velocity), angular_velocity_radps=_triple(turning),
        )  # fmt: skip


def _triple(values: Any) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


__all__ = ["LOOKED_AT", "TRANSFORMS", "EgoTransform", "ego_frames", "frames_of"]
