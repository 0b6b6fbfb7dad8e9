"""Where tracked objects are in the picture of an event camera, at an instant after they were tracked."""

from __future__ import annotations

from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform
from perception.messages import FusedObject, Odometry, TrackedObjects
from perception.ops.events import Events

Region: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom are the first outside."""
_CORNERS = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])


def regions_of(
    objects: TrackedObjects, t_ns: int, camera: Camera, optical_from_base_link: Transform, ego: Odometry | None,
    margin: float, least_px: int,
) -> dict[int, Region]:  # fmt: skip
    """Return the region of each tracked object that the camera sees, by track id, the nearest object first.

    Args:
        objects: poses in `base_link` at their stamp.
        t_ns: the instant wanted; objects move by their velocity over ground, and the car by `ego`, where both are
            known.
        camera: intrinsics of the event camera.
        optical_from_base_link: where it is.
        ego: `odom_from_base_link` at `t_ns`.
        margin: added on each side, as a share of the region's size.
        least_px: regions narrower or lower than this are left out.
    """
    then = _pose(objects.odom_from_base_link)
    found: list[tuple[float, int, Region]] = []
    for item in objects.objects:
        if not item.id:
            continue
        corners = _corners(item)
        if then is not None and ego is not None:
            moved = (t_ns - objects.header.t_sensor_ns) * 1e-9 * np.array(item.velocity_mps or (0.0, 0.0, 0.0))
            now = Transform.from_quaternion(ego.translation_m, ego.rotation_xyzw)
            corners = now.inverse().apply(then.apply(corners + moved))
        points = optical_from_base_link.apply(corners)
        pixels, valid = camera.project(points, inside=False)
        region = _region(pixels[valid], camera, margin, least_px) if valid.any() else None
        if region is not None:
            found.append((float(np.linalg.norm(points.mean(axis=0))), item.id, region))
    return {identity: region for _, identity, region in sorted(found)}


def of_classes(objects: TrackedObjects, classes: tuple[str, ...]) -> TrackedObjects:
    """Return the objects whose likeliest class is one of these; all where none is given."""
    if not classes:
        return objects
    kept = tuple(
        item
        for item in objects.objects
        if item.classes and max(item.classes, key=lambda entry: entry.probability).label in classes
    )
    return msgspec.structs.replace(objects, objects=kept)


def inside_region(events: Events, region: Region) -> Events:
    """Return the events in a region, counted from its corner."""
    left, top, right, bottom = region
    within = (events.x >= left) & (events.x < right) & (events.y >= top) & (events.y < bottom)
    cut = events[within]
    return Events(cut.t_ns, (cut.x - left).astype(np.uint16), (cut.y - top).astype(np.uint16), cut.polarity)


def _corners(item: FusedObject) -> NDArray[np.float64]:
    pose = Transform.from_quaternion(item.center_m, item.rotation_xyzw)
    return pose.apply(_CORNERS * np.array(item.size_lwh_m))


def _pose(values: tuple[float, ...] | None) -> Transform | None:
    return None if values is None else Transform.from_quaternion(values[:3], values[3:])


def _region(pixels: NDArray[np.float64], camera: Camera, margin: float, least_px: int) -> Region | None:
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    grown = margin * (high - low)
    left, top = np.clip(np.floor(low - grown), 0, (camera.width_px, camera.height_px)).astype(int)
    right, bottom = np.clip(np.ceil(high + grown) + 1, 0, (camera.width_px, camera.height_px)).astype(int)
    if right - left < least_px or bottom - top < least_px:
        return None
    return int(left), int(top), int(right), int(bottom)


__all__ = ["Region", "inside_region", "of_classes", "regions_of"]
