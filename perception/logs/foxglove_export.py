"""Export a log to MCAP with Foxglove's schemas in JSON, which Foxglove and Rerun open.

Pictures become CompressedImage (raw ones as PNG), packets of events pictures too (brighter pixels red, darker ones
blue), clouds PointCloud, boxes and objects SceneUpdate, GNSS LocationFix, odometry FrameTransforms, intrinsics
CameraCalibration; the rig's frames and intrinsics are sent once. Foxglove has no schema for inertial measurements: they
go out under ours, as numbers that its plots draw. The rest is counted.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from mcap.writer import CompressionType, Writer

from perception.errors import LogError
from perception.geometry.rig import Rig
from perception.logs.camera_infos import camera_infos
from perception.logs.log import Log
from perception.messages import (
    CameraInfo,
    Detections3D,
    EventPacket,
    Gnss,
    Image,
    Imu,
    Message,
    Odometry,
    PointCloud,
    TrackedObjects,
    host,
)

Document: TypeAlias = dict[str, Any]
FLOAT32 = 7
_DARKER_BRIGHTER = np.array([(31, 119, 180), (214, 39, 40)], np.uint8)
_COLOUR = {"r": 0.1, "g": 0.8, "b": 0.2, "a": 0.4}


def export_foxglove(log: Log, out: Path) -> Counter[str]:
    """Write a log; return how many messages of each topic stayed out.

    Raises:
        LogError: `out` exists or cannot be written.
    """
    try:
        file = out.open("xb")
    except FileExistsError:
        raise LogError(f"{out}: exists already; nothing is overwritten. Give another name.") from None
    except OSError as error:
        raise LogError(f"{out}: cannot be written: {error.strerror}") from None
    left_out: Counter[str] = Counter()
    with file:
        writer = _JsonWriter(file)
        first = True
        for topic, message in log.messages():
            if first and log.rig is not None:
                writer.write("tf", "foxglove.FrameTransforms", rig_frames(log.rig, message), message)
                known = log.topics()
                for name, info in camera_infos(log.rig, message.header.t_sensor_ns).items():
                    if name not in known:
                        writer.write(name, "foxglove.CameraCalibration", _intrinsics(info), info)
            first = False
            converter = CONVERTERS.get(type(message))
            if converter is None:
                left_out[topic] += 1
                continue
            schema, convert = converter
            writer.write(topic, schema, convert(message), message)
        writer.finish()
    return left_out


class _JsonWriter:
    def __init__(self, file: Any) -> None:
        self._writer = Writer(file, compression=CompressionType.LZ4)
        self._writer.start(profile="", library="perception")
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}

    def write(self, topic: str, schema: str, document: Document, message: Message) -> None:
        if schema not in self._schemas:
            text = json.dumps({"title": schema, "type": "object"}).encode()
            self._schemas[schema] = self._writer.register_schema(schema, "jsonschema", text)
        if topic not in self._channels:
            self._channels[topic] = self._writer.register_channel(topic, "json", self._schemas[schema])
        t_ns = message.header.t_sensor_ns
        data = json.dumps(document, separators=(",", ":")).encode()
        self._writer.add_message(self._channels[topic], t_ns, data, t_ns, message.header.seq & 0xFFFF_FFFF)

    def finish(self) -> None:
        self._writer.finish()


def _stamp(message: Message) -> Document:
    seconds, nanoseconds = divmod(message.header.t_sensor_ns, 1_000_000_000)
    return {"sec": seconds, "nsec": nanoseconds}


def _head(message: Message) -> Document:
    return {"timestamp": _stamp(message), "frame_id": message.header.frame_id}


def rig_frames(rig: Rig, message: Message) -> Document:
    """Return the rig's static tree."""
    return {
        "transforms": [
            {
                "timestamp": _stamp(message), "parent_frame_id": parent, "child_frame_id": child,
                "translation": _xyz(rig.frames.transforms[child].translation_m),
                "rotation": _xyzw(rig.frames.transforms[child].rotation_xyzw),
            }
            for child, parent in rig.frames.parents.items()
        ]
    }  # fmt: skip


def _image(message: Image) -> Document:
    data = host(message.data)
    if message.encoding in ("jpeg", "png"):
        packed, kind = data.tobytes(), message.encoding
    else:
        packed, kind = _png(message, data), "png"
    return {**_head(message), "data": base64.b64encode(packed).decode(), "format": kind}


def _events(message: EventPacket) -> Document:
    pixels = np.full((message.height_px, message.width_px, 3), 255, np.uint8)
    rows, columns = host(message.y), host(message.x)
    pixels[rows, columns] = _DARKER_BRIGHTER[(host(message.polarity) > 0).astype(np.intp)]
    return {**_head(message), "data": base64.b64encode(_packed(pixels)).decode(), "format": "png"}


def _png(message: Image, data: Any) -> bytes:
    return _packed(np.ascontiguousarray(data[..., ::-1]) if message.encoding == "bgr8" else data)


def _packed(pixels: Any) -> bytes:
    from PIL import Image as PillowImage

    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _cloud(message: PointCloud) -> Document:
    columns = [host(message.xyz_m)]
    names = ["x", "y", "z"]
    if message.intensity is not None:
        columns.append(host(message.intensity)[:, None])
        names.append("intensity")
    rows = np.ascontiguousarray(np.hstack(columns), np.float32)
    fields = [{"name": name, "offset": 4 * place, "type": FLOAT32} for place, name in enumerate(names)]
    pose = {"position": _xyz((0, 0, 0)), "orientation": _xyzw((0, 0, 0, 1))}
    return {
        **_head(message), "pose": pose, "point_stride": 4 * len(names), "fields": fields,
        "data": base64.b64encode(rows.tobytes()).decode(),
    }  # fmt: skip


def _boxes(message: Detections3D) -> Document:
    yaw = host(message.yaw_rad)
    cubes = [
        _cube(center, size, (0.0, 0.0, float(np.sin(angle / 2)), float(np.cos(angle / 2))))
        for center, size, angle in zip(host(message.center_m), host(message.size_lwh_m), yaw, strict=True)
    ]
    return _scene(message, "detections", cubes, [])


def _objects(message: TrackedObjects) -> Document:
    cubes = [_cube(thing.center_m, thing.size_lwh_m, thing.rotation_xyzw) for thing in message.objects]
    texts = [
        {
            "pose": {"position": _xyz(thing.center_m), "orientation": _xyzw((0, 0, 0, 1))}, "billboard": True,
            "font_size": 12, "scale_invariant": True, "color": {"r": 1, "g": 1, "b": 1, "a": 1},
            "text": f"{thing.classes[0].label if thing.classes else '?'} {thing.id & 0xFFFF}",
        }
        for thing in message.objects
    ]  # fmt: skip
    return _scene(message, "objects", cubes, texts)


def _scene(message: Message, name: str, cubes: list[Document], texts: list[Document]) -> Document:
    entity = {
        **_head(message), "id": name, "lifetime": {"sec": 0, "nsec": 300_000_000}, "frame_locked": True,
        "metadata": [], "arrows": [], "cubes": cubes, "spheres": [], "cylinders": [], "lines": [], "triangles": [],
        "texts": texts, "models": [],
    }  # fmt: skip
    return {"deletions": [], "entities": [entity]}


def _cube(center: Any, size: Any, rotation: Any) -> Document:
    pose = {"position": _xyz(center), "orientation": _xyzw(rotation)}
    return {"pose": pose, "size": _xyz(size), "color": _COLOUR}


def _odometry(message: Odometry) -> Document:
    moved = {
        "timestamp": _stamp(message), "parent_frame_id": "odom", "child_frame_id": "base_link",
        "translation": _xyz(message.translation_m), "rotation": _xyzw(message.rotation_xyzw),
    }  # fmt: skip
    return {"transforms": [moved]}


def _fix(message: Gnss) -> Document:
    return {
        **_head(message), "latitude": message.latitude_deg, "longitude": message.longitude_deg,
        "altitude": message.altitude_m, "position_covariance": [0.0] * 9, "position_covariance_type": 0,
    }  # fmt: skip


def _inertial(message: Imu) -> Document:
    turned = {} if message.orientation_xyzw is None else {"orientation": _xyzw(message.orientation_xyzw)}
    return {
        **_head(message), **turned, "angular_velocity_radps": _xyz(message.angular_velocity_radps),
        "acceleration_mps2": _xyz(message.acceleration_mps2),
    }  # fmt: skip


def _intrinsics(message: CameraInfo) -> Document:
    (fx, fy), (cx, cy) = message.focal_px, message.center_px
    return {
        **_head(message), "width": message.width_px, "height": message.height_px, "distortion_model": message.model,
        "D": list(message.coefficients), "K": [fx, 0, cx, 0, fy, cy, 0, 0, 1], "R": [1, 0, 0, 0, 1, 0, 0, 0, 1],
        "P": [fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0],
    }  # fmt: skip


def _xyz(values: Any) -> Document:
    x, y, z = (float(value) for value in values)
    return {"x": x, "y": y, "z": z}


def _xyzw(values: Any) -> Document:
    x, y, z, w = (float(value) for value in values)
    return {"x": x, "y": y, "z": z, "w": w}


CONVERTERS: Mapping[type[Message], tuple[str, Callable[[Any], Document]]] = {
    Image: ("foxglove.CompressedImage", _image),
    PointCloud: ("foxglove.PointCloud", _cloud),
    Detections3D: ("foxglove.SceneUpdate", _boxes),
    TrackedObjects: ("foxglove.SceneUpdate", _objects),
    Odometry: ("foxglove.FrameTransforms", _odometry),
    Gnss: ("foxglove.LocationFix", _fix),
    EventPacket: ("foxglove.CompressedImage", _events),
    Imu: (Imu.SCHEMA, _inertial),
    CameraInfo: ("foxglove.CameraCalibration", _intrinsics),
}

__all__ = ["export_foxglove", "rig_frames"]
