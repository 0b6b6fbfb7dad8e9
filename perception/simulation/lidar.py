"""A spinning LiDAR: each firing from where the vehicle is at that instant, at what is where it is then."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.geometry.rig_file import LidarFile
from perception.geometry.transforms import Transform
from perception.simulation.classes import REFLECTIVITY, ROAD, SIDEWALK
from perception.simulation.intersections import jit
from perception.simulation.motion import Motion
from perception.simulation.parts import BOX, parts
from perception.simulation.raycast import GROUND, NOTHING, cast, count_seen, incidence
from perception.simulation.rays import Tiles, lidar_tiles
from perception.simulation.scene import Snapshot
from perception.simulation.textures import bell, hashed
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
NO_CLASS = 255
EVERYWHERE = np.array([0.0, 0.0, 1.0, -1.0, 0.0])
"""The cone of all directions."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """One turn, points in the sensor's frame, each as of its own instant, in the order of firing.

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
    t_s: float, weather: Weather, seed: int,
) -> Sweep:  # fmt: skip
    """Measure the turn that ends at `t_s`, the instant of the snapshot; `seed` is of the noise."""
    tiles = lidar_tiles(lidar)
    column = tiles.places // lidar.rings
    firing_lag_s = ((np.arange(lidar.columns) + 1) / lidar.columns - 1) * period_s
    rays, origins = _fired(tiles.turned(base_link_from_lidar.rotation), base_link_from_lidar.translation_m, column,
                           *motion.poses(t_s + firing_lag_s))  # fmt: skip
    lags_s, scene, (near, far) = firing_lag_s[column], snapshot.parts, lidar.range_m
    distance, hit = cast(snapshot, rays, origins, reach_m=far, lags_s=lags_s, slack_m=SLACK_M)
    count = len(hit)
    slant, owner = np.empty(count), np.empty(count, np.int64)
    incidence(
        scene.rows, scene.velocity_mps, scene.thing, origins, rays.directions, lags_s, distance, hit, slant, owner
    )
    visibility = _visibility(snapshot, rays, origins, lags_s, far, distance, owner)
    semantic, strength, kept = np.empty(count, np.uint8), np.empty(count, np.float32), np.empty(count, np.bool_)
    _measure(
        distance, hit, slant, scene.semantic, snapshot.ground[0], origins[1], rays.directions[1], tiles.places, near,
        far, weather.haze_per_m, weather.rain, seed, semantic, strength, owner, kept,
    )  # fmt: skip
    sweep = Sweep(
        xyz_m=np.empty((count, 3), np.float32), intensity=np.empty(count, np.float32), ring=np.empty(count, np.uint16),
        lag_ns=np.empty(count, np.int32), semantic=np.empty(count, np.uint8), thing=np.empty(count, np.int64),
        points=np.zeros(len(snapshot.things), np.int64), visibility=visibility, snapshot=snapshot,
        t_ns=round(t_s * 1e9),
    )  # fmt: skip
    heard = _in_order(
        tiles.in_order, kept, tiles.directions, distance, strength, np.float32(lidar.intensity_scale), tiles.places,
        lidar.rings, column, np.rint(firing_lag_s * 1e9), semantic, owner, sweep.xyz_m, sweep.intensity, sweep.ring,
        sweep.lag_ns, sweep.semantic, sweep.thing, sweep.points,
    )  # fmt: skip
    return replace(
        sweep, xyz_m=sweep.xyz_m[:heard], intensity=sweep.intensity[:heard], ring=sweep.ring[:heard],
        lag_ns=sweep.lag_ns[:heard], semantic=sweep.semantic[:heard], thing=sweep.thing[:heard],
    )  # fmt: skip


def _fired(
    mounted: Tiles, mount_m: Float, column: NDArray[np.int64], place_m: Float, yaw_rad: Float
) -> tuple[Tiles, Float]:
    """Return rays in the axes of the world, and where they begin (3, N), from rays in base_link and its poses."""
    cosine, sine = np.cos(yaw_rad), np.sin(yaw_rad)
    x, y, z = mount_m
    begin = place_m.T + np.stack((cosine * x - sine * y, sine * x + cosine * y, np.full(len(yaw_rad), z)))
    origins, directions = np.empty_like(mounted.directions), np.empty_like(mounted.directions)
    _fire(mounted.directions, column, begin, cosine, sine, origins, directions)
    ends = mounted.starts[mounted.groups]
    cones, group_cones = mounted.cones.copy(), mounted.group_cones.copy()
    for of, starts in ((cones, mounted.starts), (group_cones, ends)):
        middle = column[(starts[:-1] + starts[1:]) // 2]
        c, s, (across, along) = cosine[middle], sine[middle], of[:, :2].T.copy()
        of[:, 0], of[:, 1] = c * across - s * along, s * across + c * along
    rays = replace(mounted, directions=directions, cones=cones, group_cones=group_cones, view_cone=EVERYWHERE)
    return rays, origins


@jit
def _fire(
    mounted: Float, column: NDArray[np.int64], begin: Float, cosine: Float, sine: Float, origins: Any, directions: Any
) -> None:
    """Fill where rays begin and look (3, N) from their columns' places (3, C) and headings."""
    for i in range(len(column)):
        k = column[i]
        c, s = cosine[k], sine[k]
        origins[0, i], origins[1, i], origins[2, i] = begin[0, k], begin[1, k], begin[2, k]
        directions[0, i] = c * mounted[0, i] - s * mounted[1, i]
        directions[1, i] = s * mounted[0, i] + c * mounted[1, i]
        directions[2, i] = mounted[2, i]


@jit
def _in_order(
    in_order: NDArray[np.int64], kept: Any, directions: Float, distance: Float, strength: Any, scale: Any,
    places: NDArray[np.int64], rings: int, column: NDArray[np.int64], firing_lag_ns: Float, classes: Any,
    owner: NDArray[np.int64], xyz_m: Any, intensity: Any, ring: Any, lag_ns: Any, semantic: Any, thing: Any,
    points: Any,
) -> int:  # fmt: skip
    """Fill what is kept into the columns of a sweep, in the order of firing; return how many."""
    count = 0
    for i in in_order:
        if kept[i]:
            for axis in range(3):
                xyz_m[count, axis] = directions[axis, i] * distance[i]
            intensity[count], semantic[count], thing[count] = strength[i] * scale, classes[i], owner[i]
            ring[count], lag_ns[count] = places[i] - column[i] * rings, firing_lag_ns[column[i]]
            if owner[i] >= 0:
                points[owner[i]] += 1
            count += 1
    return count


@jit
def _measure(
    distance: Any, hit: Any, slant: Any, classes: Any, half_width_m: float, begin_y: Any, toward_y: Any, places: Any,
    near: float, far: float, haze_per_m: float, rain: float, seed: int, semantic: Any, strength: Any, owner: Any,
    kept: Any,
) -> None:  # fmt: skip
    """Turn where rays end into what is measured: noise, strength of the echo, losses, drops of rain.

    `distance` (N,) becomes the measured one, `owner` -1 where a drop answers. The strength is reflectivity by class and
    angle, weakened by wet roads and wet air; of faint echoes, and of some of all, nothing is heard.
    """
    for i in range(len(distance)):
        h, d, key = hit[i], distance[i], places[i] * 8
        beside = abs(begin_y[i] + toward_y[i] * d) >= half_width_m - 1e-6 if h == GROUND else False
        kind = classes[h] if h >= 0 else (SIDEWALK if beside else ROAD)
        power, lost = 0.0, 1.0
        if h != NOTHING:
            wet = 1.0 - 0.7 * rain if kind in (ROAD, SIDEWALK) else 1.0
            power = REFLECTIVITY[kind] * wet * (0.25 + 0.75 * slant[i]) * math.exp(-2.0 * haze_per_m * d)
            power = max(power * (1.0 + 0.12 * bell(key, seed)), 0.0)
            received = power * (50.0 / max(d, 5.0)) ** 2 / (1.0 + 1.5 * rain) / FAINT
            lost = 1.0 / (1.0 + received * received) + LOST_SHARE * (1.0 + 4.0 * rain)
            d += (RANGE_NOISE_M + RANGE_NOISE_SHARE * d) * bell(key + 1, seed)
        heard = hashed(key + 2, seed, 31) >= lost
        if rain > 0.0 and hashed(key + 3, seed, 31) < 0.012 * rain:
            drop = 1.0 - 5.0 * math.log(1.0 - hashed(key + 4, seed, 31))
            if drop < d:
                d, power, kind, heard, owner[i] = drop, 0.02, NO_CLASS, True, -1
        distance[i], strength[i], semantic[i] = d, min(power, 1.0), kind
        kept[i] = heard and near <= d <= far


def _visibility(
    snapshot: Snapshot, rays: Tiles, origins: Float, lags_s: Float, reach_m: float, distance: Float,
    owner: NDArray[np.int64],
) -> Float:  # fmt: skip
    things = snapshot.things
    turn = np.stack((np.cos(things.yaw_rad), np.sin(things.yaw_rad)), axis=1)
    hulls = parts(BOX, things.center_m, things.size_lwh_m / 2, turn, (0, 0, 0), 0, velocity_mps=things.velocity_mps)
    meant, seen = count_seen(
        hulls.rows, hulls.spheres(), hulls.velocity_mps, rays, origins, lags_s, SLACK_M, reach_m, distance, owner
    )
    return seen / np.maximum(meant, 1.0)


__all__ = ["Sweep", "measure"]
