"""What a ray sees where it ends: colour and class. Kernels over N rays, one thread, GIL released.

Colours are linear light. Rays are looked at 64 at a time: what each shows is noted in a sheet, one ray after the other;
noise and light are then worked out for all of the sheet at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.simulation.classes import ROAD, SIDEWALK, SKY
from perception.simulation.intersections import jit, part_normal
from perception.simulation.raycast import GROUND, NOTHING
from perception.simulation.textures import (
    RAY,
    RAYS,
    TABLE_SIZE,
    VALUE,
    boards,
    fill_layers,
    layer,
    pavement,
    road,
    texture,
)  # fmt: skip
from perception.simulation.weather import Weather

FLOOR = 1e9
"""Half width of a road that has no kerb: the floor of the cabin."""

FACTOR, LEAST, RED, GREEN, BLUE, NX, NY, NZ, DX, DY, DZ, AWAY, GLOSS, LAMP, WARM, CLOUD, SUNNY, MIRRORED, HAZE = (
    RAYS * row for row in range(19)
)
"""Where the rows of the sheet begin: brightness before and its least after noise, colour (in the end light), normal,
direction, distance, how much the surface mirrors the sky and shines, whether it shines warm, whether it is sky; then
how much sun there is, which sky is mirrored, and how much haze."""
SHEET_SIZE = 19 * RAYS


def light_of(weather: Weather) -> NDArray[np.float64]:
    """Pack a weather for the kernels.

    Sun 0:3, sun light 3:6, sky light 6:9, zenith 9:12, horizon 12:15, haze 15, lamps 16, rain 17.
    """
    return np.array(
        (*weather.sun, *weather.sun_light, *weather.sky_light, *weather.zenith, *weather.horizon, weather.haze_per_m,
         float(weather.lamps), weather.rain)
    )  # fmt: skip


@jit
def shade(
    rows: Any, colours: Any, semantics: Any, surfaces: Any, seeds: Any, ground: Any, light: Any, origin: Any,
    directions: Any, distance: Any, hit: Any, radiance: Any, semantic: Any,
) -> None:  # fmt: skip
    """Fill `radiance` (3, N) and `semantic` (N,) of rays from one origin (3,) that ended at `distance` on `hit`."""
    sheet, table = np.zeros(SHEET_SIZE), np.zeros(TABLE_SIZE)
    for first in range(0, len(hit), RAYS):
        count = 0
        for i in range(min(RAYS, len(hit) - first)):
            r = first + i
            dx, dy, dz, t, h = directions[0, r], directions[1, r], directions[2, r], distance[r], hit[r]
            sheet[DX + i], sheet[DY + i], sheet[DZ + i], sheet[AWAY + i] = dx, dy, dz, t
            sheet[LEAST + i], sheet[LAMP + i], sheet[WARM + i], sheet[CLOUD + i] = 0.0, 0.0, 0.0, 0.0
            if h == NOTHING:
                count = _sky(sheet, table, count, i, dx, dy, dz)
                semantic[r] = SKY
                continue
            x, y, z = origin[0] + t * dx, origin[1] + t * dy, origin[2] + t * dz
            if h == GROUND:
                count, semantic[r] = _ground(sheet, table, count, i, ground, light[17], x, y, t)
            else:
                count = _part(sheet, table, count, i, rows, colours, surfaces, seeds, h, x, y, z, t, dx, dy)
                semantic[r] = semantics[h]
        fill_layers(table, count)
        for k in range(count):
            sheet[FACTOR + int(table[RAY + k])] += table[VALUE + k]
        _lit(sheet, light)
        for k in range(3):
            for i in range(min(RAYS, len(hit) - first)):
                radiance[k, first + i] = sheet[RED + RAYS * k + i]


@jit
def _sky(sheet: Any, table: Any, count: int, i: int, dx: float, dy: float, dz: float) -> int:
    """Note a mirror that shows the sky behind it, and clouds; return how many layers there are."""
    sheet[FACTOR + i], sheet[AWAY + i], sheet[GLOSS + i], sheet[CLOUD + i] = 0.0, 0.0, 1.0, 1.0
    sheet[LEAST + i] = -1.0
    for axis in range(3):
        sheet[NX + RAYS * axis + i], sheet[RED + RAYS * axis + i] = 0.0, 0.0
    if dz <= 0.02:
        return count
    return layer(table, count, i, 1.2 * dx / dz, 1.2 * dy / dz, 9, 0.12 * min(dz * 4.0, 1.0))


@jit
def _ground(sheet: Any, table: Any, count: int, i: int, ground: Any, rain: float, x: float, y: float, t: float) -> Any:
    """Note floor, pavement or road; return how many layers there are, and the class."""
    sheet[NX + i], sheet[NY + i], sheet[NZ + i] = 0.0, 0.0, 1.0
    if ground[0] >= FLOOR:
        value, count = boards(table, count, i, x, y)
        red, green, blue, kind = 1.15, 0.92, 0.7, ROAD
    elif abs(y) >= ground[0] - 1e-6:
        value, count = pavement(table, count, i, x, y, t)
        red, green, blue, kind = 1.0, 0.97, 0.92, SIDEWALK
    else:
        value, count = road(table, count, i, x, y, t, ground[0])
        red, green, blue, kind = 1.0, 1.0, 1.04, ROAD
    sheet[FACTOR + i], sheet[RED + i], sheet[GREEN + i], sheet[BLUE + i] = value, red, green, blue
    sheet[GLOSS + i] = 0.35 * rain if kind == ROAD else 0.15 * rain
    return count, kind


@jit
def _part(
    sheet: Any, table: Any, count: int, i: int, rows: Any, colours: Any, surfaces: Any, seeds: Any, h: int, x: float,
    y: float, z: float, t: float, dx: float, dy: float,
) -> int:  # fmt: skip
    """Note what a part looks like at a place; return how many layers there are."""
    nx, ny, nz = part_normal(rows, h, x, y, z)
    kind, surface = rows[h, 0], surfaces[h]
    if kind == 4.0 and nx * dx + ny * dy > 0.0:
        nx, ny = -nx, -ny
    px, py, pz = x - rows[h, 1], y - rows[h, 2], z - rows[h, 3]
    u, v = px, py
    if kind == 0.0:
        u, v = rows[h, 7] * px + rows[h, 8] * py, rows[h, 7] * py - rows[h, 8] * px
    factor, shine, count = texture(table, count, i, surface, u, v, pz, nz, rows, h, t, seeds[h])
    red, green, blue, gloss = colours[h, 0], colours[h, 1], colours[h, 2], 0.0
    if surface == 3:
        gloss = 0.08
        if shine > 0.0:
            red, green, blue, factor = (0.9, 0.9, 0.85, 1.0) if shine > 1.5 else (0.7, 0.03, 0.02, 1.0)
        elif factor == 6.0:  # a plate
            red, green, blue, factor = 0.8, 0.8, 0.8, 1.0
    elif surface == 4:
        gloss = 0.3 if factor < 0.5 else 0.0
    elif surface == 2:
        sheet[LEAST + i] = 0.05
    elif surface == 1 and shine > 0.0:
        sheet[WARM + i] = 1.0
    if kind == 4.0 and rows[h, 5] == 0.0 and px * px + py * py + pz * pz < 0.4 * rows[h, 4] * rows[h, 4]:
        red, green, blue = 0.35, 0.35, 0.37  # a wheel: the rim inside the tyre
    sheet[FACTOR + i], sheet[RED + i], sheet[GREEN + i], sheet[BLUE + i] = factor, red, green, blue
    sheet[NX + i], sheet[NY + i], sheet[NZ + i], sheet[GLOSS + i], sheet[LAMP + i] = nx, ny, nz, gloss, shine
    return count


@jit
def _lit(sheet: Any, light: Any) -> None:
    """Turn the colours of a sheet into light: sun and sky on the surface, mirrored sky, lamps, haze before it."""
    for i in range(RAYS):
        nx, ny, nz, dz = sheet[NX + i], sheet[NY + i], sheet[NZ + i], sheet[DZ + i]
        mirrored = dz - 2.0 * (nx * sheet[DX + i] + ny * sheet[DY + i] + nz * dz) * nz
        thick = light[15] * sheet[AWAY + i]
        sheet[FACTOR + i] = max(sheet[FACTOR + i], sheet[LEAST + i])
        sheet[SUNNY + i] = max(nx * light[0] + ny * light[1] + nz * light[2], 0.0)
        sheet[MIRRORED + i] = min(max(mirrored * 2.2, 0.0), 1.0)
        # near the exponential, where the air is thin
        sheet[HAZE + i] = 1.0 - 1.0 / (1.0 + thick + 0.5 * thick * thick)
    for k in range(3):
        sun, sky, zenith, horizon = light[3 + k], light[6 + k], light[9 + k], light[12 + k]
        colours, glow = sheet[RED + RAYS * k : RED + RAYS * (k + 1)], (0.25, 0.18, 0.09)[k]
        for i in range(RAYS):
            factor, gloss, haze, mix = sheet[FACTOR + i], sheet[GLOSS + i], sheet[HAZE + i], sheet[MIRRORED + i]
            albedo = colours[i] * factor
            value = albedo * (sun * sheet[SUNNY + i] + sky * (0.5 + 0.5 * sheet[NZ + i]))
            value = value * (1.0 - gloss) + gloss * (zenith * mix + horizon * (1.0 - mix))
            value += sheet[LAMP + i] * light[16] * (glow if sheet[WARM + i] > 0.0 else albedo)
            value += sheet[CLOUD + i] * factor * sky
            colours[i] = value * (1.0 - haze) + horizon * haze


__all__ = ["FLOOR", "light_of", "shade"]
