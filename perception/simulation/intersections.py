"""One ray against one part: kernels that numba compiles into those of `raycast` and `shading`.

A part is a row of numbers as `parts` lays them out. Distances are along unit rays that start outside; inf is a miss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def jit(function: Function) -> Function:
    """Compile a kernel: cached on disk, without the GIL, dividing by zero as numpy does."""
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return,unused-ignore]


@jit
def box_distance(rows: Any, p: int, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> float:
    """Return the distance to a box; slabs, Kay & Kajiya, SIGGRAPH 1986."""
    c, s = rows[p, 7], rows[p, 8]
    px, py, pz = ox - rows[p, 1], oy - rows[p, 2], oz - rows[p, 3]
    lx, ly = c * px + s * py, c * py - s * px
    ex, ey = c * dx + s * dy, c * dy - s * dx
    ix, iy, iz = 1.0 / ex, 1.0 / ey, 1.0 / dz
    a, b = (-rows[p, 4] - lx) * ix, (rows[p, 4] - lx) * ix
    near, far = min(a, b), max(a, b)
    a, b = (-rows[p, 5] - ly) * iy, (rows[p, 5] - ly) * iy
    near, far = max(near, min(a, b)), min(far, max(a, b))
    a, b = (-rows[p, 6] - pz) * iz, (rows[p, 6] - pz) * iz
    near, far = max(near, min(a, b)), min(far, max(a, b))
    return float(near) if 0.0 < near <= far else math.inf


@jit
def _ellipsoid(rows: Any, p: int, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> float:
    px, py, pz = (ox - rows[p, 1]) / rows[p, 4], (oy - rows[p, 2]) / rows[p, 5], (oz - rows[p, 3]) / rows[p, 6]
    ex, ey, ez = dx / rows[p, 4], dy / rows[p, 5], dz / rows[p, 6]
    a = ex * ex + ey * ey + ez * ez
    b = px * ex + py * ey + pz * ez
    under = b * b - a * (px * px + py * py + pz * pz - 1.0)
    if under < 0.0:
        return math.inf
    t = (-b - math.sqrt(under)) / a
    return t if t > 0.0 else math.inf


@jit
def _cylinder(rows: Any, p: int, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> float:
    px, py, pz = ox - rows[p, 1], oy - rows[p, 2], oz - rows[p, 3]
    a = dx * dx + dy * dy
    b = px * dx + py * dy
    under = b * b - a * (px * px + py * py - rows[p, 4] * rows[p, 4])
    if under < 0.0:
        return math.inf
    if a > 1e-12:
        t = (-b - math.sqrt(under)) / a
        if t > 0.0 and abs(pz + t * dz) <= rows[p, 5]:
            return float(t)
    if abs(dz) > 1e-12:  # a cap
        t = (math.copysign(rows[p, 5], -dz) - pz) / dz
        x, y = px + t * dx, py + t * dy
        if t > 0.0 and x * x + y * y <= rows[p, 4] * rows[p, 4]:
            return float(t)
    return math.inf


@jit
def _capsule(rows: Any, p: int, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> float:
    r = rows[p, 7]
    bx, by, bz = rows[p, 4] - rows[p, 1], rows[p, 5] - rows[p, 2], rows[p, 6] - rows[p, 3]
    px, py, pz = ox - rows[p, 1], oy - rows[p, 2], oz - rows[p, 3]
    bb = bx * bx + by * by + bz * bz
    bd = bx * dx + by * dy + bz * dz
    bp = bx * px + by * py + bz * pz
    dp = dx * px + dy * py + dz * pz
    pp = px * px + py * py + pz * pz
    a = bb - bd * bd
    at_end = bp > 0.0
    if a > 1e-12:
        b = bb * dp - bp * bd
        under = b * b - a * (bb * pp - bp * bp - r * r * bb)
        if under < 0.0:
            return math.inf
        t = (-b - math.sqrt(under)) / a
        along = bp + t * bd
        if 0.0 < along < bb:
            return t if t > 0.0 else math.inf
        at_end = along >= bb
    if at_end:
        px, py, pz = ox - rows[p, 4], oy - rows[p, 5], oz - rows[p, 6]
    b = px * dx + py * dy + pz * dz
    under = b * b - (px * px + py * py + pz * pz - r * r)
    if under < 0.0:
        return math.inf
    t = -b - math.sqrt(under)
    return t if t > 0.0 else math.inf


@jit
def _disc(rows: Any, p: int, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> float:
    nx, ny = -rows[p, 8], rows[p, 7]
    facing = nx * dx + ny * dy
    if abs(facing) < 1e-9:
        return math.inf
    t = (nx * (rows[p, 1] - ox) + ny * (rows[p, 2] - oy)) / facing
    if t <= 0.0:
        return math.inf
    x, y, z = ox + t * dx - rows[p, 1], oy + t * dy - rows[p, 2], oz + t * dz - rows[p, 3]
    away = x * x + y * y + z * z
    return t if rows[p, 5] * rows[p, 5] <= away <= rows[p, 4] * rows[p, 4] else math.inf


@jit
def part_distance(rows: Any, p: int, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> float:
    """Return the distance along a unit ray to a part that it enters from outside; inf is a miss."""
    kind = rows[p, 0]
    if kind == 3.0:
        return _capsule(rows, p, ox, oy, oz, dx, dy, dz)
    if kind == 0.0:
        return box_distance(rows, p, ox, oy, oz, dx, dy, dz)
    if kind == 1.0:
        return _ellipsoid(rows, p, ox, oy, oz, dx, dy, dz)
    if kind == 2.0:
        return _cylinder(rows, p, ox, oy, oz, dx, dy, dz)
    return _disc(rows, p, ox, oy, oz, dx, dy, dz)


@jit
def ground_distance(ground: Any, oy: float, oz: float, dy: float, dz: float) -> float:
    """Return the distance to road, kerb or pavement; `ground` is half the road's width and the pavement's height."""
    if dz > -1e-9:
        return math.inf
    t = (ground[1] - oz) / dz
    if abs(oy + t * dy) >= ground[0]:
        return t if t > 0.0 else math.inf
    t = -oz / dz
    if abs(oy + t * dy) <= ground[0]:
        return t if t > 0.0 else math.inf
    return (math.copysign(ground[0], dy) - oy) / dy


@jit
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


__all__ = ["box_distance", "ground_distance", "jit", "part_distance", "part_normal"]
