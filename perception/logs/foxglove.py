"""Foxglove's messages as ours, from JSON or protobuf: both are read as plain documents with Foxglove's field names.

Schemas: https://docs.foxglove.dev/docs/visualization/message-schemas (foxglove/foxglove-sdk, MIT).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import LogError
from perception.logs.ros import messages as ros
from perception.messages import CameraInfo, Gnss, Header, Image, Message, PointCloud

Document: TypeAlias = Mapping[str, Any]
_NUMERIC = {1: 2, 2: 1, 3: 4, 4: 3, 5: 6, 6: 5, 7: 7, 8: 8}
"""Foxglove's packed element types -> ROS': unsigned and signed change places."""
_NUMERIC_NAMES = {
    name: number
    for number, name in enumerate(
        ("UNKNOWN", "UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "FLOAT32", "FLOAT64")
    )
}


def stamp_ns(document: Document) -> int:
    """Return the stamp; JSON writes {sec, nsec}, protobuf {seconds, nanos} or RFC 3339 text."""
    stamp = document.get("timestamp") or {}
    if isinstance(stamp, str):
        return _rfc3339_ns(stamp)
    seconds = int(stamp.get("sec", stamp.get("seconds", 0)))
    return seconds * 1_000_000_000 + int(stamp.get("nsec", stamp.get("nanos", 0)))


def _rfc3339_ns(text: str) -> int:
    from datetime import datetime

    whole, _, fraction = text.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(f"{whole}+00:00").timestamp()) * 1_000_000_000 + int(fraction.ljust(9, "0")[:9])


def image(document: Document, header: Header) -> Image:
    """`foxglove.RawImage`."""
    fields = SimpleNamespace(
        encoding=str(document["encoding"]), height=int(document["height"]), width=int(document["width"]),
        step=int(document["step"]), data=_bytes(document["data"]), is_bigendian=False,
    )  # fmt: skip
    return ros.CONVERTERS["sensor_msgs/msg/Image"][2](fields, header)  # type: ignore[return-value]  # Image


def compressed_image(document: Document, header: Header) -> Image:
    """`foxglove.CompressedImage` with JPEG or PNG."""
    return ros.packed_image(_bytes(document["data"]), header)


def point_cloud(document: Document, header: Header) -> PointCloud:
    """`foxglove.PointCloud`; its pose is left to the transforms."""
    step, data = int(document["point_stride"]), _bytes(document["data"])
    fields = []
    for field in document["fields"]:
        kind = field.get("type", 0)
        number = _NUMERIC_NAMES.get(kind, 0) if isinstance(kind, str) else int(kind)
        if number in _NUMERIC:
            offset = int(field.get("offset", 0))
            fields.append(SimpleNamespace(name=str(field["name"]), datatype=_NUMERIC[number], offset=offset))
    count = len(data) // step if step else 0
    cloud = SimpleNamespace(fields=fields, width=count, height=1, point_step=step, data=data, is_bigendian=False)
    return ros.CONVERTERS["sensor_msgs/msg/PointCloud2"][2](cloud, header)  # type: ignore[return-value]  # PointCloud


def camera_info(document: Document, header: Header) -> CameraInfo:
    """`foxglove.CameraCalibration` of a model that we have."""
    size = (int(document["width"]), int(document["height"]))
    k, d = np.array(document["K"], np.float64), np.array(document.get("D") or [], np.float64)
    return ros.intrinsics(str(document.get("distortion_model", "")), size, k, d, header)


def gnss(document: Document, header: Header) -> Gnss:
    """`foxglove.LocationFix`."""
    return Gnss(
        header=header, latitude_deg=float(document["latitude"]), longitude_deg=float(document["longitude"]),
        altitude_m=float(document.get("altitude", 0.0)),
    )  # fmt: skip


TRANSFORMS = ("foxglove.FrameTransforms", "foxglove.FrameTransform")


def transforms(document: Document) -> SimpleNamespace:
    """Return transforms with the names of the fields that ROS' message has."""
    return SimpleNamespace(transforms=[_transform(one) for one in document.get("transforms", [document])])


def _transform(document: Document) -> SimpleNamespace:
    seconds, nanoseconds = divmod(stamp_ns(document), 1_000_000_000)
    moved, turned = document.get("translation") or {}, document.get("rotation") or {}
    return SimpleNamespace(
        header=SimpleNamespace(
            frame_id=str(document.get("parent_frame_id", "")), stamp=SimpleNamespace(sec=seconds, nanosec=nanoseconds)
        ),
        child_frame_id=str(document.get("child_frame_id", "")),
        transform=SimpleNamespace(
            translation=SimpleNamespace(**{axis: float(moved.get(axis, 0.0)) for axis in "xyz"}),
            rotation=SimpleNamespace(**{axis: float(turned.get(axis, 0.0)) for axis in "xyzw"}),
        ),
    )


def _bytes(value: Any) -> NDArray[np.uint8]:
    """Return bytes: JSON holds them as base64."""
    try:
        raw = base64.b64decode(value, validate=True) if isinstance(value, str) else bytes(value)
    except (ValueError, TypeError) as error:
        raise LogError(f"data that is no base64: {error}") from None
    return np.frombuffer(raw, np.uint8)


CONVERTERS: Mapping[str, tuple[type[Message], str, Callable[[Document, Header], Message]]] = {
    "foxglove.RawImage": (Image, "image", image),
    "foxglove.CompressedImage": (Image, "image", compressed_image),
    "foxglove.PointCloud": (PointCloud, "points", point_cloud),
    "foxglove.CameraCalibration": (CameraInfo, "camera_info", camera_info),
    "foxglove.LocationFix": (Gnss, "gnss", gnss),
}
"""Schema name -> our message, the last part of its topic, and how to convert."""

__all__ = ["CONVERTERS", "TRANSFORMS", "stamp_ns", "transforms"]
