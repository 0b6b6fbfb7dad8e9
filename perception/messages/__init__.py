"""Typed records: what sensors, networks and planners exchange, and its bytes."""

from perception.messages.array import Array, DeviceArray, host
from perception.messages.masks import mask_labels, runs_of
from perception.messages.message import Header, Message, ModelId, SensorState, Span, Timing, array_bytes, derived
from perception.messages.outputs import (
    Detections2D,
    Detections3D,
    FreeSpace,
    FusedObject,
    GraphState,
    InputStatus,
    LinkStatus,
    NodeStatus,
    ObjectClass,
    ObjectMotion,
    PaintedPoints,
    PastPose,
    Pose3D,
    Recognition,
    SegmentationMask,
    Skeleton,
    Status,
    TrackedObjects,
)
from perception.messages.sensors import (
    CameraInfo,
    EventPacket,
    Gnss,
    Image,
    Imu,
    Odometry,
    PointCloud,
    RawPackets,
    Trigger,
)

__all__ = [
    "Array", "CameraInfo", "Detections2D", "Detections3D", "DeviceArray", "EventPacket", "FreeSpace", "FusedObject",
    "Gnss", "GraphState", "Header", "Image", "Imu", "InputStatus", "LinkStatus", "Message", "ModelId", "NodeStatus",
    "ObjectClass", "ObjectMotion", "Odometry", "PaintedPoints", "PastPose", "PointCloud", "Pose3D", "RawPackets",
    "Recognition", "SegmentationMask", "SensorState", "Skeleton", "Span", "Status", "Timing", "TrackedObjects",
    "Trigger", "array_bytes", "derived", "host", "mask_labels", "runs_of",
]  # fmt: skip
