"""What networks, the fuser and the tracker say.

Boxes: geometric centre, size length x width x height, yaw counter-clockwise from +x, in `header.frame_id`.
Planner messages follow autoware_perception_msgs: existence probability, class list, covariance with `has_*` flags.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from perception.messages.array import Array
from perception.messages.message import Message
from perception.messages.spec import ArraySpec


class Detections2D(Message, frozen=True, kw_only=True):
    """Boxes in an image, pixels of the full-size picture."""

    SCHEMA: ClassVar[str] = "perception.detections_2d/1"
    classes: tuple[str, ...]
    box_px: Annotated[Array, ArraySpec("float32", "(N, 4)")]  # left, top, right, bottom
    score: Annotated[Array, ArraySpec("float32", "(N,)")]
    label: Annotated[Array, ArraySpec("uint16", "(N,)")]  # index into classes


class Detections3D(Message, frozen=True, kw_only=True):
    """Boxes in space."""

    SCHEMA: ClassVar[str] = "perception.detections_3d/1"
    classes: tuple[str, ...]
    center_m: Annotated[Array, ArraySpec("float32", "(N, 3)")]
    size_lwh_m: Annotated[Array, ArraySpec("float32", "(N, 3)")]
    yaw_rad: Annotated[Array, ArraySpec("float32", "(N,)")]
    score: Annotated[Array, ArraySpec("float32", "(N,)")]
    label: Annotated[Array, ArraySpec("uint16", "(N,)")]
    velocity_mps: Annotated[Array | None, ArraySpec("float32", "(N, 2)")] = None  # over ground, axes of the frame
    identities: tuple[str, ...] = ()  # what each class is to a planner; empty: its name


class ObjectClass(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of an object's class list."""

    label: str
    probability: float


class Skeleton(msgspec.Struct, frozen=True, kw_only=True):
    """One body: joints in `header.frame_id`."""

    joints_m: tuple[tuple[float, float, float], ...]
    confidence: tuple[float, ...]
    track_id: int = 0


class PastPose(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where an object was, in `base_link` as it stands at the header's stamp."""

    t_ns: int
    x_m: float
    y_m: float
    yaw_rad: float


class ObjectMotion(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """By what a client moves an object on: `turning` at constant speed and turn rate, or `straight`.

    `covariance` is the upper triangle, row by row, 15 numbers: of x, y, yaw, speed along the heading and turn rate
    (turning), or x, y, yaw and velocity along x and y (straight).
    """

    kind: Literal["turning", "straight"]
    yaw_rate_radps: float  # 0 where it is straight
    acceleration_mps2: float  # standard deviation of what the object does until it is seen again
    turn_noise: float  # rad/s2 (turning) or rad/s (straight)
    covariance: tuple[float, ...]


class FusedObject(msgspec.Struct, frozen=True, gc=False):
    """One object for planners, pose in `base_link` at the header's stamp.

    Covariances are the upper triangle, row by row: pose (x y z roll pitch yaw) 21 numbers, velocity (vx vy vz) 6.
    """

    id: int  # 64 bits: run and counter; 0 before tracking
    existence_probability: float
    classes: tuple[ObjectClass, ...]
    center_m: tuple[float, float, float]
    rotation_xyzw: tuple[float, float, float, float]
    size_lwh_m: tuple[float, float, float]
    orientation_availability: Literal["unavailable", "sign_unknown", "available"] = "available"
    velocity_mps: tuple[float, float, float] | None = None  # over ground, base_link axes
    covariance_pose: tuple[float, ...] | None = None
    covariance_velocity: tuple[float, ...] | None = None
    has_position_covariance: bool = False
    has_velocity: bool = False
    has_velocity_covariance: bool = False
    age_ns: int = 0  # since the object was first seen
    last_seen_ns: int = 0  # stamp of the last detection behind it
    sources: tuple[str, ...] = ()  # topics
    semantics: tuple[ObjectClass, ...] = ()  # share of painted classes among its points
    num_points: int = 0
    visibility: float | None = None  # share that nothing hides from the sensor, where known: truth
    motion: ObjectMotion | None = None  # None where its velocity is not known
    history: tuple[PastPose, ...] = ()  # oldest first
    recognitions: tuple[ObjectClass, ...] = ()  # of the recogniser whose region is this object's
    skeleton: Skeleton | None = None  # in `base_link` at the header's stamp


class TrackedObjects(Message, frozen=True, kw_only=True):
    """The object list for planners."""

    SCHEMA: ClassVar[str] = "perception.tracked_objects/1"
    objects: tuple[FusedObject, ...]
    odom_from_base_link: tuple[float, float, float, float, float, float, float] | None = None  # xyz, qx qy qz qw
    valid_until_ns: int = 0  # do not extrapolate beyond; 0: not stated


class SegmentationMask(Message, frozen=True, kw_only=True):
    """A class for each pixel of the full-size picture; 255 is unknown. `mask_labels(mask)` writes runs out."""

    SCHEMA: ClassVar[str] = "perception.segmentation_mask/1"
    classes: tuple[str, ...]
    label: Annotated[Array, ArraySpec("uint8", "(H, W) or, in runs, (R,)")]
    confidence: Annotated[Array | None, ArraySpec("uint8", "(H, W)")] = None  # 255 is certain
    identities: tuple[str, ...] = ()  # what each class is to a planner; empty: its name
    entropy: Annotated[Array | None, ArraySpec("uint8", "(H, W)")] = None  # 0 is certain, 255 all classes alike
    run_length: Annotated[Array | None, ArraySpec("uint32", "(R,)")] = None  # pixels of each run, row by row
    height_px: int = 0  # of a mask in runs
    width_px: int = 0


class PaintedPoints(Message, frozen=True, kw_only=True):
    """LiDAR points with the class of the pixel they fall on; 255 where no camera sees them."""

    SCHEMA: ClassVar[str] = "perception.painted_points/1"
    classes: tuple[str, ...]
    xyz_m: Annotated[Array, ArraySpec("float32", "(N, 3)")]
    label: Annotated[Array, ArraySpec("uint8", "(N,)")]
    confidence: Annotated[Array | None, ArraySpec("uint8", "(N,)")] = None
    camera: Annotated[Array | None, ArraySpec("uint8", "(N,)")] = None  # index into cameras, 255 none
    cameras: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()  # what each class is to a planner; empty: its name


class FreeSpace(Message, frozen=True, kw_only=True):
    """A polygon on the ground plane that is known to be free, counter-clockwise; no points where none is known."""

    SCHEMA: ClassVar[str] = "perception.free_space/1"
    polygon_m: Annotated[Array, ArraySpec("float32", "(N, 2)")]


class Pose3D(Message, frozen=True, kw_only=True):
    """Skeletons; `limbs` are pairs of indices into `joint_names`."""

    SCHEMA: ClassVar[str] = "perception.pose_3d/1"
    joint_names: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    skeletons: tuple[Skeleton, ...]
    reference: Literal["fixed", "topic", "truth"] = "fixed"


class Recognition(Message, frozen=True, kw_only=True):
    """Top classes for a region over a span of time."""

    SCHEMA: ClassVar[str] = "perception.recognition/1"
    t_begin_ns: int
    t_end_ns: int
    top: tuple[ObjectClass, ...]
    region_px: tuple[int, int, int, int] | None = None  # left, top, right, bottom; None: whole field of view
    track_id: int = 0


class InputStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One input of a node since the last status."""

    topic: str
    received: int
    rate_hz: float
    dropped: dict[str, int]  # reason -> count since the start


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one node is doing."""

    node: str
    state: Literal["starting", "ok", "degraded", "late", "lost"]
    epoch: int
    inputs: tuple[InputStatus, ...]
    published: dict[str, int]  # topic -> messages since the start
    latency_p50_ms: float  # of its calls that gave something out; of all where it has no outputs
    latency_p99_ms: float
    memory_mb: float
    age_ms: float | None = None  # of the sensor data in its last output, when that was published; None for a source
    last_error: str = ""
    degraded: tuple[str, ...] = ()  # what makes its output worth less, for example "untrained weights"
    notes: tuple[str, ...] = ()  # facts, for example "paced by detector: 12 of lidar/points held back"


class LinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One topic of a process that crosses to, or comes from, another host; counted since the process started."""

    topic: str
    sent: int = 0  # records given to TCP, once for all readers
    received: int = 0  # records taken from TCP


class Status(Message, frozen=True, kw_only=True):
    """All nodes of one process."""

    SCHEMA: ClassVar[str] = "perception.status/1"
    process: str
    host: str
    pid: int
    nodes: tuple[NodeStatus, ...]
    sources_ended: bool = False  # its sources have given their last message; True where it has none
    links: tuple[LinkStatus, ...] = ()  # what crosses between hosts; empty on a rig of one


class GraphState(Message, frozen=True, kw_only=True):
    """One word for planners, and why."""

    SCHEMA: ClassVar[str] = "perception.graph_state/1"
    state: Literal["ok", "degraded", "unsafe"]
    reasons: tuple[str, ...]
    sensors: dict[str, Literal["ok", "late", "frozen", "lost"]]
    nodes: dict[str, str]
    period_ns: int = 500_000_000  # the next one comes within it; silence for two periods means unsafe
    late: dict[str, int] = msgspec.field(
        default_factory=dict
    )  # output -> how often it missed its deadline since the start
