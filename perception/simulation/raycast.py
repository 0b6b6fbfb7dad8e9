"""Rays against parts and the ground: the kernels of every simulated sensor.

Rays come in tiles of neighbours, tiles in groups, and all in one view. Each has a cone around its rays; a part whose
bounding sphere misses the cone is not looked at, the others are tried from near to far. That holds for every camera
model and for a turning LiDAR alike, whose rays start at different places and instants. One thread, GIL released: the
answer does not depend on who asks.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.simulation.intersections import (
    BEST,
    DISTANCE,
    DX,
    LAG,
    OX,
    RAYS,
    TILE_SIZE,
    inlined,
    jit,
    meet_box,
    meet_ground,
    meet_part,
    part_normal,
)
from perception.simulation.rays import Tiles
from perception.simulation.scene import Snapshot

Float: TypeAlias = NDArray[np.float64]

GROUND, NOTHING = -1, -2
"""What a ray hits beside a part."""
NO_LAG, NOTHING_BEHIND = np.zeros(1), np.zeros(0)


def cast(
    scene: Snapshot, rays: Tiles, origins: Float, *, reach_m: float, lags_s: Float = NO_LAG, slack_m: float = 0.0,
    behind: Float = NOTHING_BEHIND,
) -> tuple[Float, NDArray[np.int64]]:  # fmt: skip
    """Cast rays; each finds the nearest part or the ground.

    Args:
        scene: parts at lag zero, and the ground.
        rays: in the frame of the scene.
        origins: (3, N), or (3, 1) for rays of one place.
        reach_m: parts beyond are not looked at.
        lags_s: (N,) or (1,): instant of each ray after that of the parts.
        slack_m: what origins and parts move within a group.
        behind: (N,) distance of what is known to stand behind the parts, instead of the ground; (0,) for none.

    Returns:
        distance: (N,) inf for the sky.
        hit: (N,) the part, GROUND (or what is behind) or NOTHING.
    """
    count = rays.directions.shape[1]
    distance, hit = np.empty(count), np.empty(count, np.int64)
    _cast(
        scene.parts.rows, scene.spheres, scene.parts.velocity_mps, scene.ground, rays.view_cone, rays.groups,
        rays.group_cones, rays.starts, rays.cones, origins, rays.directions, lags_s, slack_m, reach_m, behind,
        distance, hit,
    )  # fmt: skip
    return distance, hit


def count_seen(
    hulls: Float, spheres: Float, velocities: Float, rays: Tiles, origins: Float, lags_s: Float, slack_m: float,
    reach_m: float, distance: Float, owner: NDArray[np.int64],
) -> tuple[Float, Float]:  # fmt: skip
    """Count for each object the rays that go through its box, and those of them that nothing nearer stops.

    `hulls` (M, 9) are boxes of the objects, `distance` (N,) is where each ray ended, `owner` (N,) on which object,
    negative for none. The others are as in `cast`.

    Returns:
        meant: (M,) the rays through each box.
        seen: (M,) those that reach it.
    """
    meant, seen = np.zeros(len(hulls)), np.zeros(len(hulls))
    _count_seen(
        hulls, spheres, velocities, rays.groups, rays.group_cones, rays.starts, rays.cones, origins, rays.directions,
        lags_s, slack_m, reach_m, distance, owner, meant, seen,
    )  # fmt: skip
    return meant, seen


@inlined
def _gather(
    spheres: Any, velocities: Any, among: Any, many: int, ox: float, oy: float, oz: float, lag_s: float,
    slack_m: float, balls: Any,
) -> None:  # fmt: skip
    """Fill the first columns of `balls` with spheres of the parts `among`: places from an origin, radii with slack."""
    xs, ys, zs, rs = balls[0], balls[1], balls[2], balls[3]
    for m in range(many):
        p = among[m]
        xs[m] = spheres[p, 0] + velocities[p, 0] * lag_s - ox
        ys[m] = spheres[p, 1] + velocities[p, 1] * lag_s - oy
        zs[m] = spheres[p, 2] + velocities[p, 2] * lag_s - oz
        rs[m] = spheres[p, 3] + slack_m


@inlined
def _touch(balls: Any, many: int, cone: Any, touched: Any) -> None:
    """Mark the spheres that can touch a cone.

    In the plane of the axis and the middle of a sphere, `beside * cosine - along * sine` is the distance to the side of
    the cone, and less than that to its apex; it is compared with the radius, in squares. A sphere that is wholly behind
    the apex of an acute cone does not touch it.
    """
    xs, ys, zs, rs = balls[0], balls[1], balls[2], balls[3]
    ax, ay, az, cosine, sine = cone[0], cone[1], cone[2], cone[3], cone[4]
    acute = cosine > 0.0
    for m in range(many):
        x, y, z, r = xs[m], ys[m], zs[m], rs[m]
        along = x * ax + y * ay + z * az
        beside2 = (x * x + y * y + z * z - along * along) * (cosine * cosine)
        reach = r + along * sine
        inside, outside = (reach >= 0.0) & (along >= -r) & (beside2 <= reach * reach), beside2 < reach * reach
        touched[m] = inside if acute else not ((reach < 0.0) & outside)


@inlined
def _box_reached(rows: Any, p: int, ox: float, oy: float, oz: float, slack_m: float, cone: Any, far_m: float) -> float:
    """Return how far a box is at least from the apex; inf where it is beside the cone."""
    c, s = rows[p, 7], rows[p, 8]
    px, py, pz = ox - rows[p, 1], oy - rows[p, 2], oz - rows[p, 3]
    lx, ly = c * px + s * py, c * py - s * px
    ex, ey, ez = c * cone[0] + s * cone[1], c * cone[1] - s * cone[0], cone[2]
    wide = far_m * cone[4] * 1.01 + slack_m  # within `far_m`, rays of the cone are so near to its axis
    near, far = 0.0, far_m + wide
    away2 = 0.0
    for axis in range(3):
        at = lx if axis == 0 else (ly if axis == 1 else pz)
        along = ex if axis == 0 else (ey if axis == 1 else ez)
        half = rows[p, 4 + axis]
        beyond = max(abs(at) - half, 0.0)
        away2 += beyond * beyond
        a, b = (-half - wide - at) / along, (half + wide - at) / along
        if abs(along) < 1e-12:
            if abs(at) > half + wide:
                return math.inf
            continue
        near, far = max(near, min(a, b)), min(far, max(a, b))
    return math.sqrt(away2) - slack_m if near <= far else math.inf


@inlined
def _capsule_reached(rows: Any, p: int, ox: float, oy: float, oz: float, slack_m: float, cone: Any) -> float:
    """Return how far a capsule is at least from the apex; inf where it is beside the cone.

    The nearest points of a segment and a ray: Ericson, Real-Time Collision Detection, section 5.1.9.
    """
    dx, dy, dz = rows[p, 4] - rows[p, 1], rows[p, 5] - rows[p, 2], rows[p, 6] - rows[p, 3]
    rx, ry, rz = rows[p, 1] - ox, rows[p, 2] - oy, rows[p, 3] - oz
    a = dx * dx + dy * dy + dz * dz
    b = dx * cone[0] + dy * cone[1] + dz * cone[2]
    c = dx * rx + dy * ry + dz * rz
    f = cone[0] * rx + cone[1] * ry + cone[2] * rz
    under = a - b * b
    s = min(max((b * f - c) / under, 0.0), 1.0) if under > 1e-12 * a else 0.5
    t = b * s + f
    if t < 0.0:
        t, s = 0.0, min(max(-c / a, 0.0), 1.0) if a > 0.0 else 0.0
    else:
        s = min(max((b * t - c) / a, 0.0), 1.0) if a > 0.0 else 0.0
        t = max(b * s + f, 0.0)
    x, y, z = rx + s * dx - t * cone[0], ry + s * dy - t * cone[1], rz + s * dz - t * cone[2]
    sx, sy, sz = rx + dx, ry + dy, rz + dz
    far = math.sqrt(max(rx * rx + ry * ry + rz * rz, sx * sx + sy * sy + sz * sz)) + rows[p, 7] + slack_m
    reach = rows[p, 7] + slack_m + far * cone[4] * 1.01
    if x * x + y * y + z * z > reach * reach:
        return math.inf
    s = min(max(-c / a, 0.0), 1.0) if a > 0.0 else 0.0
    x, y, z = rx + s * dx, ry + s * dy, rz + s * dz
    return float(math.sqrt(x * x + y * y + z * z) - rows[p, 7] - slack_m)


@inlined
def _from_near_to_far(
    rows: Any, velocities: Any, cone: Any, ox: float, oy: float, oz: float, lag_s: float, slack_m: float, among: Any,
    balls: Any, touched: Any, many: int, found: Any, near: Any,
) -> int:  # fmt: skip
    """Fill `found` and `near` with those of the parts `among` that a narrow cone can meet; return how many.

    Boxes and capsules are tried against the cone themselves: their spheres are much larger than they.
    """
    _touch(balls, many, cone, touched)
    count = 0
    for m in range(many):
        if not touched[m]:
            continue
        p = among[m]
        x, y, z, r = balls[0, m], balls[1, m], balls[2, m], balls[3, m]
        away = math.sqrt(x * x + y * y + z * z)
        begin = max(away - r, 0.0)
        if cone[3] > 0.9:
            mx, my, mz = velocities[p, 0] * lag_s, velocities[p, 1] * lag_s, velocities[p, 2] * lag_s
            if rows[p, 0] == 0.0:
                begin = max(begin, _box_reached(rows, p, ox - mx, oy - my, oz - mz, slack_m, cone, away + r))
            elif rows[p, 0] == 3.0:
                begin = max(begin, _capsule_reached(rows, p, ox - mx, oy - my, oz - mz, slack_m, cone))
            if begin == math.inf:
                continue
        k = count
        while k > 0 and near[k - 1] > begin:
            found[k], near[k] = found[k - 1], near[k - 1]
            k -= 1
        found[k], near[k] = p, begin
        count += 1
    return count


@inlined
def _in_reach(balls: Any, touched: Any, among: Any, many: int, reach_m: float, found: Any) -> int:
    """Keep what is touched and in reach, in `found` and `balls`; return how many."""
    count = 0
    for m in range(many):
        x, y, z, r = balls[0, m], balls[1, m], balls[2, m], balls[3, m]
        if touched[m] and x * x + y * y + z * z <= (reach_m + r) * (reach_m + r):
            found[count] = among[m]
            balls[0, count], balls[1, count], balls[2, count], balls[3, count] = x, y, z, r
            count += 1
    return count


@inlined
def _take_tile(origins: Any, directions: Any, lags_s: Any, begin: int, end: int, tile: Any) -> None:
    """Fill a tile with rays; one with fewer than 64 repeats its last."""
    many_origins, many_lags = origins.shape[1] > 1, len(lags_s) > 1
    for axis in range(3):
        among = directions[axis, begin:end]
        for i in range(len(among)):
            tile[DX + RAYS * axis + i] = among[i]
        if many_origins:
            among = origins[axis, begin:end]
            for i in range(len(among)):
                tile[OX + RAYS * axis + i] = among[i]
        else:
            for i in range(RAYS):
                tile[OX + RAYS * axis + i] = origins[axis, 0]
    for i in range(RAYS):
        tile[LAG + i] = lags_s[min(begin + i, end - 1) if many_lags else 0]
    for row in range(6):
        for i in range(end - begin, RAYS):
            tile[RAYS * row + i] = tile[RAYS * row + end - begin - 1]


@inlined
def _meet_nearest(rows: Any, velocities: Any, found: Any, near: Any, count: int, tile: Any, which: Any) -> None:
    """Try parts from near to far, until all rays of the tile have ended before the next."""
    for k in range(count):
        still = 0
        for i in range(RAYS):
            still += 1 if tile[BEST + i] > near[k] else 0
        if still == 0:
            break
        p = found[k]
        meet_part(rows, velocities, p, tile)
        for i in range(RAYS):
            nearer = tile[DISTANCE + i] < tile[BEST + i]
            tile[BEST + i] = tile[DISTANCE + i] if nearer else tile[BEST + i]
            which[i] = p if nearer else which[i]


@inlined
def _leave(behind: Any, begin: int, end: int, distance: Any, hit: Any) -> None:
    """Let rays end on what is behind."""
    for i in range(begin, end):
        distance[i], hit[i] = behind[i], GROUND if behind[i] < math.inf else NOTHING


@jit
def _cast(
    rows: Float, spheres: Float, velocities: Float, ground: Float, view_cone: Float, groups: NDArray[np.int64],
    group_cones: Float, tiles: NDArray[np.int64], cones: Float, origins: Float, directions: Float, lags_s: Float,
    slack_m: float, reach_m: float, behind: Any, distance: Any, hit: Any,
) -> None:  # fmt: skip
    """Fill `distance` and `hit`; the others are those of `cast` and its `Tiles`."""
    around, among, found = np.arange(len(rows)), np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    near, tile, which = np.empty(len(rows)), np.zeros(TILE_SIZE), np.empty(RAYS, np.int64)
    balls, touched = np.empty((4, len(rows))), np.empty(len(rows), np.bool_)
    many_origins, many_lags = origins.shape[1] > 1, len(lags_s) > 1
    middle = directions.shape[1] // 2
    o, lag = middle if many_origins else 0, lags_s[middle if many_lags else 0]
    moved_m = slack_m * (len(groups) - 1)
    _gather(spheres, velocities, around, len(rows), origins[0, o], origins[1, o], origins[2, o], lag, moved_m, balls)
    _touch(balls, len(rows), view_cone, touched)
    around_count = _in_reach(balls, touched, around, len(rows), reach_m, around)
    for g in range(len(groups) - 1):
        begin, end = tiles[groups[g]], tiles[groups[g + 1]]
        middle = (begin + end) // 2
        o, lag = middle if many_origins else 0, lags_s[middle if many_lags else 0]
        _gather(
            spheres, velocities, around, around_count, origins[0, o], origins[1, o], origins[2, o], lag, slack_m, balls
        )
        _touch(balls, around_count, group_cones[g], touched)
        many = _in_reach(balls, touched, around, around_count, reach_m, among)
        if many == 0 and len(behind) > 0:
            _leave(behind, begin, end, distance, hit)
            continue
        for t in range(groups[g], groups[g + 1]):
            begin, end = tiles[t], tiles[t + 1]
            middle = (begin + end) // 2
            o, lag = middle if many_origins else 0, lags_s[middle if many_lags else 0]
            count = _from_near_to_far(
                rows, velocities, cones[t], origins[0, o], origins[1, o], origins[2, o], lag, slack_m, among, balls,
                touched, many, found, near,
            )  # fmt: skip
            if count == 0 and len(behind) > 0:
                _leave(behind, begin, end, distance, hit)
                continue
            _take_tile(origins, directions, lags_s, begin, end, tile)
            if len(behind) > 0:
                for i in range(RAYS):
                    tile[BEST + i] = behind[min(begin + i, end - 1)]
            else:
                meet_ground(ground, tile)
            for i in range(RAYS):
                which[i] = GROUND if tile[BEST + i] < math.inf else NOTHING
            _meet_nearest(rows, velocities, found, near, count, tile, which)
            for i in range(begin, end):
                distance[i], hit[i] = tile[BEST + i - begin], which[i - begin]


@jit
def _count_seen(
    hulls: Float, spheres: Float, velocities: Float, groups: NDArray[np.int64], group_cones: Float,
    tiles: NDArray[np.int64], cones: Float, origins: Float, directions: Float, lags_s: Float, slack_m: float,
    reach_m: float, distance: Float, owner: NDArray[np.int64], meant: Any, seen: Any,
) -> None:  # fmt: skip
    """Increase `meant` and `seen`; the others are those of `count_seen` and its `Tiles`."""
    around, among, found = np.arange(len(hulls)), np.empty(len(hulls), np.int64), np.empty(len(hulls), np.int64)
    near, tile = np.empty(len(hulls)), np.zeros(TILE_SIZE)
    balls, touched = np.empty((4, len(hulls))), np.empty(len(hulls), np.bool_)
    for g in range(len(groups) - 1):
        middle = (tiles[groups[g]] + tiles[groups[g + 1]]) // 2
        ox, oy, oz, lag = origins[0, middle], origins[1, middle], origins[2, middle], lags_s[middle]
        _gather(spheres, velocities, around, len(hulls), ox, oy, oz, lag, slack_m, balls)
        _touch(balls, len(hulls), group_cones[g], touched)
        many = _in_reach(balls, touched, around, len(hulls), reach_m, among)
        for t in range(groups[g], groups[g + 1]):
            begin, end = tiles[t], tiles[t + 1]
            middle = (begin + end) // 2
            count = _from_near_to_far(
                hulls, velocities, cones[t], origins[0, middle], origins[1, middle], origins[2, middle],
                lags_s[middle], slack_m, among, balls, touched, many, found, near,
            )  # fmt: skip
            if count > 0:
                _take_tile(origins, directions, lags_s, begin, end, tile)
            for k in range(count):
                p = found[k]
                meet_box(hulls, velocities, p, tile)
                for i in range(begin, end):
                    d = tile[DISTANCE + i - begin]
                    if d < math.inf:
                        meant[p] += 1
                        seen[p] += owner[i] == p or distance[i] >= d


@jit
def incidence(
    rows: Float, velocities: Float, things: NDArray[np.int64], origins: Float, directions: Float, lags_s: Float,
    distance: Float, hit: NDArray[np.int64], cosine: Any, owner: Any,
) -> None:  # fmt: skip
    """Fill `cosine` (N,) with that of the angle between each ray and the normal where it ended, 0 for the sky.

    `owner` (N,) is filled with the object that it ended on, of those (P,) of the parts, -1 for none.
    """
    for i in range(len(hit)):
        h, t = hit[i], distance[i]
        dx, dy, dz = directions[0, i], directions[1, i], directions[2, i]
        owner[i] = things[h] if h >= 0 else -1
        if h == GROUND:
            cosine[i] = abs(dz)
        elif h == NOTHING:
            cosine[i] = 0.0
        else:
            lag = lags_s[i]
            x = origins[0, i] - velocities[h, 0] * lag + t * dx
            y = origins[1, i] - velocities[h, 1] * lag + t * dy
            z = origins[2, i] - velocities[h, 2] * lag + t * dz
            nx, ny, nz = part_normal(rows, h, x, y, z)
            cosine[i] = abs(nx * dx + ny * dy + nz * dz)


__all__ = ["GROUND", "NOTHING", "cast", "count_seen", "incidence"]
