"""Rays against parts and the ground: the kernels of every simulated sensor.

Rays come in tiles of neighbours, and tiles in groups. Each has a cone around its rays; a part whose bounding sphere
misses the cone is not looked at, the others are tried from near to far. That holds for every camera model and for a
turning LiDAR alike, whose rays start at different places and instants. One thread, GIL released: the answer does not
depend on who asks.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.simulation.intersections import box_distance, ground_distance, jit, part_distance, part_normal

Float: TypeAlias = NDArray[np.float64]

GROUND, NOTHING = -1, -2
"""What a ray hits beside a part."""


@jit
def _meets(x: float, y: float, z: float, away2: float, r: float, cone: Any) -> bool:
    """True where a sphere at (x, y, z) from the apex can touch a cone."""
    if away2 <= r * r:
        return True
    away = math.sqrt(away2)
    sine = r / away
    cosine = math.sqrt(1.0 - sine * sine)
    if sine * cone[3] + cosine * cone[4] < 0.0:  # both half angles together are more than half a turn
        return True
    return bool(x * cone[0] + y * cone[1] + z * cone[2] >= (cosine * cone[3] - sine * cone[4]) * away)


@jit
def _in_reach(
    spheres: Any, velocities: Any, cone: Any, origin: Any, lag_s: float, slack_m: float, reach_m: float, found: Any
) -> int:
    """Fill `found` with the parts that a wide cone of rays can meet; return how many."""
    count = 0
    for p in range(len(spheres)):
        x = spheres[p, 0] + velocities[p, 0] * lag_s - origin[0]
        y = spheres[p, 1] + velocities[p, 1] * lag_s - origin[1]
        z = spheres[p, 2] + velocities[p, 2] * lag_s - origin[2]
        r = spheres[p, 3] + slack_m
        away2 = x * x + y * y + z * z
        if away2 <= (reach_m + r) * (reach_m + r) and _meets(x, y, z, away2, r, cone):
            found[count] = p
            count += 1
    return count


@jit
def _box_reached(rows: Any, p: int, ox: float, oy: float, oz: float, cone: Any, far_m: float) -> float:
    """Return how far a box is at least from the apex; inf where it is beside the cone."""
    c, s = rows[p, 7], rows[p, 8]
    px, py, pz = ox - rows[p, 1], oy - rows[p, 2], oz - rows[p, 3]
    lx, ly = c * px + s * py, c * py - s * px
    ex, ey, ez = c * cone[0] + s * cone[1], c * cone[1] - s * cone[0], cone[2]
    wide = far_m * cone[4] * 1.01  # within `far_m`, rays of the cone are so near to its axis
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
    return math.sqrt(away2) if near <= far else math.inf


@jit
def _capsule_reached(rows: Any, p: int, ox: float, oy: float, oz: float, cone: Any, far_m: float) -> float:
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
    reach = rows[p, 7] + far_m * cone[4] * 1.01
    if x * x + y * y + z * z > reach * reach:
        return math.inf
    s = min(max(-c / a, 0.0), 1.0) if a > 0.0 else 0.0
    x, y, z = rx + s * dx, ry + s * dy, rz + s * dz
    return float(max(math.sqrt(x * x + y * y + z * z) - rows[p, 7], 0.0))


@jit
def _from_near_to_far(
    rows: Any, spheres: Any, velocities: Any, cone: Any, origin: Any, lag_s: float, slack_m: float, among: Any,
    many: int, found: Any, near: Any,
) -> int:  # fmt: skip
    """Fill `found` and `near` with those of the parts `among` that a narrow cone can meet; return how many.

    Without slack, boxes and capsules are tried against the cone themselves: their spheres are much larger than they.
    """
    count = 0
    for m in range(many):
        p = among[m]
        x = spheres[p, 0] + velocities[p, 0] * lag_s - origin[0]
        y = spheres[p, 1] + velocities[p, 1] * lag_s - origin[1]
        z = spheres[p, 2] + velocities[p, 2] * lag_s - origin[2]
        r = spheres[p, 3] + slack_m
        away2 = x * x + y * y + z * z
        if not _meets(x, y, z, away2, r, cone):
            continue
        away = math.sqrt(away2)
        begin = max(away - r, 0.0)
        if slack_m == 0.0 and cone[3] > 0.9:
            if rows[p, 0] == 0.0:
                begin = max(begin, _box_reached(rows, p, origin[0], origin[1], origin[2], cone, away + r))
            elif rows[p, 0] == 3.0:
                begin = max(begin, _capsule_reached(rows, p, origin[0], origin[1], origin[2], cone, away + r))
            if begin == math.inf:
                continue
        k = count
        while k > 0 and near[k - 1] > begin:
            found[k], near[k] = found[k - 1], near[k - 1]
            k -= 1
        found[k], near[k] = p, begin
        count += 1
    return count


@jit
def cast(
    rows: Float, spheres: Float, velocities: Float, ground: Float, groups: NDArray[np.int64], group_cones: Float,
    tiles: NDArray[np.int64], cones: Float, origins: Float, directions: Float, lags_s: Float, slack_m: float,
    reach_m: float, behind: Any, distance: Any, hit: Any,
) -> None:  # fmt: skip
    """Cast rays; each finds the nearest part or the ground.

    Args:
        rows: (P, 9) parts at lag zero.
        spheres: (P, 4) their bounding spheres.
        velocities: (P, 3) of the parts.
        ground: half the road's width, the pavement's height.
        groups: (G + 1,) group g holds the tiles groups[g] to groups[g + 1].
        group_cones: (G, 5) axis, cosine and sine of the half angle.
        tiles: (T + 1,) tile i holds the rays tiles[i] to tiles[i + 1].
        cones: (T, 5) as of the groups.
        origins: (N, 3), or (1, 3) for rays of one place.
        directions: (N, 3) unit.
        lags_s: (N,) or (1,): instant of each ray after that of the parts.
        slack_m: what origins and parts move within a group.
        reach_m: parts beyond are not looked at.
        behind: (N,) distance of what is known to stand behind the parts, instead of the ground; (0,) for none.
        distance: (N,) is filled; inf for the sky.
        hit: (N,) is filled with the part, GROUND (or what is behind) or NOTHING.
    """
    among = np.empty(len(rows), np.int64)
    found, near = np.empty(len(rows) + 1, np.int64), np.empty(len(rows) + 1)
    many_origins, many_lags = len(origins) > 1, len(lags_s) > 1
    for g in range(len(groups) - 1):
        middle = (tiles[groups[g]] + tiles[groups[g + 1]]) // 2
        origin = origins[middle if many_origins else 0]
        lag = lags_s[middle if many_lags else 0]
        many = _in_reach(spheres, velocities, group_cones[g], origin, lag, slack_m, reach_m, among)
        if many == 0 and len(behind) > 0:
            for i in range(tiles[groups[g]], tiles[groups[g + 1]]):
                distance[i], hit[i] = behind[i], GROUND if behind[i] < math.inf else NOTHING
            continue
        for t in range(groups[g], groups[g + 1]):
            middle = (tiles[t] + tiles[t + 1]) // 2
            origin = origins[middle if many_origins else 0]
            lag = lags_s[middle if many_lags else 0]
            count = _from_near_to_far(
                rows, spheres, velocities, cones[t], origin, lag, slack_m, among, many, found, near
            )
            for i in range(tiles[t], tiles[t + 1]):
                o = i if many_origins else 0
                ox, oy, oz = origins[o, 0], origins[o, 1], origins[o, 2]
                dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
                lag = lags_s[i if many_lags else 0]
                best = behind[i] if len(behind) > 0 else ground_distance(ground, oy, oz, dy, dz)
                which = GROUND if best < math.inf else NOTHING
                for k in range(count):
                    if near[k] >= best:
                        break
                    p = found[k]
                    mx, my, mz = velocities[p, 0] * lag, velocities[p, 1] * lag, velocities[p, 2] * lag
                    x, y, z = spheres[p, 0] + mx - ox, spheres[p, 1] + my - oy, spheres[p, 2] + mz - oz
                    along = x * dx + y * dy + z * dz
                    r = spheres[p, 3]
                    if x * x + y * y + z * z - along * along > r * r:
                        continue
                    d = part_distance(rows, p, ox - mx, oy - my, oz - mz, dx, dy, dz)
                    if d < best:
                        best, which = d, p
                distance[i], hit[i] = best, which


@jit
def count_seen(
    hulls: Float, spheres: Float, velocities: Float, groups: NDArray[np.int64], group_cones: Float,
    tiles: NDArray[np.int64], origins: Float, directions: Float, lags_s: Float, slack_m: float, reach_m: float,
    distance: Float, owner: NDArray[np.int64], meant: Any, seen: Any,
) -> None:  # fmt: skip
    """Count for each object the rays that go through its box, and those of them that nothing nearer stops.

    `hulls` (M, 9) are boxes of the objects, `distance` (N,) is where each ray ended, `owner` (N,) on which object,
    negative for none. `meant` (M,) is increased by the rays through each box, `seen` (M,) by those that reach it. The
    others are as in `cast`.
    """
    among = np.empty(len(hulls), np.int64)
    for g in range(len(groups) - 1):
        middle = (tiles[groups[g]] + tiles[groups[g + 1]]) // 2
        many = _in_reach(spheres, velocities, group_cones[g], origins[middle], lags_s[middle], slack_m, reach_m, among)
        for i in range(tiles[groups[g]], tiles[groups[g + 1]]):
            ox, oy, oz, lag = origins[i, 0], origins[i, 1], origins[i, 2], lags_s[i]
            dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
            for k in range(many):
                p = among[k]
                px, py, pz = ox - velocities[p, 0] * lag, oy - velocities[p, 1] * lag, oz - velocities[p, 2] * lag
                x, y, z = spheres[p, 0] - px, spheres[p, 1] - py, spheres[p, 2] - pz
                along = x * dx + y * dy + z * dz
                if x * x + y * y + z * z - along * along > spheres[p, 3] * spheres[p, 3]:
                    continue
                d = box_distance(hulls, p, px, py, pz, dx, dy, dz)
                if d < math.inf:
                    meant[p] += 1
                    seen[p] += owner[i] == p or distance[i] >= d


@jit
def incidence(
    rows: Float, velocities: Float, origins: Float, directions: Float, lags_s: Float, distance: Float,
    hit: NDArray[np.int64], cosine: Any,
) -> None:  # fmt: skip
    """Fill `cosine` (N,) with that of the angle between each ray and the normal where it ended; 0 for the sky."""
    for i in range(len(directions)):
        h, t = hit[i], distance[i]
        dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
        if h == GROUND:
            cosine[i] = abs(dz)
        elif h == NOTHING:
            cosine[i] = 0.0
        else:
            lag = lags_s[i]
            x = origins[i, 0] - velocities[h, 0] * lag + t * dx
            y = origins[i, 1] - velocities[h, 1] * lag + t * dy
            z = origins[i, 2] - velocities[h, 2] * lag + t * dz
            nx, ny, nz = part_normal(rows, h, x, y, z)
            cosine[i] = abs(nx * dx + ny * dy + nz * dz)


__all__ = ["GROUND", "NOTHING", "cast", "count_seen", "incidence"]
