"""Textures by rule, from the place on the object, so that they stick to what moves.

They fade with distance, where a pixel covers more than their grain.
A surface is a number plus smooth noises. Recipes only note which noises a ray needs, in a table of layers; all are then
worked out at once, without a branch, so that the compiler makes the loop wide.
"""

from __future__ import annotations

import math
from typing import Any

from perception.simulation.intersections import jit

LANE_M = 3.5
MOST_LAYERS = 3
"""Noises that one ray can ask for."""
RAYS = 64
"""That share a table of layers."""
LAYERS = RAYS * MOST_LAYERS
U, V, SEED, STRENGTH, RAY, VALUE = (LAYERS * row for row in range(6))
"""Where the columns of the table begin: place and kind of the noise, its factor, whose it is, its value."""
TABLE_SIZE = 6 * LAYERS


@jit
def dice(x: int, y: int, z: int) -> int:
    """Return 24 bits that look random and depend on three integers alone."""
    h = (x * 374761393 + y * 668265263 + z * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 2246822519) & 0xFFFFFFFF
    return ((h ^ (h >> 13)) * 3266489917 >> 5) & 0xFFFFFF


@jit
def hashed(x: int, y: int, z: int) -> float:
    """Return a number in 0 to 1 that looks random and depends on three integers alone."""
    return dice(x, y, z) * (1.0 / 16777216.0)


@jit
def bell(key: int, seed: int) -> float:
    """Return a number of mean zero and deviation one that depends on two integers alone: the sum of three dice."""
    h = dice(key, seed, 77)
    return ((h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) - 382.5) * (1.0 / 127.8)


@jit
def fill_layers(table: Any, count: int) -> None:
    """Fill the values of a table's layers: smooth noise in -1 to 1 with a grain of one, times its strength."""
    us, vs, seeds = table[U : U + LAYERS], table[V : V + LAYERS], table[SEED : SEED + LAYERS]
    strengths, values = table[STRENGTH : STRENGTH + LAYERS], table[VALUE : VALUE + LAYERS]
    for k in range(count):
        u, v, seed = us[k], vs[k], int(seeds[k])
        i, j = math.floor(u), math.floor(v)
        a, b = u - i, v - j
        a, b = a * a * (3.0 - 2.0 * a), b * b * (3.0 - 2.0 * b)
        low = hashed(i, j, seed) * (1.0 - a) + hashed(i + 1, j, seed) * a
        high = hashed(i, j + 1, seed) * (1.0 - a) + hashed(i + 1, j + 1, seed) * a
        values[k] = strengths[k] * (2.0 * (low * (1.0 - b) + high * b) - 1.0)


@jit
def layer(table: Any, count: int, ray: int, u: float, v: float, seed: int, strength: float) -> int:
    """Note a noise; return how many there are."""
    table[U + count], table[V + count], table[SEED + count] = u, v, seed
    table[STRENGTH + count], table[RAY + count] = strength, ray
    return count + 1


@jit
def road(table: Any, count: int, ray: int, x: float, y: float, away: float, half: float) -> Any:
    """Return the reflectance of asphalt with its markings before noise, and how many layers there are."""
    dashed = abs(y) < 0.07 and x - 9.0 * math.floor(x / 9.0) < 4.0
    edge = abs(abs(y) - LANE_M) < 0.06
    crossing = x - 80.0 * math.floor(x / 80.0) < 3.2 and y - 1.0 * math.floor(y) < 0.5 and abs(y) < half - 0.4
    if dashed or edge or crossing:
        return 0.55, layer(table, count, ray, x * 3.0, y * 3.0, 3, 0.1)
    near = 1.0 / (1.0 + away / 10.0)
    count = layer(table, count, ray, x * 0.35, y * 0.9, 1, 0.03)
    count = layer(table, count, ray, x * 0.12, y * 2.5, 8, 0.03)  # tracks of tyres and patches
    if near > 0.2:
        count = layer(table, count, ray, x * 11.0, y * 11.0, 2, near * 0.06)
    return 0.10, count


@jit
def pavement(table: Any, count: int, ray: int, x: float, y: float, away: float) -> Any:
    """Return the reflectance of slabs before noise, and how many layers there are."""
    near = 1.0 / (1.0 + away / 8.0)
    i, j = math.floor(x / 0.6), math.floor(y / 0.6)
    joint = x - 0.6 * i < 0.03 or y - 0.6 * j < 0.03
    count = layer(table, count, ray, x * 5.0, y * 5.0, 5, 0.03 * near)
    return 0.26 + 0.05 * hashed(i, j, 4) * near - (0.1 * near if joint else 0.0), count


@jit
def boards(table: Any, count: int, ray: int, x: float, y: float) -> Any:
    """Return the reflectance of the cabin's floor before noise, and how many layers there are."""
    count = layer(table, count, ray, x * 3.0, y * 22.0, 7, 0.03)
    return 0.22 + 0.12 * hashed(math.floor(y / 0.18), math.floor(x / 1.4), 6), count


@jit
def texture(
    table: Any, count: int, ray: int, surface: int, u: float, v: float, w: float, up: float, rows: Any, p: int,
    away: float, seed: int,
) -> Any:  # fmt: skip
    """Return a factor for the colour before noise, how much it shines, and how many layers there are.

    The place is u ahead, v left and w up from the part's middle; `up` is the normal's share upwards.
    """
    near = 1.0 / (1.0 + away / 15.0)
    side = u - v
    if surface == 1:
        return _facade(table, count, ray, side, w, up, rows, p, near, seed)
    if surface == 2:  # leaves
        count = layer(table, count, ray, side * 6.0 + up, w * 6.0 + u, seed, 0.95 * (0.35 + 0.65 * near))
        return 1.0, 0.0, layer(table, count, ray, side * 1.7, w * 1.7, seed, 0.5)
    if surface == 3:
        factor, shine = _body(u, v, w, up, rows, p, near)
        return factor, shine, count
    if surface == 4:  # glass with pillars
        post = abs(abs(u) - rows[p, 4] * 0.12) < 0.05 or abs(w) > rows[p, 6] * 0.86
        return 1.0 if post or up > 0.5 else 0.18, 0.0, count
    if surface == 5:  # brick
        course = math.floor(w / 0.14)
        a = side / 0.32 + 0.5 * (course - 2.0 * math.floor(course / 2.0))
        mortar = w - course * 0.14 < 0.02 or a - math.floor(a) < 0.06
        tone = 0.3 if mortar else 0.35 * (hashed(math.floor(a), course, seed) - 0.5)
        return 1.0 + tone * near, 0.0, layer(table, count, ray, side * 0.4, w * 0.4, seed, 0.1)
    if surface == 6:  # cloth
        count = layer(table, count, ray, side * 14.0, w * 14.0, seed, 0.22 * near)
        return 1.0, 0.0, layer(table, count, ray, side * 4.0, w * 4.0, seed, 0.12)
    if surface == 7:  # a lamp
        return 1.0, 1.5, count
    if surface == 8:  # bark, boards
        return 1.0, 0.0, layer(table, count, ray, side * 9.0, w * 1.5, seed, 0.4 * near)
    if surface == 9:  # a sign
        return 3.0 if abs(w) < 0.09 and abs(side) < 0.22 else 1.0, 0.0, count
    return 1.0, 0.0, count


@jit
def _facade(
    table: Any, count: int, ray: int, side: float, w: float, up: float, rows: Any, p: int, near: float, seed: int
) -> Any:
    if abs(up) > 0.5:
        return 0.6, 0.0, count
    a, b = side / 2.1, (w + rows[p, 6]) / 3.1
    i, j = math.floor(a), math.floor(b)
    a, b = a - i, b - j
    if 0.22 < a < 0.78 and 0.25 < b < 0.8:
        if a < 0.26 or a > 0.74 or b < 0.29 or b > 0.76:
            return 1.25, 0.0, count
        pane = hashed(i, j, seed)
        return 0.08 + 0.3 * pane * pane, 0.9 if pane > 0.72 else 0.0, count
    count = layer(table, count, ray, side * 2.0, w * 2.0, seed, 0.1 * near)
    return 1.0, 0.0, layer(table, count, ray, side * 0.3, w * 0.3, seed, 0.1)


@jit
def _body(u: float, v: float, w: float, up: float, rows: Any, p: int, near: float) -> Any:
    """A vehicle's body: lamps and plate at front and rear, seams."""
    if abs(u) > rows[p, 4] - 0.12 and abs(up) < 0.5:
        if abs(v) > rows[p, 5] * 0.62 and abs(w) < rows[p, 6] * 0.45:
            return 4.0, 2.0 if u > 0 else 1.0
        if abs(v) < 0.26 and abs(w + rows[p, 6] * 0.4) < 0.07:
            return 6.0, 0.0
    seam = abs(u - 0.35) < 0.015 or abs(u + 0.75) < 0.015
    return 0.7 if seam and near > 0.4 else 1.0, 0.0


__all__ = [
    "RAY",
    "RAYS",
    "TABLE_SIZE",
    "VALUE",
    "bell",
    "boards",
    "dice",
    "fill_layers",
    "hashed",
    "layer",
    "pavement",
    "road",
    "texture",
]  # fmt: skip
