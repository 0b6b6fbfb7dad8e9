"""Export a log to a ROS 2 bag (a folder, MCAP storage) through rosbags: pictures, clouds, IMU, GNSS and odometry.

The rig's places go to /tf_static, kept for who subscribes late, and its intrinsics with each picture to CameraInfo; a
camera model that ROS does not have stays out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from perception.errors import LogError, NotInstalledError
from perception.geometry.rig import Rig
from perception.logs.camera_infos import camera_infos
from perception.logs.log import Log
from perception.messages import CameraInfo, Gnss, Image, Imu, Message, Odometry, PointCloud, host

Fields: TypeAlias = dict[str, Any]
_CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1, "mono16": 2}


def export_ros2(log: Log, out: Path) -> Counter[str]:
    """Write a log; return how many messages of each topic stayed out.

    Raises:
        LogError: `out` exists.
        NotInstalledError: rosbags is missing.
    """
    try:
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        raise NotInstalledError("writing ROS 2 bags needs rosbags: pip install 'perception-runtime[ros]'") from None
    if out.exists():
        raise LogError(f"{out}: exists already; nothing is overwritten. Give another name.")
    store = get_typestore(Stores.ROS2_HUMBLE)
    left_out: Counter[str] = Counter()
    with Writer(out, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[tuple[str, str], Any] = {}

        def write(topic: str, kind: str, fields: Fields, t_ns: int, latched: bool = False) -> None:
            key = (topic, kind)
            if key not in connections:
                profiles = _latched() if latched else ()
                connections[key] = writer.add_connection(
                    f"/{topic}", kind, typestore=store, offered_qos_profiles=profiles
                )
            writer.write(connections[key], t_ns, store.serialize_cdr(store.types[kind](**fields), kind))

        rig, topics = log.rig, log.topics()
        for topic, message in with_intrinsics(log.messages(), rig, topics):
            t_ns = message.header.t_sensor_ns
            if not connections and rig is not None:
                write("tf_static", *_static_transforms(rig, message, store.types), t_ns, latched=True)
            found = CONVERTERS.get(type(message))
            if found is None or (isinstance(message, CameraInfo) and message.model not in _ROS_MODELS):
                left_out[topic] += 1
                continue
            write(topic, *found(message, store.types), t_ns)
    return left_out


def with_intrinsics(
    messages: Iterable[tuple[str, Message]], rig: Rig | None, topics: Container[str]
) -> Iterator[tuple[str, Message]]:
    """Yield messages, and behind each picture its camera's intrinsics, where the rig has them and the log does not."""
    for topic, message in messages:
        yield topic, message
        info = f"{topic.removesuffix('/image')}/camera_info"
        if rig is not None and isinstance(message, Image) and info not in topics:
            infos = camera_infos(rig, message.header.t_sensor_ns)
            if info in infos:
                yield info, infos[info]


def _latched() -> tuple[Any, ...]:
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    ever = QosTime(2147483647, 4294967295)
    return (
        Qos(QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, ever, ever,
            QosLiveliness.AUTOMATIC, ever, avoid_ros_namespace_conventions=False),
    )  # fmt: skip


def _static_transforms(rig: Rig, message: Message, types: Mapping[str, Any]) -> tuple[str, Fields]:
    seconds, nanoseconds = divmod(message.header.t_sensor_ns, 1_000_000_000)
    stamped = []
    for child, parent in rig.frames.parents.items():
        transform = rig.frames.transforms[child]
        x, y, z, w = map(float, transform.rotation_xyzw)
        a, b, c = map(float, transform.translation_m)
        stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
        stamped.append(
            types["geometry_msgs/msg/TransformStamped"](
                header=types["std_msgs/msg/Header"](stamp=stamp, frame_id=parent), child_frame_id=child,
                transform=types["geometry_msgs/msg/Transform"](
                    translation=_vector((a, b, c), types),
                    rotation=types["geometry_msgs/msg/Quaternion"](x=x, y=y, z=z, w=w),
                ),
            )
        )  # fmt: skip
    return "tf2_msgs/msg/TFMessage", {"transforms": stamped}


def _header(message: Message, types: Mapping[str, Any]) -> Any:
    seconds, nanoseconds = divmod(message.header.t_sensor_ns, 1_000_000_000)
    stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=message.header.frame_id)


def _image(message: Image, types: Mapping[str, Any]) -> tuple[str, Fields]:
    data = host(message.data)
    if message.encoding in ("jpeg", "png"):
        fields = {"header": _header(message, types), "format": message.encoding, "data": data}
        return "sensor_msgs/msg/CompressedImage", fields
    flat = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    return "sensor_msgs/msg/Image", {
        "header": _header(message, types), "height": message.height_px, "width": message.width_px,
        "encoding": message.encoding, "is_bigendian": 0, "step": message.width_px * _CHANNELS[message.encoding],
        "data": flat,
    }  # fmt: skip


def _cloud(message: PointCloud, types: Mapping[str, Any]) -> tuple[str, Fields]:
    columns: list[tuple[str, str, int, Any]] = [
        (axis, "<f4", 7, host(message.xyz_m)[:, place]) for place, axis in enumerate("xyz")
    ]
    if message.intensity is not None:
        columns.append(("intensity", "<f4", 7, host(message.intensity)))
    if message.ring is not None:
        columns.append(("ring", "<u2", 4, host(message.ring)))
    if message.t_offset_ns is not None:
        columns.append(("time", "<f4", 7, host(message.t_offset_ns) * 1e-9))
    rows = np.zeros(len(host(message.xyz_m)), np.dtype([(name, form) for name, form, _, _ in columns]))
    field_type = types["sensor_msgs/msg/PointField"]
    fields = []
    for name, _, datatype, values in columns:
        rows[name] = values
        offset = rows.dtype.fields[name][1]  # type: ignore[index]  # a structured dtype has fields
        fields.append(field_type(name=name, offset=int(offset), datatype=datatype, count=1))
    step = rows.dtype.itemsize
    return "sensor_msgs/msg/PointCloud2", {
        "header": _header(message, types), "height": 1, "width": len(rows), "fields": fields, "is_bigendian": False,
        "point_step": step, "row_step": step * len(rows), "data": np.frombuffer(rows.tobytes(), np.uint8),
        "is_dense": True,
    }  # fmt: skip


def _imu(message: Imu, types: Mapping[str, Any]) -> tuple[str, Fields]:
    unknown = np.full(9, 0.0)
    unknown[0] = -1.0
    known = message.orientation_xyzw is not None
    x, y, z, w = message.orientation_xyzw or (0.0, 0.0, 0.0, 1.0)
    return "sensor_msgs/msg/Imu", {
        "header": _header(message, types),
        "orientation": types["geometry_msgs/msg/Quaternion"](x=x, y=y, z=z, w=w),
        "orientation_covariance": np.zeros(9) if known else unknown,
        "angular_velocity": _vector(message.angular_velocity_radps, types), "angular_velocity_covariance": np.zeros(9),
        "linear_acceleration": _vector(message.acceleration_mps2, types), "linear_acceleration_covariance": np.zeros(9),
    }  # fmt: skip


def _fix(message: Gnss, types: Mapping[str, Any]) -> tuple[str, Fields]:
    std = message.position_std_m
    covariance = np.zeros(9) if std is None else np.diag(np.square(std)).reshape(-1)
    return "sensor_msgs/msg/NavSatFix", {
        "header": _header(message, types), "status": types["sensor_msgs/msg/NavSatStatus"](status=0, service=1),
        "latitude": message.latitude_deg, "longitude": message.longitude_deg, "altitude": message.altitude_m,
        "position_covariance": covariance, "position_covariance_type": 0 if std is None else 2,
    }  # fmt: skip


def _odometry(message: Odometry, types: Mapping[str, Any]) -> tuple[str, Fields]:
    x, y, z, w = message.rotation_xyzw
    px, py, pz = message.translation_m
    pose = types["geometry_msgs/msg/Pose"](
        position=types["geometry_msgs/msg/Point"](x=px, y=py, z=pz),
        orientation=types["geometry_msgs/msg/Quaternion"](x=x, y=y, z=z, w=w),
    )
    twist = types["geometry_msgs/msg/Twist"](
        linear=_vector(message.velocity_mps, types), angular=_vector(message.angular_velocity_radps, types)
    )
    covariance = np.zeros((6, 6))
    if message.covariance is not None:
        covariance[np.triu_indices(6)] = message.covariance
        covariance = covariance + np.triu(covariance, 1).T
    return "nav_msgs/msg/Odometry", {
        "header": _header(message, types), "child_frame_id": "base_link",
        "pose": types["geometry_msgs/msg/PoseWithCovariance"](pose=pose, covariance=covariance.reshape(-1)),
        "twist": types["geometry_msgs/msg/TwistWithCovariance"](twist=twist, covariance=np.zeros(36)),
    }  # fmt: skip


_ROS_MODELS = {
    "plumb_bob": "plumb_bob", "rational_polynomial": "rational_polynomial", "kannala_brandt": "equidistant",
}  # fmt: skip


def _camera_info(message: CameraInfo, types: Mapping[str, Any]) -> tuple[str, Fields]:
    (fx, fy), (cx, cy) = message.focal_px, message.center_px
    roi = types["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return "sensor_msgs/msg/CameraInfo", {
        "header": _header(message, types), "height": message.height_px, "width": message.width_px,
        "distortion_model": _ROS_MODELS[message.model], "d": np.array(message.coefficients, np.float64),
        "k": np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1], np.float64), "r": np.eye(3).reshape(-1),
        "p": np.array([fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0], np.float64), "binning_x": 0, "binning_y": 0, "roi": roi,
    }  # fmt: skip


def _vector(values: tuple[float, float, float], types: Mapping[str, Any]) -> Any:
    x, y, z = values
    return types["geometry_msgs/msg/Vector3"](x=x, y=y, z=z)


CONVERTERS: Mapping[type[Message], Callable[[Any, Mapping[str, Any]], tuple[str, Fields]]] = {
    Image: _image,
    PointCloud: _cloud,
    Imu: _imu,
    Gnss: _fix,
    Odometry: _odometry,
    CameraInfo: _camera_info,
}

__all__ = ["export_ros2"]
