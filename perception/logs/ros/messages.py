"""Turn ROS messages into ours. Objects as rosbags deserializes them: attributes by field name, numpy for numbers.

Frames keep their ROS names; stamps are the header's, and the bag's where a header has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import LogError
from perception.messages import CameraInfo, Gnss, Header, Image, Imu, Message, Odometry, PointCloud

Convert: TypeAlias = Callable[[Any, Header], Message]
Encoding: TypeAlias = Literal["rgb8", "bgr8", "mono8", "mono16", "jpeg", "png"]
_PLAIN: Mapping[str, tuple[Encoding, int, str]] = {
    "rgb8": ("rgb8", 3, "u1"), "bgr8": ("bgr8", 3, "u1"), "mono8": ("mono8", 1, "u1"), "8UC1": ("mono8", 1, "u1"),
    "8UC3": ("bgr8", 3, "u1"), "mono16": ("mono16", 1, "u2"), "16UC1": ("mono16", 1, "u2"),
    "rgba8": ("rgb8", 4, "u1"), "bgra8": ("bgr8", 4, "u1"),
}  # fmt: skip
_FIELD_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_MODELS: Mapping[str, tuple[Literal["plumb_bob", "rational_polynomial", "kannala_brandt"], int]] = {
    "plumb_bob": ("plumb_bob", 5), "rational_polynomial": ("rational_polynomial", 8),
    "equidistant": ("kannala_brandt", 4), "fisheye": ("kannala_brandt", 4), "kannala_brandt": ("kannala_brandt", 4),
}  # fmt: skip
"""Our name of a model and how many coefficients it has. The last three are one: of ROS, old drivers, and Foxglove."""


def stamp_ns(stamp: Any) -> int:
    """Return a ROS time (sec, nanosec or nsec) in nanoseconds."""
    fraction = stamp.nanosec if hasattr(stamp, "nanosec") else stamp.nsec
    return int(stamp.sec) * 1_000_000_000 + int(fraction)


def image(message: Any, header: Header) -> Image:
    """`sensor_msgs/Image`, rows without their padding; alpha is left out."""
    known = _PLAIN.get(message.encoding)
    if known is None:
        raise LogError(f"image encoding '{message.encoding}'; expected one of {', '.join(_PLAIN)}")
    encoding, channels, kind = known
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.asarray(message.data, np.uint8)
    row = width * channels * int(kind[1])
    if step < row or len(data) < step * height or not height * width:
        raise LogError(f"image of {width} x {height} with {len(data)} bytes in rows of {step}: not whole")
    pixels = np.ascontiguousarray(data[: step * height].reshape(height, step)[:, :row])
    typed = pixels.view(np.dtype((">" if message.is_bigendian else "<") + kind)).astype(kind)
    shaped = typed.reshape(height, width) if channels == 1 else typed.reshape(height, width, channels)[..., :3]
    return Image(header=header, encoding=encoding, height_px=height, width_px=width, data=np.ascontiguousarray(shaped))


def compressed_image(message: Any, header: Header) -> Image:
    """`sensor_msgs/CompressedImage` with JPEG or PNG."""
    return packed_image(np.asarray(message.data, np.uint8), header)


def packed_image(data: NDArray[np.uint8], header: Header) -> Image:
    """Return the message of a JPEG or PNG, recognised by its bytes, as they are."""
    from io import BytesIO

    from PIL import Image as PillowImage

    encoding: Encoding | None = None
    if data[:2].tobytes() == b"\xff\xd8":
        encoding = "jpeg"
    elif data[:4].tobytes() == b"\x89PNG":
        encoding = "png"
    if encoding is None:
        raise LogError("compressed image that is neither JPEG nor PNG")
    try:
        with PillowImage.open(BytesIO(data.tobytes())) as picture:
            width, height = picture.size
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError) as error:
        raise LogError(f"not a whole picture: {error}") from None
    return Image(header=header, encoding=encoding, height_px=height, width_px=width, data=np.ascontiguousarray(data))


def point_cloud(message: Any, header: Header) -> PointCloud:
    """`sensor_msgs/PointCloud2` with x, y, z and, where there are such, intensity, ring and time; no NaN points."""
    fields = {field.name: field for field in message.fields}
    count, step = int(message.width) * int(message.height), int(message.point_step)
    data = np.asarray(message.data, np.uint8)
    if not {"x", "y", "z"} <= set(fields) or step <= 0 or len(data) < count * step:
        raise LogError(f"PointCloud2 with fields {', '.join(fields)} and {len(data)} bytes: no whole cloud of x, y, z")
    order = ">" if message.is_bigendian else "<"
    known = {name: field for name, field in fields.items() if field.datatype in _FIELD_TYPES and name}
    rows = np.frombuffer(
        data[: count * step].tobytes(),
        np.dtype({
            "names": list(known), "formats": [order + _FIELD_TYPES[f.datatype] for f in known.values()],
            "offsets": [int(f.offset) for f in known.values()], "itemsize": step,
        }),
    )  # fmt: skip
    xyz = np.stack([rows[axis].astype(np.float32) for axis in "xyz"], axis=1)
    good = np.isfinite(xyz).all(axis=1)
    rows, xyz = rows[good], xyz[good]
    intensity = _first(rows, ("intensity", "i", "reflectivity"))
    ring = _first(rows, ("ring", "channel", "line"))
    offset = _offsets(rows)
    if offset is not None and len(offset) and offset.max() > 0:  # counted from the sweep's first point
        header = _restamped(header, header.t_sensor_ns + int(offset.max()))
        offset = offset - offset.max()
    return PointCloud(
        header=header, xyz_m=xyz,
        intensity=None if intensity is None else intensity.astype(np.float32),
        intensity_scale=255.0 if intensity is not None and len(intensity) and float(intensity.max()) > 1.0 else 1.0,
        ring=None if ring is None else ring.astype(np.uint16),
        t_offset_ns=None if offset is None else offset.clip(-(2**31), 0).astype(np.int32),
    )  # fmt: skip


def _first(rows: NDArray[np.void], names: tuple[str, ...]) -> NDArray[Any] | None:
    return next((rows[name] for name in names if name in (rows.dtype.names or ())), None)


def _offsets(rows: NDArray[np.void]) -> NDArray[np.int64] | None:
    """Return nanoseconds to the stamp: `t` and `time_stamp` count them, `time` and `timestamp` are seconds."""
    names = rows.dtype.names or ()
    for name in ("t", "time_stamp"):
        if name in names and rows[name].dtype.kind in "iu":
            return np.asarray(rows[name].astype(np.int64))
    if "time" in names and rows["time"].dtype.kind == "f" and (not len(rows) or np.abs(rows["time"]).max() < 10):
        return np.round(rows["time"].astype(np.float64) * 1e9).astype(np.int64)
    return None


def _restamped(header: Header, t_ns: int) -> Header:
    return Header(frame_id=header.frame_id, t_sensor_ns=t_ns, clock=header.clock, seq=header.seq)


def imu(message: Any, header: Header) -> Imu:
    """`sensor_msgs/Imu`; an orientation whose covariance begins with -1 is not known."""
    q = message.orientation
    known = float(message.orientation_covariance[0]) != -1.0 and abs(q.x**2 + q.y**2 + q.z**2 + q.w**2 - 1) < 0.1
    return Imu(
        header=header, angular_velocity_radps=_xyz(message.angular_velocity),
        acceleration_mps2=_xyz(message.linear_acceleration),
        orientation_xyzw=(float(q.x), float(q.y), float(q.z), float(q.w)) if known else None,
    )  # fmt: skip


def gnss(message: Any, header: Header) -> Gnss:
    """`sensor_msgs/NavSatFix` with a fix."""
    if int(message.status.status) < 0:
        raise LogError("NavSatFix without a fix")
    covariance = np.asarray(message.position_covariance, np.float64)
    known = int(message.position_covariance_type) > 0
    east, north, up = np.sqrt(np.clip(covariance[[0, 4, 8]], 0, None)).tolist()
    return Gnss(
        header=header, latitude_deg=float(message.latitude), longitude_deg=float(message.longitude),
        altitude_m=float(message.altitude), position_std_m=(east, north, up) if known else None,
    )  # fmt: skip


def odometry(message: Any, header: Header) -> Odometry:
    """`nav_msgs/Odometry`: the pose of its child frame, velocities in that frame."""
    pose, twist = message.pose.pose, message.twist.twist
    q = pose.orientation
    covariance = np.asarray(message.pose.covariance, np.float64).reshape(6, 6)
    upper = tuple(float(value) for value in covariance[np.triu_indices(6)]) if covariance.any() else None
    return Odometry(
        header=Header(frame_id="odom", t_sensor_ns=header.t_sensor_ns, clock=header.clock, seq=header.seq),
        translation_m=_xyz(pose.position), rotation_xyzw=(float(q.x), float(q.y), float(q.z), float(q.w)),
        velocity_mps=_xyz(twist.linear), angular_velocity_radps=_xyz(twist.angular), covariance=upper,
    )  # fmt: skip


def camera_info(message: Any, header: Header) -> CameraInfo:
    """`sensor_msgs/CameraInfo`: plumb_bob, rational_polynomial, and equidistant or fisheye as kannala_brandt."""
    k = message.k if hasattr(message, "k") else message.K
    d = message.d if hasattr(message, "d") else message.D
    return intrinsics(
        str(message.distortion_model), (int(message.width), int(message.height)), np.asarray(k), np.asarray(d), header
    )


def intrinsics(model: str, size_wh: tuple[int, int], k: NDArray[Any], d: NDArray[Any], header: Header) -> CameraInfo:
    """Return intrinsics in our names; `k` is the camera matrix in rows, `d` the model's coefficients.

    Raises:
        LogError: another model, no camera matrix, or more coefficients than the model has here.
    """
    name, count = _MODELS.get(model or "plumb_bob", (None, 0))
    if name is None or len(k) != 9 or not float(k[0]) > 0:
        raise LogError(f"camera model '{model}' with {len(k)} numbers of K; expected one of {', '.join(_MODELS)}")
    if np.any(d[count:]):
        raise LogError(f"camera model '{model}' with {len(d)} coefficients; expected {count} at most that are not 0")
    padded = np.zeros(count)
    padded[: min(count, len(d))] = np.asarray(d, np.float64)[:count]
    return CameraInfo(
        header=header, width_px=size_wh[0], height_px=size_wh[1], model=name, focal_px=(float(k[0]), float(k[4])),
        center_px=(float(k[2]), float(k[5])), coefficients=tuple(float(value) for value in padded),
    )  # fmt: skip


def _xyz(vector: Any) -> tuple[float, float, float]:
    return float(vector.x), float(vector.y), float(vector.z)


CONVERTERS: Mapping[str, tuple[type[Message], str, Convert]] = {
    "sensor_msgs/msg/Image": (Image, "image", image),
    "sensor_msgs/msg/CompressedImage": (Image, "image", compressed_image),
    "sensor_msgs/msg/PointCloud2": (PointCloud, "points", point_cloud),
    "sensor_msgs/msg/Imu": (Imu, "imu", imu),
    "sensor_msgs/msg/NavSatFix": (Gnss, "gnss", gnss),
    "nav_msgs/msg/Odometry": (Odometry, "odometry", odometry),
    "sensor_msgs/msg/CameraInfo": (CameraInfo, "camera_info", camera_info),
}
"""ROS type -> our message, the last part of its topic, and how to convert."""

__all__ = ["CONVERTERS", "Convert", "camera_info", "intrinsics", "packed_image", "stamp_ns"]
