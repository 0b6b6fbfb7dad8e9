"""A spinning LiDAR: each firing from where the vehicle is at that instant, at what is where it is then."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.geometry.rig_file import LidarFile
from perception.geometry.transforms import Transform
from perception.simulation.classes import REFLECTIVITY, ROAD, SIDEWALK
from perception.simulation.motion import Motion
from perception.simulation.parts import BOX, parts
from perception.simulation.raycast import NOTHING, cast, count_seen, incidence, jit
from perception.simulation.rays import Tiles, lidar_tiles
from perception.simulation.scene import Snapshot
from perception.simulation.weather import Weather

Float: TypeAlias = NDArray[np.float64]

RANGE_NOISE_M = 0.015
RANGE_NOISE_SHARE = 2e-4
"""More noise for far points: metres per metre."""
LOST_SHARE = 0.01
"""Returns that are lost whatever is hit."""
FAINT = 0.012
"""What comes back, relative to a white wall at 50 m, at which half of the returns are lost."""
SLACK_M = 0.2
"""What the vehicle and others move, relative to each other, while a group of rays fires."""
NO_PART = np.zeros(0)


@dataclass(frozen=True, eq=False)
class Sweep:
    """One turn, points in the sensor's frame, each as of its own instant.

    Attributes:
        xyz_m: (N, 3).
        intensity: (N,) 0 to `intensity_scale`.
        ring: (N,).
        lag_ns: (N,) time of each point after the sweep's stamp, <= 0.
        semantic: (N,) true class; 255 for what is not there, such as drops of rain.
        thing: (N,) index of the object in `snapshot.things`, -1 for none.
        points: (M,) returns from each object.
        visibility: (M,) share of the rays through each object's box that nothing nearer stops; 0 where none goes there.
        snapshot: the world at the sweep's stamp.
        t_ns: the stamp, since the start.
    """

    xyz_m: NDArray[np.float32]
    intensity: NDArray[np.float32]
    ring: NDArray[np.uint16]
    lag_ns: NDArray[np.int32]
    semantic: NDArray[np.uint8]
    thing: NDArray[np.int64]
    points: NDArray[np.int64]
    visibility: Float
    snapshot: Snapshot
    t_ns: int


def measure(
    lidar: LidarFile, base_link_from_lidar: Transform, period_s: float, motion: Motion, snapshot: Snapshot,
    t_s: float, weather: Weather, random: np.random.Generator,
) -> Sweep:  # fmt: skip
    """Measure the turn that ends at `t_s`, the instant of the snapshot."""
    tiles = lidar_tiles(lidar)
    column, ring = np.divmod(tiles.places, lidar.rings)
    firing_lag_s = ((np.arange(lidar.columns) + 1) / lidar.columns - 1) * period_s
    place, yaw = motion.poses(t_s + firing_lag_s)
    mounted, cones, group_cones = tiles.turned(base_link_from_lidar.rotation)
    count = len(mounted)
    origins, directions, lags_s = np.empty((count, 3)), np.empty((count, 3)), firing_lag_s[column]
    _fire(mounted, base_link_from_lidar.translation_m, column, place, yaw, origins, directions)
    cosine, sine = np.cos(yaw), np.sin(yaw)
    for of, starts in ((cones, tiles.starts), (group_cones, tiles.starts[tiles.groups])):
        middle = column[(starts[:-1] + starts[1:]) // 2]
        of[:, :3] = _turned(of[:, :3], cosine[middle], sine[middle])
    near, far = lidar.range_m
    scene = snapshot.parts
    distance, hit = np.empty(len(directions)), np.empty(len(directions), np.int64)
    cast(scene.rows, snapshot.spheres, scene.velocity_mps, snapshot.ground, tiles.groups, group_cones,
         tiles.starts, cones, origins, directions, lags_s, SLACK_M, far, NO_PART, distance, hit)  # fmt: skip
    slant = np.empty(len(directions))
    incidence(scene.rows, scene.velocity_mps, origins, directions, lags_s, distance, hit, slant)
    ended = np.maximum(hit, 0)
    owner = np.where(hit >= 0, scene.thing[ended], -1)
    visibility = _visibility(snapshot, tiles, group_cones, origins, directions, lags_s, far, distance, owner)
    semantic = np.where(hit >= 0, scene.semantic[ended], np.where(hit == NOTHING, 255, _ground_class(
        snapshot, origins, directions, distance)))  # fmt: skip
    measured, strength = _echo(distance, slant, semantic, weather, random)
    false = _drops(measured, strength, semantic, owner, weather, random)
    kept = (false | (random.random(len(measured)) >= _loss(distance, strength, hit, weather))) & np.isfinite(measured)
    kept &= (measured >= near) & (measured <= far)
    xyz = (tiles.directions[kept] * measured[kept, None]).astype(np.float32)
    full = lidar.intensity_scale
    return Sweep(
        xyz_m=xyz, intensity=(np.clip(strength[kept], 0.0, 1.0) * full).astype(np.float32),
        ring=ring[kept].astype(np.uint16), lag_ns=np.rint(lags_s[kept] * 1e9).astype(np.int32),
        semantic=semantic[kept].astype(np.uint8), thing=owner[kept],
        points=np.bincount(owner[kept & (owner >= 0)], minlength=len(snapshot.things)), visibility=visibility,
        snapshot=snapshot, t_ns=round(t_s * 1e9),
    )  # fmt: skip


@jit
def _fire(
    mounted: Float, mount_m: Float, column: NDArray[np.int64], place: Float, yaw: Float, origins: Any, directions: Any
) -> None:
    """Fill where each ray begins and looks in the world (N, 3), from rays in base_link and the pose of their column."""
    for i in range(len(mounted)):
        c, s, at = math.cos(yaw[column[i]]), math.sin(yaw[column[i]]), place[column[i]]
        origins[i, 0] = at[0] + c * mount_m[0] - s * mount_m[1]
        origins[i, 1] = at[1] + s * mount_m[0] + c * mount_m[1]
        origins[i, 2] = at[2] + mount_m[2]
        directions[i, 0] = c * mounted[i, 0] - s * mounted[i, 1]
        directions[i, 1] = s * mounted[i, 0] + c * mounted[i, 1]
        directions[i, 2] = mounted[i, 2]


def _turned(vectors: Float, cosine: Float, sine: Float) -> Float:
    """Turn vectors (N, 3) about z by angles of their own."""
    turned = np.empty_like(vectors)
    turned[:, 0] = cosine * vectors[:, 0] - sine * vectors[:, 1]
    turned[:, 1] = sine * vectors[:, 0] + cosine * vectors[:, 1]
    turned[:, 2] = vectors[:, 2]
    return turned


def _visibility(
    snapshot: Snapshot, tiles: Tiles, group_cones: Float, origins: Float, directions: Float, lags_s: Float,
    reach_m: float, distance: Float, owner: NDArray[np.int64],
) -> Float:  # fmt: skip
    things = snapshot.things
    turn = np.stack((np.cos(things.yaw_rad), np.sin(things.yaw_rad)), axis=1)
    hulls = parts(BOX, things.center_m, things.size_lwh_m / 2, turn, (0, 0, 0), 0, velocity_mps=things.velocity_mps)
    meant, seen = np.zeros(len(things)), np.zeros(len(things))
    count_seen(hulls.rows, hulls.spheres(), hulls.velocity_mps, tiles.groups, group_cones, tiles.starts, origins,
               directions, lags_s, SLACK_M, reach_m, distance, owner, meant, seen)  # fmt: skip
    return seen / np.maximum(meant, 1.0)


def _ground_class(snapshot: Snapshot, origins: Float, directions: Float, distance: Float) -> NDArray[np.int64]:
    reach = np.where(np.isfinite(distance), distance, 0.0)
    beside = np.abs(origins[:, 1] + directions[:, 1] * reach) >= snapshot.ground[0] - 1e-6
    return np.where(beside, SIDEWALK, ROAD)


def _echo(
    distance: Float, slant: Float, semantic: NDArray[np.int64], weather: Weather, random: np.random.Generator
) -> tuple[Float, Float]:
    """Return measured distances and strengths: reflectivity by class and angle, weakened by wet roads and wet air."""
    finite = np.isfinite(distance)
    reach = np.where(finite, distance, 0.0)
    reflectivity = np.append(np.array(REFLECTIVITY), np.zeros(256 - len(REFLECTIVITY)))[semantic]
    wet = np.where((semantic == ROAD) | (semantic == SIDEWALK), 1.0 - 0.7 * weather.rain, 1.0)
    strength = reflectivity * wet * (0.25 + 0.75 * slant) * np.exp(-2.0 * weather.haze_per_m * reach)
    strength = strength * (1.0 + 0.12 * random.standard_normal(len(distance)))
    noise = (RANGE_NOISE_M + RANGE_NOISE_SHARE * reach) * random.standard_normal(len(distance))
    return np.where(finite, distance + noise, np.inf), np.maximum(strength, 0.0)


def _loss(distance: Float, strength: Float, hit: NDArray[np.int64], weather: Weather) -> Float:
    """Return the share of returns that are lost: faint ones, and some of all."""
    reach = np.where(np.isfinite(distance), distance, 1e3)
    power = strength * (50.0 / np.maximum(reach, 5.0)) ** 2 / (1.0 + 1.5 * weather.rain)
    faint = 1.0 / (1.0 + (power / FAINT) ** 2)
    return np.where(hit == NOTHING, 1.0, np.minimum(faint + LOST_SHARE * (1.0 + 4.0 * weather.rain), 1.0))


def _drops(
    measured: Float, strength: Float, semantic: NDArray[np.int64], owner: NDArray[np.int64], weather: Weather,
    random: np.random.Generator,
) -> NDArray[np.bool_]:  # fmt: skip
    """Let drops of rain answer for some rays, in place; return which."""
    none = np.zeros(len(measured), np.bool_)
    if not weather.rain:
        return none
    drop = random.exponential(5.0, len(measured)) + 1.0
    false = (random.random(len(measured)) < 0.012 * weather.rain) & (drop < measured)
    measured[false], strength[false], semantic[false], owner[false] = drop[false], 0.02, 255, -1
    return false


__all__ = ["Sweep", "measure"]
