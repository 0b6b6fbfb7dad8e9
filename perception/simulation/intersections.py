"""Rays against one part: kernels that numba compiles into those of `raycast` and `shading`.

A part is a row of numbers as `parts` lays them out. Distances are along unit rays that start outside; inf is a miss.

Rays are met a tile at a time: up to 64 of them, in one flat array of rows of 64 numbers (`OX`, ... say where a row
begins). All loops over a tile run over all 64 without a branch, so that the compiler makes them wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

RAYS = 64
"""Of a tile."""
OX, OY, OZ, DX, DY, DZ, LAG, BEST, DISTANCE = (RAYS * row for row in range(9))
"""Origin, direction, instant after that of the parts, distance so far, distance of the part just met."""
TILE_SIZE = 9 * RAYS


def jit(function: Function) -> Function:
    """Compile a kernel: cached on disk, without the GIL, dividing by zero as numpy does."""
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return,unused-ignore]


def inlined(function: Function) -> Function:
    """Compile a kernel into those that call it, so that what it returns stays in registers."""
    return numba.njit(cache=True, nogil=True, error_model="numpy", forceinline=True)(function)  # type: ignore[no-any-return,unused-ignore]


@inlined
def meet_box(rows: Any, velocities: Any, p: int, tile: Any) -> None:
    """Fill the distances of a tile to a box; slabs, Kay & Kajiya, SIGGRAPH 1986."""
    x, y, z, wide, deep, high = rows[p, 1], rows[p, 2], rows[p, 3], rows[p, 4], rows[p, 5], rows[p, 6]
    c, s = rows[p, 7], rows[p, 8]
    vx, vy, vz = velocities[p, 0], velocities[p, 1], velocities[p, 2]
    for i in range(RAYS):
        lag, dx, dy, dz = tile[LAG + i], tile[DX + i], tile[DY + i], tile[DZ + i]
        px, py, pz = tile[OX + i] - vx * lag - x, tile[OY + i] - vy * lag - y, tile[OZ + i] - vz * lag - z
        lx, ly = c * px + s * py, c * py - s * px
        ix, iy, iz = 1.0 / (c * dx + s * dy), 1.0 / (c * dy - s * dx), 1.0 / dz
        a, b = (-wide - lx) * ix, (wide - lx) * ix
        near, far = min(a, b), max(a, b)
        a, b = (-deep - ly) * iy, (deep - ly) * iy
        near, far = max(near, min(a, b)), min(far, max(a, b))
        a, b = (-high - pz) * iz, (high - pz) * iz
        near, far = max(near, min(a, b)), min(far, max(a, b))
        tile[DISTANCE + i] = near if (near > 0.0) & (near <= far) else math.inf


@inlined
def _meet_ellipsoid(rows: Any, velocities: Any, p: int, tile: Any) -> None:
    x, y, z = rows[p, 1], rows[p, 2], rows[p, 3]
    wide, deep, high = 1.0 / rows[p, 4], 1.0 / rows[p, 5], 1.0 / rows[p, 6]
    vx, vy, vz = velocities[p, 0], velocities[p, 1], velocities[p, 2]
    for i in range(RAYS):
        lag = tile[LAG + i]
        ex, ey, ez = tile[DX + i] * wide, tile[DY + i] * deep, tile[DZ + i] * high
        px = (tile[OX + i] - vx * lag - x) * wide
        py = (tile[OY + i] - vy * lag - y) * deep
        pz = (tile[OZ + i] - vz * lag - z) * high
        a = ex * ex + ey * ey + ez * ez
        b = px * ex + py * ey + pz * ez
        under = b * b - a * (px * px + py * py + pz * pz - 1.0)
        t = (-b - math.sqrt(max(under, 0.0))) / a
        tile[DISTANCE + i] = t if (under >= 0.0) & (t > 0.0) else math.inf


@inlined
def _meet_cylinder(rows: Any, velocities: Any, p: int, tile: Any) -> None:
    x, y, z, r, high = rows[p, 1], rows[p, 2], rows[p, 3], rows[p, 4], rows[p, 5]
    vx, vy, vz = velocities[p, 0], velocities[p, 1], velocities[p, 2]
    for i in range(RAYS):
        lag, dx, dy, dz = tile[LAG + i], tile[DX + i], tile[DY + i], tile[DZ + i]
        px, py, pz = tile[OX + i] - vx * lag - x, tile[OY + i] - vy * lag - y, tile[OZ + i] - vz * lag - z
        a = dx * dx + dy * dy
        b = px * dx + py * dy
        under = b * b - a * (px * px + py * py - r * r)
        side = (-b - math.sqrt(max(under, 0.0))) / a
        on_side = (a > 1e-12) & (side > 0.0) & (abs(pz + side * dz) <= high)
        cap = ((high if dz < 0.0 else -high) - pz) / dz
        cx, cy = px + cap * dx, py + cap * dy
        on_cap = (abs(dz) > 1e-12) & (cap > 0.0) & (cx * cx + cy * cy <= r * r)
        t = side if on_side else (cap if on_cap else math.inf)
        tile[DISTANCE + i] = t if under >= 0.0 else math.inf


@inlined
def _meet_capsule(rows: Any, velocities: Any, p: int, tile: Any) -> None:
    x, y, z, r = rows[p, 1], rows[p, 2], rows[p, 3], rows[p, 7]
    bx, by, bz = rows[p, 4] - x, rows[p, 5] - y, rows[p, 6] - z
    bb = bx * bx + by * by + bz * bz
    vx, vy, vz = velocities[p, 0], velocities[p, 1], velocities[p, 2]
    for i in range(RAYS):
        lag, dx, dy, dz = tile[LAG + i], tile[DX + i], tile[DY + i], tile[DZ + i]
        px, py, pz = tile[OX + i] - vx * lag - x, tile[OY + i] - vy * lag - y, tile[OZ + i] - vz * lag - z
        bd = bx * dx + by * dy + bz * dz
        bp = bx * px + by * py + bz * pz
        dp = dx * px + dy * py + dz * pz
        pp = px * px + py * py + pz * pz
        a = bb - bd * bd
        b = bb * dp - bp * bd
        under = b * b - a * (bb * pp - bp * bp - r * r * bb)
        side = (-b - math.sqrt(max(under, 0.0))) / a
        along = bp + side * bd
        lies_along = a <= 1e-12  # the ray is parallel to the axis, or there is none
        second = (bp > 0.0) if lies_along else (along >= bb)  # the ball at the far end
        qx, qy, qz = px - (bx if second else 0.0), py - (by if second else 0.0), pz - (bz if second else 0.0)
        dq = dx * qx + dy * qy + dz * qz
        ball = dq * dq - (qx * qx + qy * qy + qz * qz - r * r)
        end = -dq - math.sqrt(max(ball, 0.0))
        on_side = (not lies_along) & (along > 0.0) & (along < bb)
        t = side if on_side else (end if ball >= 0.0 else math.inf)
        tile[DISTANCE + i] = t if (lies_along | (under >= 0.0)) & (t > 0.0) else math.inf


@inlined
def _meet_disc(rows: Any, velocities: Any, p: int, tile: Any) -> None:
    x, y, z, outer, inner = rows[p, 1], rows[p, 2], rows[p, 3], rows[p, 4], rows[p, 5]
    nx, ny = -rows[p, 8], rows[p, 7]
    vx, vy, vz = velocities[p, 0], velocities[p, 1], velocities[p, 2]
    for i in range(RAYS):
        lag, dx, dy, dz = tile[LAG + i], tile[DX + i], tile[DY + i], tile[DZ + i]
        px, py, pz = tile[OX + i] - vx * lag - x, tile[OY + i] - vy * lag - y, tile[OZ + i] - vz * lag - z
        facing = nx * dx + ny * dy
        t = -(nx * px + ny * py) / facing
        qx, qy, qz = px + t * dx, py + t * dy, pz + t * dz
        away = qx * qx + qy * qy + qz * qz
        inside = (inner * inner <= away) & (away <= outer * outer)
        tile[DISTANCE + i] = t if (abs(facing) >= 1e-9) & (t > 0.0) & inside else math.inf


@inlined
def meet_part(rows: Any, velocities: Any, p: int, tile: Any) -> None:
    """Fill the distances of a tile to a part that its rays enter from outside."""
    kind = rows[p, 0]
    if kind == 3.0:
        _meet_capsule(rows, velocities, p, tile)
    elif kind == 0.0:
        meet_box(rows, velocities, p, tile)
    elif kind == 1.0:
        _meet_ellipsoid(rows, velocities, p, tile)
    elif kind == 2.0:
        _meet_cylinder(rows, velocities, p, tile)
    else:
        _meet_disc(rows, velocities, p, tile)


@inlined
def meet_ground(ground: Any, tile: Any) -> None:
    """Begin with the ground: road, kerb, pavement; `ground` is half the road's width and the pavement's height."""
    half, high = ground[0], ground[1]
    for i in range(RAYS):
        oy, oz, dy, dz = tile[OY + i], tile[OZ + i], tile[DY + i], tile[DZ + i]
        pavement, road = (high - oz) / dz, -oz / dz
        kerb = ((half if dy > 0.0 else -half) - oy) / dy
        beside, inside = abs(oy + pavement * dy) >= half, abs(oy + road * dy) <= half
        flat = pavement if beside else road
        t = flat if beside | inside else kerb
        tile[BEST + i] = t if (dz <= -1e-9) & ((flat > 0.0) | ((not beside) & (not inside))) else math.inf


@inlined
def part_normal(rows: Any, p: int, x: float, y: float, z: float) -> Any:
    """Return the outward unit normal at a point on a part's surface; a disc's is that of its plane."""
    kind = rows[p, 0]
    px, py, pz = x - rows[p, 1], y - rows[p, 2], z - rows[p, 3]
    if kind == 0.0:
        c, s = rows[p, 7], rows[p, 8]
        lx, ly = c * px + s * py, c * py - s * px
        fx, fy, fz = abs(lx) / rows[p, 4], abs(ly) / rows[p, 5], abs(pz) / rows[p, 6]
        if fx >= fy and fx >= fz:
            sign = math.copysign(1.0, lx)
            return sign * c, sign * s, 0.0
        if fy >= fz:
            sign = math.copysign(1.0, ly)
            return -sign * s, sign * c, 0.0
        return 0.0, 0.0, math.copysign(1.0, pz)
    if kind == 4.0:
        return -rows[p, 8], rows[p, 7], 0.0
    if kind == 1.0:
        px, py, pz = px / rows[p, 4] ** 2, py / rows[p, 5] ** 2, pz / rows[p, 6] ** 2
    elif kind == 2.0:
        if abs(abs(pz) - rows[p, 5]) < 1e-6:
            return 0.0, 0.0, math.copysign(1.0, pz)
        pz = 0.0
    else:
        bx, by, bz = rows[p, 4] - rows[p, 1], rows[p, 5] - rows[p, 2], rows[p, 6] - rows[p, 3]
        bb = bx * bx + by * by + bz * bz
        along = min(max((px * bx + py * by + pz * bz) / bb, 0.0), 1.0) if bb > 0.0 else 0.0
        px, py, pz = px - along * bx, py - along * by, pz - along * bz
    length = math.sqrt(px * px + py * py + pz * pz)
    return px / length, py / length, pz / length


__all__ = [
    "BEST", "DISTANCE", "DX", "DY", "DZ", "LAG", "OX", "OY", "OZ", "RAYS", "TILE_SIZE", "inlined", "jit", "meet_box",
    "meet_ground", "meet_part", "part_normal",
]  # fmt: skip
