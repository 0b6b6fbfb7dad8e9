"""The truth as messages: exactly what a perfect network, tracker or localisation would say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from perception.geometry.rig import Rig
from perception.geometry.transforms import Transform
from perception.messages import (
    FreeSpace,
    FusedObject,
    Header,
    Image,
    ObjectClass,
    Odometry,
    PaintedPoints,
    Pose3D,
    Recognition,
    SegmentationMask,
    Skeleton,
    TrackedObjects,
)
from perception.simulation.camera import Picture
from perception.simulation.classes import CLASSES, IDENTITIES
from perception.simulation.intersections import jit
from perception.simulation.lidar import Sweep
from perception.simulation.motion import Motion
from perception.simulation.skeleton import JOINTS, LIMBS
from perception.simulation.world import World

NEAREST_LISTED_M = 100.0
DEPTH_PER_M = 256.0
"""As KITTI stores depth: 1/256 m, 0 where there is none."""


def objects(world: World, sweep: Sweep, header: Header, topic: str) -> TrackedObjects:
    """Return all objects within 100 m, with visibility and returns of a sweep; what nothing sees has visibility 0."""
    found, t_ns = world.objects(sweep.t_ns), header.t_sensor_ns
    pose = world.world_from_base_link(sweep.t_ns)
    boxes = found.boxes
    listed = np.linalg.norm(boxes.center_m[:, :2], axis=1) < NEAREST_LISTED_M
    half = boxes.yaw_rad[listed] / 2
    columns = zip(
        found.ids[listed].tolist(), found.kind[listed].tolist(), boxes.center_m[listed].tolist(),
        boxes.size_lwh_m[listed].tolist(), np.sin(half).tolist(), np.cos(half).tolist(),
        found.velocity_mps[listed].tolist(), sweep.points[listed].tolist(),
        sweep.visibility[listed].round(4).tolist(), strict=True,
    )  # fmt: skip
    return TrackedObjects(
        header=header,
        objects=tuple(
            FusedObject(
                id=number, existence_probability=1.0, classes=(ObjectClass(CLASSES[kind], 1.0),),
                center_m=tuple(center), size_lwh_m=tuple(size), rotation_xyzw=(0.0, 0.0, sine, cosine),
                velocity_mps=tuple(velocity), has_velocity=True, last_seen_ns=t_ns, sources=(topic,),
                num_points=points, visibility=visibility,
            )
            for number, kind, center, size, sine, cosine, velocity, points, visibility in columns
        ),
        odom_from_base_link=(*_three(pose.translation_m), *_four(pose.rotation_xyzw)),
    )  # fmt: skip


def painted(sweep: Sweep, header: Header) -> PaintedPoints:
    """Return the true class of every point of a sweep, in the sweep's frame and order; 255 for drops of rain."""
    return PaintedPoints(header=header, classes=CLASSES, xyz_m=sweep.xyz_m, label=sweep.semantic)


def mask(picture: Picture, header: Header) -> SegmentationMask:
    """Return the true class of every pixel."""
    return SegmentationMask(header=header, classes=CLASSES, label=picture.semantic, identities=IDENTITIES)


def depth(picture: Picture, header: Header) -> Image:
    """Return the distance along each pixel's ray, in 1/256 m; 0 for the sky and beyond 255 m."""
    values = np.empty(picture.distance_m.shape, np.uint16)
    _scale(picture.distance_m.reshape(-1), values.reshape(-1))
    return _image(header, values)


@jit
def _scale(distance_m: Any, values: Any) -> None:
    for i in range(len(values)):
        scaled = distance_m[i] * DEPTH_PER_M
        values[i] = np.uint16(scaled if scaled < 65535.5 else 0.0)


def instance(picture: Picture, header: Header) -> Image:
    """Return the id of the object that each pixel shows, as in `truth/objects`; 0 for none."""
    return _image(header, picture.instance)


def _image(header: Header, values: np.ndarray) -> Image:
    height, width = values.shape
    return Image(header=header, encoding="mono16", height_px=height, width_px=width, data=values)


def free_space(world: World, t_ns: int, header: Header) -> FreeSpace:
    """Return the polygon of `World.free_space`."""
    return FreeSpace(header=header, polygon_m=world.free_space(t_ns).astype(np.float32))


def ego(motion: Motion, t_s: float, header: Header) -> Odometry:
    """Return the true pose and motion of the vehicle."""
    return odometry(motion.world_from_base_link(t_s), motion.speed_at(t_s), motion.yaw_rate_radps(t_s), header)


def odometry(pose: Transform, speed_mps: float, turning_radps: float, header: Header) -> Odometry:
    """Return an odometry message of planar motion."""
    return Odometry(
        header=header, translation_m=_three(pose.translation_m), rotation_xyzw=_four(pose.rotation_xyzw),
        velocity_mps=(speed_mps, 0.0, 0.0), angular_velocity_radps=(0.0, 0.0, turning_radps),
    )  # fmt: skip


def skeleton(world: World, rig: Rig, camera: str, t_ns: int, header: Header) -> Pose3D:
    """Return the joints of who wears a camera, in its optical frame."""
    joints, _ = world.skeleton(rig, camera, t_ns)
    return _pose(header, JOINTS, LIMBS, joints)


def pelvis(world: World, rig: Rig, camera: str, t_ns: int, header: Header) -> Pose3D:
    """Return the reference point of EgoPoseFormer, in the optical frame of a camera: one joint, `pelvis`."""
    _, point = world.skeleton(rig, camera, t_ns)
    return _pose(header, ("pelvis",), (), point[None])


def _pose(header: Header, names: tuple[str, ...], limbs: tuple[tuple[int, int], ...], joints: np.ndarray) -> Pose3D:
    body = Skeleton(joints_m=tuple(_three(joint) for joint in joints), confidence=(1.0,) * len(names), track_id=1)
    return Pose3D(header=header, joint_names=names, limbs=limbs, skeletons=(body,), reference="truth")


def action(world: World, t_ns: int, start_ns: int, header: Header) -> Recognition:
    """Return what the person in the cabin does, from its beginning to this instant."""
    doing, begin_s = world.cabin.action_at(t_ns / 1e9)
    begin_ns = start_ns + round(begin_s * 1e9)
    return Recognition(header=header, t_begin_ns=begin_ns, t_end_ns=header.t_sensor_ns, top=(ObjectClass(doing, 1.0),))


def _three(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _four(values: Sequence[float] | np.ndarray) -> tuple[float, float, float, float]:
    x, y, z, w = (float(value) for value in values)
    return x, y, z, w


__all__ = [
    "action", "depth", "ego", "free_space", "instance", "mask", "objects", "odometry", "painted", "pelvis", "skeleton",
]  # fmt: skip
