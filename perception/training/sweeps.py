"""LiDAR sweeps of the synthetic world with the true boxes of what they hit, to train detectors on.

    sweep = simulated_sweep(rig, seed)                  # the same for the same seed
    sweep = augmented(sweep, another, Augmentation(), random, Beams.of_rig(rig))

Everything is in `base_link` at the sweep's stamp, as `lidar_sweeps_detector` gives it to a network whose frame lies on
the ground: each point is moved by what the vehicle drove since it was measured. What moves by itself trails its box.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import GeometryError
from perception.geometry.boxes import Boxes
from perception.geometry.rig import Rig, Sensor
from perception.geometry.rig_file import LidarFile
from perception.geometry.transforms import Transform
from perception.ops.boxes_bev import bev_iou, footprints
from perception.simulation.classes import BICYCLE, BUS, CAR, PERSON, TRUCK
from perception.simulation.motion import Motion
from perception.simulation.world import World
from perception.training.world import Sample, world_of

Float: TypeAlias = NDArray[np.float64]
Float32: TypeAlias = NDArray[np.float32]

CLASSES = ("car", "truck", "bus", "pedestrian", "cyclist")
"""In the order of labels."""
_LABEL = {CAR: 0, TRUCK: 1, BUS: 2, PERSON: 3, BICYCLE: 4}
RARE = (1, 2, 4)
"""Labels of which a sweep holds two or fewer; these are pasted from other sweeps."""
NEAR_M = 50.0
LATEST_S = 60.0


@dataclass(frozen=True, eq=False)
class LabelledSweep:
    """N points and M boxes, in `base_link`.

    Attributes:
        points: (N, 4) x, y, z, intensity 0 to 1.
        owner: (N,) index of the box that a point was measured on, -1 for none.
        boxes: (M, 7) x, y, z, length, width, height, yaw; all hit by a point, nearer than 50 m.
        label: (M,) index into CLASSES.
        velocity: (M, 2) over ground, metres per second.
    """

    points: Float32
    owner: NDArray[np.int16]
    boxes: Float32
    label: NDArray[np.int64]
    velocity: Float32


@dataclass(frozen=True)
class Augmentation:
    """How a sweep is changed before it is learned from.

    Attributes:
        mirrored: share of the sweeps that are mirrored left to right.
        turned_rad: turned by up to this to each side.
        scaled: made larger or smaller by up to this share.
        pasted: at most so many rare objects of another sweep are put in.
    """

    mirrored: float = 0.5
    turned_rad: float = 0.1
    scaled: float = 0.03
    pasted: int = 6


@dataclass(frozen=True, eq=False)
class Beams:
    """The beams of a rig's first LiDAR."""

    lidar: LidarFile
    base_link_from_lidar: Transform

    @classmethod
    def of_rig(cls, rig: Rig) -> Beams:
        """Return them; raises GeometryError where the rig has no LiDAR."""
        sensor = lidar_of(rig)
        assert sensor.lidar is not None
        return cls(sensor.lidar, rig.base_link_from(sensor.frame))

    def of(self, points: Float32) -> tuple[NDArray[np.int64], Float]:
        """Return on which beam points (N, 4) lie, as an index, and their distances from the sensor."""
        low, high = self.lidar.vertical_fov_deg
        columns, rings = self.lidar.columns, self.lidar.rings
        x, y, z = self.base_link_from_lidar.inverse().apply(points[:, :3].astype(np.float64)).T
        flat = np.hypot(x, y)
        column = np.floor((np.arctan2(y, x) / (2 * np.pi) + 0.5) * columns).astype(np.int64) % columns
        row = np.rint((np.degrees(np.arctan2(z, flat)) - low) / (high - low) * (rings - 1)).clip(0, rings - 1)
        return column * rings + row.astype(np.int64), np.hypot(flat, z)

    def nearest(self, beam: NDArray[np.int64], distance: Float) -> Float:
        """Return the nearest return of each beam, infinity where there is none."""
        found = np.full(self.lidar.rings * self.lidar.columns, np.inf)
        np.minimum.at(found, beam, distance)
        return found


def lidar_of(rig: Rig) -> Sensor:
    """Return the first LiDAR of a rig.

    Raises:
        GeometryError: it has none.
    """
    found = next((sensor for sensor in rig.sensors.values() if sensor.lidar is not None), None)
    if found is None:
        raise GeometryError(f"rig '{rig.name}' has no LiDAR to learn from")
    return found


def simulated_sweep(rig: Rig, seed: int) -> LabelledSweep:
    """Simulate one sweep: world, weather, speed and instant all follow from the seed."""
    return swept(rig, world_of(seed), instant_of(seed))


def drawn(rig: Rig, seed: int) -> list[Sample]:
    """Return the sweep of a seed as arrays that can be kept: see `Samples`."""
    sweep = simulated_sweep(rig, seed)
    return [{field.name: getattr(sweep, field.name) for field in fields(LabelledSweep)}]


def instant_of(seed: int) -> int:
    """Return the instant of a world at which a sample is drawn from it, nanoseconds."""
    return round(float(np.random.default_rng((seed, 12)).uniform(1.0, LATEST_S)) * 1e9)


def swept(rig: Rig, world: World, t_ns: int) -> LabelledSweep:
    """Simulate the sweep of a rig's first LiDAR that ends at an instant, deskewed."""
    return swept_with_ids(rig, world, t_ns)[0]


def swept_with_ids(rig: Rig, world: World, t_ns: int) -> tuple[LabelledSweep, NDArray[np.int64]]:
    """Return that sweep, and the world's ids (M,) of the objects whose boxes it has."""
    sensor = lidar_of(rig)
    assert sensor.lidar is not None
    sweep, objects = world.lidar(rig, sensor.name, t_ns), world.objects(t_ns)
    place = deskewed(rig.base_link_from(sensor.frame).apply(sweep.xyz_m), sweep.lag_ns, world.motion, t_ns)
    points = np.column_stack((place, sweep.intensity / sensor.lidar.intensity_scale)).astype(np.float32)
    boxes = _rows(objects.boxes)
    known = np.isin(objects.kind, list(_LABEL))
    kept = known & (sweep.points > 0) & (np.hypot(boxes[:, 0], boxes[:, 1]) < NEAR_M)
    number = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int16)
    owner = np.where(sweep.thing >= 0, number[sweep.thing], -1).astype(np.int16)
    label = np.array([_LABEL[int(kind)] for kind in objects.kind[kept]], np.int64)
    velocity = objects.velocity_mps[kept, :2].astype(np.float32)
    return LabelledSweep(points, owner, boxes[kept], label, velocity), objects.ids[kept]


def deskewed(points: Float, lag_ns: NDArray[np.int32], motion: Motion, t_ns: int) -> Float:
    """Return points (N, 3) of `base_link`, each measured `lag_ns` (N,) <= 0 after an instant, as of that instant."""
    lags, which = np.unique(lag_ns, return_inverse=True)
    place, yaw = motion.poses((t_ns + lags.astype(np.float64)) * 1e-9)
    cosine, sine, place = np.cos(yaw)[which], np.sin(yaw)[which], place[which]
    x, y, z = points.T
    world = np.column_stack((cosine * x - sine * y, sine * x + cosine * y, z)) + place
    return motion.world_from_base_link(t_ns * 1e-9).inverse().apply(world)


def augmented(
    sweep: LabelledSweep, other: LabelledSweep, how: Augmentation, random: np.random.Generator, beams: Beams
) -> LabelledSweep:
    """Return a sweep with rare objects of another one in it, mirrored, turned and scaled by chance."""
    sweep = hit(pasted(sweep, other, how.pasted, random, beams))
    mirrored = random.random() < how.mirrored
    angle, scale = random.uniform(-how.turned_rad, how.turned_rad), 1 + random.uniform(-how.scaled, how.scaled)
    return _moved(sweep, mirrored=bool(mirrored), angle=float(angle), scale=float(scale))


def _moved(sweep: LabelledSweep, *, mirrored: bool, angle: float, scale: float) -> LabelledSweep:
    """Mirror left to right, then turn about the vehicle and scale from its origin on the ground."""
    points, boxes, velocity = sweep.points.copy(), sweep.boxes.copy(), sweep.velocity.copy()
    if mirrored:
        points[:, 1], boxes[:, 1], boxes[:, 6], velocity[:, 1] = (
            -points[:, 1],
            -boxes[:, 1],
            -boxes[:, 6],
            -velocity[:, 1],
        )
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, sine], [-sine, cosine]], np.float32) * np.float32(scale)
    points[:, :2], boxes[:, :2], velocity = points[:, :2] @ turn, boxes[:, :2] @ turn, velocity @ turn
    points[:, 2] *= scale
    boxes[:, 2:6] *= scale
    boxes[:, 6] = np.arctan2(np.sin(boxes[:, 6] + angle), np.cos(boxes[:, 6] + angle))
    return replace(sweep, points=points, boxes=boxes, velocity=velocity)


def pasted(
    sweep: LabelledSweep, other: LabelledSweep, most: int, random: np.random.Generator, beams: Beams
) -> LabelledSweep:
    """Put rare objects of another sweep where they are there: at their distance, on the ground, with their returns.

    One that would touch an object, or be hidden, is left out. Where a beam meets both worlds, the nearer return stays.

    Source: Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018, section 3.2.3; the beams are
    ours, which keep shadows behind what is pasted.
    """
    for number in rare_objects(other, most, random):
        sweep = with_object(sweep, other, number, beams)
    return sweep


def rare_objects(sweep: LabelledSweep, most: int, random: np.random.Generator) -> list[int]:
    """Return the numbers of rare objects of a sweep, at most so many, in an order of chance."""
    found: list[int] = random.permutation(np.flatnonzero(np.isin(sweep.label, RARE)))[:most].tolist()
    return found


def with_object(sweep: LabelledSweep, other: LabelledSweep, number: int, beams: Beams) -> LabelledSweep:
    """Return a sweep with one object of another as its last box; the same sweep where that has no place in it."""
    box = other.boxes[number : number + 1]
    if len(sweep.boxes) and bev_iou(footprints(box), footprints(sweep.boxes)).max() > 0:
        return sweep
    inside = upright(box).contain(sweep.points[:, :3])[0]
    around = inside & (sweep.points[:, 2] > box[0, 2] - box[0, 5] / 2 + 0.2)  # what stands there, not the ground
    if around.any():
        return sweep
    own = other.points[other.owner == number]
    beam, distance = beams.of(sweep.points)
    own_beam, own_distance = beams.of(own)
    seen = own_distance < beams.nearest(beam, distance)[own_beam]
    if not seen.any():
        return sweep
    kept = (distance <= beams.nearest(own_beam[seen], own_distance[seen])[beam]) & ~inside
    added = np.full(int(seen.sum()), len(sweep.boxes), np.int16)
    return LabelledSweep(
        np.concatenate((sweep.points[kept], own[seen])), np.concatenate((sweep.owner[kept], added)),
        np.concatenate((sweep.boxes, box)), np.append(sweep.label, other.label[number]),
        np.concatenate((sweep.velocity, other.velocity[number : number + 1])),
    )  # fmt: skip


def hit(sweep: LabelledSweep) -> LabelledSweep:
    """Return a sweep without the boxes that no point was measured on."""
    kept = np.bincount(sweep.owner[sweep.owner >= 0], minlength=len(sweep.boxes)) > 0
    number = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1).astype(np.int16)  # the last one is for no box
    return LabelledSweep(sweep.points, number[sweep.owner], sweep.boxes[kept], sweep.label[kept], sweep.velocity[kept])


def upright(boxes: Float32) -> Boxes:
    """Return rows (N, 7) as boxes."""
    exact = boxes.astype(np.float64)
    return Boxes(exact[:, :3], exact[:, 3:6], exact[:, 6])


def _rows(boxes: Boxes) -> Float32:
    return np.column_stack((boxes.center_m, boxes.size_lwh_m, boxes.yaw_rad)).astype(np.float32)


__all__ = [
    "CLASSES",
    "Augmentation",
    "Beams",
    "LabelledSweep",
    "augmented",
    "deskewed",
    "drawn",
    "hit",
    "instant_of",
    "lidar_of",
    "pasted",
    "rare_objects",
    "simulated_sweep",
    "swept",
    "swept_with_ids",
    "upright",
    "with_object",
]
