"""What sensors say.

Arrays are declared with dtype and shape legend; the codec checks both when it writes and when it reads. Optional arrays
are `None` where the sensor does not have them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from perception.messages.array import Array
from perception.messages.message import Message
from perception.messages.spec import ArraySpec


class Image(Message, frozen=True, kw_only=True):
    """A picture in `<camera>_optical`; stamped at mid exposure."""

    SCHEMA: ClassVar[str] = "perception.image/1"
    encoding: Literal["rgb8", "bgr8", "mono8", "mono16", "jpeg", "png"]
    height_px: int
    width_px: int
    data: Annotated[Array, ArraySpec("uint8 uint16", "(H, W, C), (H, W) or, for jpeg and png, (bytes,)")]
    exposure_ns: int = 0


class PointCloud(Message, frozen=True, kw_only=True):
    """One sweep, in the frame `header.frame_id`; the stamp is the last point's time."""

    SCHEMA: ClassVar[str] = "perception.point_cloud/1"
    xyz_m: Annotated[Array, ArraySpec("float32", "(N, 3)")]
    intensity: Annotated[Array | None, ArraySpec("float32", "(N,)")] = None
    intensity_scale: float = 1.0  # the intensity that a full-scale return has: 1 or 255
    ring: Annotated[Array | None, ArraySpec("uint16", "(N,)")] = None
    t_offset_ns: Annotated[Array | None, ArraySpec("int32", "(N,)")] = None  # <= 0, to the header's stamp
    elongation: Annotated[Array | None, ArraySpec("float32", "(N,)")] = None
    deskewed_to_ns: int | None = None  # the instant all points were moved to; None: as measured


class EventPacket(Message, frozen=True, kw_only=True):
    """Events in time order; the stamp is the last event's time."""

    SCHEMA: ClassVar[str] = "perception.event_packet/1"
    height_px: int
    width_px: int
    t_ns: Annotated[Array, ArraySpec("int64", "(N,)")]
    x: Annotated[Array, ArraySpec("uint16", "(N,)")]
    y: Annotated[Array, ArraySpec("uint16", "(N,)")]
    polarity: Annotated[Array, ArraySpec("uint8", "(N,)")]  # 1 brighter, 0 darker
    dropped: int = 0  # events that the source or an overload policy left out of this span
    events_before: int | None = None  # of the stream, dropped ones included: a gap tells how many were lost on the way


class Trigger(Message, frozen=True, kw_only=True):
    """An edge on an external trigger input."""

    SCHEMA: ClassVar[str] = "perception.trigger/1"
    channel: int
    rising: bool


class Imu(Message, frozen=True, kw_only=True):
    """Angular rate and specific force in the sensor's frame; orientation where the sensor estimates it."""

    SCHEMA: ClassVar[str] = "perception.imu/1"
    angular_velocity_radps: tuple[float, float, float]
    acceleration_mps2: tuple[float, float, float]
    orientation_xyzw: tuple[float, float, float, float] | None = None


class Gnss(Message, frozen=True, kw_only=True):
    """A position on WGS-84."""

    SCHEMA: ClassVar[str] = "perception.gnss/1"
    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    position_std_m: tuple[float, float, float] | None = None  # east, north, up
    velocity_enu_mps: tuple[float, float, float] | None = None
    heading_rad: float | None = None  # counter-clockwise from east


class Odometry(Message, frozen=True, kw_only=True):
    """`odom_from_base_link` at the stamp, and velocities in `base_link`; `header.frame_id` is "odom"."""

    SCHEMA: ClassVar[str] = "perception.odometry/1"
    translation_m: tuple[float, float, float]
    rotation_xyzw: tuple[float, float, float, float]
    velocity_mps: tuple[float, float, float] = (0.0, 0.0, 0.0)
    angular_velocity_radps: tuple[float, float, float] = (0.0, 0.0, 0.0)
    covariance: tuple[float, ...] | None = None  # 21 numbers: upper triangle of (x y z roll pitch yaw), row by row


class CameraInfo(Message, frozen=True, kw_only=True):
    """The intrinsics a camera was calibrated with."""

    SCHEMA: ClassVar[str] = "perception.camera_info/1"
    height_px: int
    width_px: int
    model: Literal["plumb_bob", "rational_polynomial", "kannala_brandt", "ocam", "double_sphere"]
    focal_px: tuple[float, float]
    center_px: tuple[float, float]
    coefficients: tuple[float, ...]


class RawPackets(Message, frozen=True, kw_only=True):
    """Packets as the sensor sent them, back to back; packet i is data[offsets[i]:offsets[i + 1]]."""

    SCHEMA: ClassVar[str] = "perception.raw_packets/1"
    format: str  # "velodyne", "hesai", "ouster", "evt3", ...
    data: Annotated[Array, ArraySpec("uint8", "(bytes,)")]
    offsets: Annotated[Array, ArraySpec("int64", "(packets + 1,)")]
    t_packet_ns: Annotated[Array, ArraySpec("int64", "(packets,)")]
