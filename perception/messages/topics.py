"""The message types by schema name, and the topics that every graph has.

A topic's name says who publishes it; its message type says what it carries:

    <sensor>/points PointCloud        <sensor>/image Image            <sensor>/camera_info CameraInfo
    <sensor>/events EventPacket       <sensor>/triggers Trigger       <sensor>/packets RawPackets
    <sensor>/imu Imu                  <sensor>/gnss Gnss              ego Odometry
    <node>/detections Detections3D or Detections2D                    <node>/mask SegmentationMask
    <node>/painted PaintedPoints      <node>/skeleton Pose3D          <node>/recognition Recognition
    objects TrackedObjects            freespace FreeSpace             state GraphState
    status Status                     truth/... the simulator's truth, as the types above
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from perception.errors import MessageError, did_you_mean
from perception.messages import outputs, sensors
from perception.messages.message import Message

_TYPES: tuple[type[Message], ...] = (
    sensors.Image, sensors.PointCloud, sensors.EventPacket, sensors.Trigger, sensors.Imu, sensors.Gnss,
    sensors.Odometry, sensors.CameraInfo, sensors.RawPackets, outputs.Detections2D, outputs.Detections3D,
    outputs.TrackedObjects, outputs.SegmentationMask, outputs.PaintedPoints, outputs.FreeSpace, outputs.Pose3D,
    outputs.Recognition, outputs.Status, outputs.GraphState,
)  # fmt: skip

MESSAGE_TYPES: Mapping[str, type[Message]] = MappingProxyType({message.SCHEMA: message for message in _TYPES})
"""Every message type of the project by its schema, such as "perception.image/1"."""

SENSOR_TOPICS: Mapping[str, type[Message]] = MappingProxyType(
    {
        "points": sensors.PointCloud,
        "image": sensors.Image,
        "camera_info": sensors.CameraInfo,
        "events": sensors.EventPacket,
        "triggers": sensors.Trigger,
        "imu": sensors.Imu,
        "gnss": sensors.Gnss,
        "packets": sensors.RawPackets,
    }
)
"""Message type by the last part of a sensor's topic."""


def message_type(schema: str, more: Mapping[str, type[Message]] = MappingProxyType({})) -> type[Message]:
    """Return the type for a header's schema; `more` holds the user's own types.

    Raises:
        MessageError: no such schema; a newer major version says so.
    """
    known = MESSAGE_TYPES.get(schema) or more.get(schema)
    if known is not None:
        return known
    name = schema.partition("/")[0]
    for candidate in MESSAGE_TYPES:
        if candidate.partition("/")[0] == name:
            raise MessageError(f"a record has schema '{schema}', this version reads '{candidate}'")
    raise MessageError(f"a record has the unknown schema '{schema}'.{did_you_mean(schema, MESSAGE_TYPES)}")


__all__ = ["MESSAGE_TYPES", "SENSOR_TOPICS", "message_type"]
