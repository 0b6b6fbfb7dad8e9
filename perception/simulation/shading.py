"""What a ray sees where it ends: colour and class. Kernels over N rays, one thread, GIL released.

Colours are linear light. Textures are made by rule from the place on the object, so that they stick to what moves, and
fade with distance, where a pixel covers more than their grain.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.simulation.classes import ROAD, SIDEWALK, SKY
from perception.simulation.intersections import jit, part_normal
from perception.simulation.raycast import GROUND, NOTHING
from perception.simulation.weather import Weather

LANE_M = 3.5
FLOOR = 1e9
"""Half width of a road that has no kerb: the floor of the cabin."""


def light_of(weather: Weather) -> NDArray[np.float64]:
    """Pack a weather for the kernels.

    Sun 0:3, sun light 3:6, sky light 6:9, zenith 9:12, horizon 12:15, haze 15, lamps 16, rain 17.
    """
    return np.array(
        (*weather.sun, *weather.sun_light, *weather.sky_light, *weather.zenith, *weather.horizon, weather.haze_per_m,
         float(weather.lamps), weather.rain)
    )  # fmt: skip


@jit
def hashed(x: int, y: int, z: int) -> float:
    """Return a number in 0 to 1 that looks random and depends on three integers alone."""
    h = (x * 374761393 + y * 668265263 + z * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 2246822519) & 0xFFFFFFFF
    return float(((h ^ (h >> 13)) * 3266489917 >> 5) & 0xFFFFFF) * (1.0 / 16777216.0)


@jit
def bell(key: int, seed: int) -> float:
    """Return a number of mean zero and deviation one that depends on two integers alone: the sum of three dice."""
    h = int(hashed(key, seed, 77) * 16777216.0)
    return ((h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) - 382.5) / 127.8


@jit
def grain(u: float, v: float, seed: int) -> float:
    """Return smooth noise in -1 to 1 with a grain of one."""
    x, y = math.floor(u), math.floor(v)
    i, j = int(x), int(y)
    a, b = u - x, v - y
    a, b = a * a * (3.0 - 2.0 * a), b * b * (3.0 - 2.0 * b)
    low = hashed(i, j, seed) * (1.0 - a) + hashed(i + 1, j, seed) * a
    high = hashed(i, j + 1, seed) * (1.0 - a) + hashed(i + 1, j + 1, seed) * a
    return 2.0 * (low * (1.0 - b) + high * b) - 1.0


@jit
def _road(x: float, y: float, away: float, half: float) -> float:
    """Return the reflectance of the asphalt, with its markings."""
    near = 1.0 / (1.0 + away / 10.0)
    value = 0.10 + 0.03 * grain(x * 0.35, y * 0.9, 1)
    if near > 0.2:
        value += near * 0.06 * grain(x * 11.0, y * 11.0, 2)
    value += 0.03 * grain(x * 0.12, y * 2.5, 8)  # tracks of tyres and patches
    dashed = abs(y) < 0.07 and x - 9.0 * math.floor(x / 9.0) < 4.0
    edge = abs(abs(y) - LANE_M) < 0.06
    crossing = x - 80.0 * math.floor(x / 80.0) < 3.2 and y - 1.0 * math.floor(y) < 0.5 and abs(y) < half - 0.4
    if dashed or edge or crossing:
        value = 0.55 + 0.1 * grain(x * 3.0, y * 3.0, 3)
    return value


@jit
def _pavement(x: float, y: float, away: float) -> float:
    near = 1.0 / (1.0 + away / 8.0)
    joint = x - 0.6 * math.floor(x / 0.6) < 0.03 or y - 0.6 * math.floor(y / 0.6) < 0.03
    slab = hashed(math.floor(x / 0.6), math.floor(y / 0.6), 4)
    return 0.26 + 0.05 * slab * near + 0.03 * grain(x * 5.0, y * 5.0, 5) * near - (0.1 * near if joint else 0.0)


@jit
def _texture(surface: int, u: float, v: float, w: float, up: float, rows: Any, p: int, away: float, seed: int) -> Any:
    """Return a factor for the colour, and how much it shines; u ahead, v left, w up from the part's middle."""
    near = 1.0 / (1.0 + away / 15.0)
    side = u - v
    if surface == 1:  # facade
        if abs(up) > 0.5:
            return 0.6, 0.0
        height = w + rows[p, 6]
        a, b = side / 2.1, height / 3.1
        i, j = math.floor(a), math.floor(b)
        a, b = a - i, b - j
        if 0.22 < a < 0.78 and 0.25 < b < 0.8:
            if a < 0.26 or a > 0.74 or b < 0.29 or b > 0.76:
                return 1.25, 0.0
            pane = hashed(i, j, seed)
            return 0.08 + 0.3 * pane * pane, 0.9 if pane > 0.72 else 0.0
        return 1.0 + 0.10 * grain(side * 2.0, w * 2.0, seed) * near + 0.1 * grain(side * 0.3, w * 0.3, seed), 0.0
    if surface == 2:  # leaves
        fine = grain(side * 6.0 + up, w * 6.0 + u, seed)
        coarse = grain(side * 1.7, w * 1.7, seed)
        return max(1.0 + 0.95 * fine * (0.35 + 0.65 * near) + 0.5 * coarse, 0.05), 0.0
    if surface == 3:  # a vehicle's body
        if abs(u) > rows[p, 4] - 0.12 and abs(up) < 0.5:  # front and rear: lamps, plate
            if abs(v) > rows[p, 5] * 0.62 and abs(w) < rows[p, 6] * 0.45:
                return 4.0, 2.0 if u > 0 else 1.0
            if abs(v) < 0.26 and abs(w + rows[p, 6] * 0.4) < 0.07:
                return 6.0, 0.0
        seam = abs(u - 0.35) < 0.015 or abs(u + 0.75) < 0.015
        return 0.7 if seam and near > 0.4 else 1.0, 0.0
    if surface == 4:  # glass with pillars
        post = abs(abs(u) - rows[p, 4] * 0.12) < 0.05 or abs(w) > rows[p, 6] * 0.86
        return (1.0, 0.0) if post or up > 0.5 else (0.18, 0.0)
    if surface == 5:  # brick
        course = math.floor(w / 0.14)
        a = side / 0.32 + 0.5 * (course - 2.0 * math.floor(course / 2.0))
        mortar = w - course * 0.14 < 0.02 or a - math.floor(a) < 0.06
        tone = hashed(math.floor(a), math.floor(course), seed)
        return 1.0 + (0.3 if mortar else 0.35 * (tone - 0.5)) * near + 0.1 * grain(side * 0.4, w * 0.4, seed), 0.0
    if surface == 6:  # cloth
        return 1.0 + 0.22 * grain(side * 14.0, w * 14.0, seed) * near + 0.12 * grain(side * 4.0, w * 4.0, seed), 0.0
    if surface == 7:  # a lamp
        return 1.0, 1.5
    if surface == 8:  # bark, boards
        return 1.0 + 0.4 * grain(side * 9.0, w * 1.5, seed) * near, 0.0
    if surface == 9:  # a sign
        return (3.0, 0.0) if abs(w) < 0.09 and abs(side) < 0.22 else (1.0, 0.0)
    return 1.0, 0.0


@jit
def shade(
    rows: Any, colours: Any, semantics: Any, surfaces: Any, things: Any, seeds: Any, ground: Any, light: Any,
    origin: Any, directions: Any, distance: Any, hit: Any, radiance: Any, semantic: Any,
) -> None:  # fmt: skip
    """Fill `radiance` (N, 3) and `semantic` (N,) of rays from one origin (3,) that ended at `distance` on `hit`."""
    for i in range(len(directions)):
        dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
        h, t = hit[i], distance[i]
        if h == NOTHING:
            mix = min(max(dz * 2.2, 0.0), 1.0)
            cloud = 0.0
            if dz > 0.02:
                cloud = 0.12 * grain(1.2 * dx / dz, 1.2 * dy / dz, 9) * min(dz * 4.0, 1.0)
            for k in range(3):
                radiance[i, k] = light[9 + k] * mix + light[12 + k] * (1.0 - mix) + cloud * light[6 + k]
            semantic[i] = SKY
            continue
        x, y, z = origin[0] + t * dx, origin[1] + t * dy, origin[2] + t * dz
        shine, gloss, warm = 0.0, 0.0, 0.0
        if h == GROUND:
            nx, ny, nz = 0.0, 0.0, 1.0
            if ground[0] >= FLOOR:
                board = hashed(math.floor(y / 0.18), math.floor(x / 1.4), 6)
                value = 0.22 + 0.12 * board + 0.03 * grain(x * 3.0, y * 22.0, 7)
                red, green, blue, kind = value * 1.15, value * 0.92, value * 0.7, ROAD
            elif abs(y) >= ground[0] - 1e-6:
                value, kind = _pavement(x, y, t), SIDEWALK
                red, green, blue = value, value * 0.97, value * 0.92
            else:
                value, kind = _road(x, y, t, ground[0]), ROAD
                red, green, blue = value, value, value * 1.04
            gloss = 0.35 * light[17] if kind == ROAD else 0.15 * light[17]
        else:
            nx, ny, nz = part_normal(rows, h, x, y, z)
            if rows[h, 0] == 4.0 and nx * dx + ny * dy > 0.0:
                nx, ny = -nx, -ny
            px, py, pz = x - rows[h, 1], y - rows[h, 2], z - rows[h, 3]
            u, v = px, py
            if rows[h, 0] == 0.0:
                u, v = rows[h, 7] * px + rows[h, 8] * py, rows[h, 7] * py - rows[h, 8] * px
            surface, kind = surfaces[h], semantics[h]
            factor, shine = _texture(surface, u, v, pz, nz, rows, h, t, seeds[h])
            red, green, blue = colours[h, 0] * factor, colours[h, 1] * factor, colours[h, 2] * factor
            if surface == 3 and shine > 0.0:
                red, green, blue = (0.9, 0.9, 0.85) if shine > 1.5 else (0.7, 0.03, 0.02)
            if surface == 3 and factor == 6.0:
                red, green, blue = 0.8, 0.8, 0.8
            if surface == 1 and shine > 0.0:
                warm = 1.0
            if surface == 4 and factor < 0.5:
                gloss = 0.3
            elif surface == 3:
                gloss = 0.08
            if rows[h, 0] == 4.0 and rows[h, 5] == 0.0 and px * px + py * py + pz * pz < 0.4 * rows[h, 4] * rows[h, 4]:
                red, green, blue = 0.35, 0.35, 0.37  # a wheel: the rim inside the tyre
        facing = max(nx * light[0] + ny * light[1] + nz * light[2], 0.0)
        open_ = 0.5 + 0.5 * nz
        lamp = shine * light[16]
        mirrored = dz - 2.0 * (nx * dx + ny * dy + nz * dz) * nz
        mix = min(max(mirrored * 2.2, 0.0), 1.0)
        thick = light[15] * t
        haze = 1.0 - 1.0 / (1.0 + thick + 0.5 * thick * thick)  # near the exponential, where the air is thin
        for k in range(3):
            albedo = red if k == 0 else (green if k == 1 else blue)
            value = albedo * (light[3 + k] * facing + light[6 + k] * open_)
            value = value * (1.0 - gloss) + gloss * (light[9 + k] * mix + light[12 + k] * (1.0 - mix))
            value += lamp * (albedo if warm == 0.0 else (0.5, 0.36, 0.18)[k] * 0.5)
            radiance[i, k] = value * (1.0 - haze) + light[12 + k] * haze
        semantic[i] = kind


__all__ = ["FLOOR", "bell", "grain", "hashed", "light_of", "shade"]
