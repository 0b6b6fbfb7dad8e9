"""Textures by rule, from the place on the object, so that they stick to what moves.

They fade with distance, where a pixel covers more than their grain. A surface is a number plus up to three smooth
noises. Recipes only say which: place, seed and strength of each. Those of many rays are then worked out at once,
without a branch, so that the compiler makes the loop wide.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from perception.simulation.intersections import inlined

LANE_M = 3.5
ONE, THREE, PER_STEP = np.float32(1.0), np.float32(3.0), np.float32(2.0 / 16777216.0)
PLAIN = (0.0, 0.0, 0.0, 0.0)
"""No noise."""


@inlined
def dice(x: int, y: int, z: int) -> Any:
    """Return 24 bits that look random and depend on three integers alone, of which 32 bits count."""
    h = np.uint32(np.int32(x) * 374761393 + np.int32(y) * 668265263 + np.int32(z) * 1274126177)
    h = np.uint32((h ^ (h >> 15)) * 2246822519)
    return np.int32(np.uint32((h ^ (h >> 13)) * 3266489917) >> 5 & 0xFFFFFF)


@inlined
def hashed(x: int, y: int, z: int) -> Any:
    """Return a number in 0 to 1 that looks random and depends on three integers alone."""
    return dice(x, y, z) * (1.0 / 16777216.0)


@inlined
def bell(key: int, seed: int) -> Any:
    """Return a number of mean zero and deviation one that depends on two integers alone: the sum of three dice."""
    h = dice(key, seed, 77)
    return ((h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) - 382.5) * (1.0 / 127.8)


@inlined
def smooth(i: int, j: int, seed: int, a: Any, b: Any) -> Any:
    """Return smooth noise in -1 to 1 with a grain of one, at shares `a` and `b` of a cell; 32 bits wide throughout."""
    a, b = a * a * (THREE - a - a), b * b * (THREE - b - b)
    low = np.float32(dice(i, j, seed)) * (ONE - a) + np.float32(dice(i + 1, j, seed)) * a
    high = np.float32(dice(i, j + 1, seed)) * (ONE - a) + np.float32(dice(i + 1, j + 1, seed)) * a
    return (low * (ONE - b) + high * b) * PER_STEP - ONE


@inlined
def clouds(dx: float, dy: float, dz: float) -> Any:
    """Return the noise of the sky."""
    up = max(dz, 0.02)
    return 1.2 * dx / up, 1.2 * dy / up, 9.0, 0.12 * min(dz * 4.0, 1.0) if dz > 0.02 else 0.0


@inlined
def road(x: float, y: float, away: float, half: float) -> Any:
    """Return the reflectance of asphalt with its markings before noise, and its noises."""
    dashed = (abs(y) < 0.07) & (x - 9.0 * math.floor(x / 9.0) < 4.0)
    edge = abs(abs(y) - LANE_M) < 0.06
    crossing = (x - 80.0 * math.floor(x / 80.0) < 3.2) & (y - 1.0 * math.floor(y) < 0.5) & (abs(y) < half - 0.4)
    painted, near = dashed | edge | crossing, 1.0 / (1.0 + away / 10.0)
    patches = (x * 0.35, y * 0.9, 1.0, 0.03)
    worn = (x * 3.0, y * 3.0, 3.0, 0.1)
    tracks = (x * 0.12, y * 2.5, 8.0, 0.0 if painted else 0.03)  # of tyres, and patches
    grain = (x * 11.0, y * 11.0, 2.0, 0.0 if painted | (near <= 0.2) else near * 0.06)
    return 0.55 if painted else 0.10, worn if painted else patches, tracks, grain


@inlined
def pavement(x: float, y: float, away: float) -> Any:
    """Return the reflectance of slabs before noise, and its noise."""
    near = 1.0 / (1.0 + away / 8.0)
    i, j = math.floor(x / 0.6), math.floor(y / 0.6)
    joint = (x - 0.6 * i < 0.03) | (y - 0.6 * j < 0.03)
    value = 0.26 + 0.05 * hashed(i, j, 4) * near - (0.1 * near if joint else 0.0)
    return value, (x * 5.0, y * 5.0, 5.0, 0.03 * near)


@inlined
def boards(x: float, y: float) -> Any:
    """Return the reflectance of the cabin's floor before noise, and its noise."""
    return 0.22 + 0.12 * hashed(math.floor(y / 0.18), math.floor(x / 1.4), 6), (x * 3.0, y * 22.0, 7.0, 0.03)


@inlined
def texture(
    surface: int, u: float, v: float, w: float, up: float, long: float, wide: float, high: float, away: float, seed: int
) -> Any:
    """Return a factor for the colour before noise, how much it shines, and two noises.

    The place is u ahead, v left and w up from the part's middle, whose half sizes follow; `up` is the normal's share
    upwards.
    """
    near, side, s = 1.0 / (1.0 + away / 15.0), u - v, float(seed)
    if surface == 1:
        return _facade(side, w, high, up, near, seed)
    if surface == 2:  # leaves
        fine = (side * 6.0 + up, w * 6.0 + u, s, 0.95 * (0.35 + 0.65 * near))
        return 1.0, 0.0, fine, (side * 1.7, w * 1.7, s, 0.5)
    if surface == 3:
        return _body(u, v, w, up, long, wide, high, near)
    if surface == 4:  # glass with pillars
        post = abs(abs(u) - long * 0.12) < 0.05 or abs(w) > high * 0.86
        return 1.0 if post or up > 0.5 else 0.18, 0.0, PLAIN, PLAIN
    if surface == 5:  # brick
        course = math.floor(w / 0.14)
        a = side / 0.32 + 0.5 * (course - 2.0 * math.floor(course / 2.0))
        mortar = w - course * 0.14 < 0.02 or a - math.floor(a) < 0.06
        tone = 0.3 if mortar else 0.35 * (hashed(math.floor(a), course, seed) - 0.5)
        return 1.0 + tone * near, 0.0, (side * 0.4, w * 0.4, s, 0.1), PLAIN
    if surface == 6:  # cloth
        return 1.0, 0.0, (side * 14.0, w * 14.0, s, 0.22 * near), (side * 4.0, w * 4.0, s, 0.12)
    if surface == 7:  # a lamp
        return 1.0, 1.5, PLAIN, PLAIN
    if surface == 8:  # bark, boards
        return 1.0, 0.0, (side * 9.0, w * 1.5, s, 0.4 * near), PLAIN
    if surface == 9:  # a sign
        return 3.0 if abs(w) < 0.09 and abs(side) < 0.22 else 1.0, 0.0, PLAIN, PLAIN
    return 1.0, 0.0, PLAIN, PLAIN


@inlined
def _facade(side: float, w: float, high: float, up: float, near: float, seed: int) -> Any:
    """Plaster with windows, some of which are lit."""
    if abs(up) > 0.5:
        return 0.6, 0.0, PLAIN, PLAIN
    a, b = side / 2.1, (w + high) / 3.1
    i, j = math.floor(a), math.floor(b)
    a, b = a - i, b - j
    if 0.22 < a < 0.78 and 0.25 < b < 0.8:
        if a < 0.26 or a > 0.74 or b < 0.29 or b > 0.76:
            return 1.25, 0.0, PLAIN, PLAIN
        pane = hashed(i, j, seed)
        return 0.08 + 0.3 * pane * pane, 0.9 if pane > 0.72 else 0.0, PLAIN, PLAIN
    s = float(seed)
    return 1.0, 0.0, (side * 2.0, w * 2.0, s, 0.1 * near), (side * 0.3, w * 0.3, s, 0.1)


@inlined
def _body(u: float, v: float, w: float, up: float, long: float, wide: float, high: float, near: float) -> Any:
    """A vehicle's body: lamps and plate at front and rear, seams."""
    if abs(u) > long - 0.12 and abs(up) < 0.5:
        if abs(v) > wide * 0.62 and abs(w) < high * 0.45:
            return 4.0, 2.0 if u > 0 else 1.0, PLAIN, PLAIN
        if abs(v) < 0.26 and abs(w + high * 0.4) < 0.07:
            return 6.0, 0.0, PLAIN, PLAIN
    seam = abs(u - 0.35) < 0.015 or abs(u + 0.75) < 0.015
    return 0.7 if seam and near > 0.4 else 1.0, 0.0, PLAIN, PLAIN


__all__ = [
    "PLAIN", "bell", "boards", "clouds", "dice", "hashed", "pavement", "road", "smooth", "texture",
]  # fmt: skip
