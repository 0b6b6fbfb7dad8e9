"""What a ray sees where it ends: colour and class. Kernels over N rays, one thread, GIL released.

Colours are linear light. Rays are looked at 64 at a time: what each shows is noted in a sheet, one ray after the other;
noise and light are then worked out for all of the sheet at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.simulation.classes import ROAD, SIDEWALK, SKY
from perception.simulation.intersections import inlined, jit, part_normal
from perception.simulation.raycast import GROUND, NOTHING
from perception.simulation.textures import PLAIN, boards, clouds, pavement, road, smooth, texture
from perception.simulation.weather import Weather

RAYS = 64
"""Of a sheet."""
FLOOR = 1e9
"""Half width of a road that has no kerb: the floor of the cabin."""

(
    FACTOR, LEAST, RED, GREEN, BLUE, NX, NY, NZ, GLOSS, LAMP, WARM, CLOUD,
    DX, DY, DZ, AWAY, SUNNY, MIRRORED, HAZE, NOISE,
) = (RAYS * row for row in range(20))  # fmt: skip
"""Where the rows of the sheet begin. How it looks: brightness before and its least after noise, colour (in the end light),
normal, how much it mirrors the sky and shines, whether it shines warm and whether it is sky. Then direction, distance, how
much sun there is, which sky is mirrored, how much haze; three noises of four rows."""
SHEET_SIZE = NOISE + 12 * RAYS


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
    sheet = np.zeros(SHEET_SIZE)
    for first in range(0, len(hit), RAYS):
        many = min(RAYS, len(hit) - first)
        for i in range(many):
            r = first + i
            dx, dy, dz, t, h = directions[0, r], directions[1, r], directions[2, r], distance[r], hit[r]
            x, y, z = origin[0] + t * dx, origin[1] + t * dy, origin[2] + t * dz
            if h == NOTHING:
                look, noises = _sky(dx, dy, dz)
                kind, t = SKY, 0.0
            elif h == GROUND:
                look, noises, kind = _ground(ground[0], light[17], x, y, t)
            else:
                nx, ny, nz = part_normal(rows, h, x, y, z)
                if rows[h, 0] == 4.0 and nx * dx + ny * dy > 0.0:
                    nx, ny = -nx, -ny
                look, noises = _part(
                    (rows[h, 0], rows[h, 4], rows[h, 5], rows[h, 6], rows[h, 7], rows[h, 8]),
                    (x - rows[h, 1], y - rows[h, 2], z - rows[h, 3]), (nx, ny, nz), t, surfaces[h], seeds[h],
                    (colours[h, 0], colours[h, 1], colours[h, 2]),
                )  # fmt: skip
                kind = semantics[h]
            semantic[r] = kind
            (
                sheet[FACTOR + i], sheet[LEAST + i], sheet[RED + i], sheet[GREEN + i], sheet[BLUE + i], sheet[NX + i],
                sheet[NY + i], sheet[NZ + i], sheet[GLOSS + i], sheet[LAMP + i], sheet[WARM + i], sheet[CLOUD + i],
            ) = look  # fmt: skip
            sheet[DX + i], sheet[DY + i], sheet[DZ + i], sheet[AWAY + i] = dx, dy, dz, t
            _note(sheet, NOISE + i, noises[0])
            _note(sheet, NOISE + 4 * RAYS + i, noises[1])
            _note(sheet, NOISE + 8 * RAYS + i, noises[2])
        for k in range(3):
            _add_noise(sheet[NOISE + 4 * RAYS * k : NOISE + 4 * RAYS * (k + 1)], sheet)
        _lit(sheet, light)
        for k in range(3):
            found, light_of_rays = sheet[RED + RAYS * k : RED + RAYS * (k + 1)], radiance[k, first : first + many]
            for i in range(many):
                light_of_rays[i] = found[i]


@inlined
def _note(sheet: Any, at: int, noise: Any) -> None:
    sheet[at], sheet[at + RAYS], sheet[at + 2 * RAYS], sheet[at + 3 * RAYS] = noise


@jit
def _add_noise(noise: Any, sheet: Any) -> None:
    """Add to the brightness a noise of all rays, if one of them has it."""
    strongest = 0.0
    for i in range(RAYS):
        strongest += noise[3 * RAYS + i]
    if strongest > 0.0:
        for i in range(RAYS):
            value = smooth(noise[i], noise[RAYS + i], int(noise[2 * RAYS + i]))
            sheet[FACTOR + i] += noise[3 * RAYS + i] * value


@inlined
def _sky(dx: float, dy: float, dz: float) -> Any:
    """Return the look and the noises of the sky: those of a mirror that shows the sky behind it, and clouds."""
    look = (0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0)
    return look, (clouds(dx, dy, dz), PLAIN, PLAIN)


@inlined
def _ground(half: float, rain: float, x: float, y: float, t: float) -> Any:
    """Return the look and the noises of floor, pavement or road, and the class."""
    if half >= FLOOR:
        value, grain = boards(x, y)
        look = (value, 0.0, 1.15, 0.92, 0.7, 0.0, 0.0, 1.0, 0.35 * rain, 0.0, 0.0, 0.0)
        return look, (grain, PLAIN, PLAIN), ROAD
    if abs(y) >= half - 1e-6:
        value, grain = pavement(x, y, t)
        look = (value, 0.0, 1.0, 0.97, 0.92, 0.0, 0.0, 1.0, 0.15 * rain, 0.0, 0.0, 0.0)
        return look, (grain, PLAIN, PLAIN), SIDEWALK
    value, patches, tracks, grain = road(x, y, t, half)
    return (value, 0.0, 1.0, 1.0, 1.04, 0.0, 0.0, 1.0, 0.35 * rain, 0.0, 0.0, 0.0), (patches, tracks, grain), ROAD


@inlined
def _part(shape: Any, place: Any, normal: Any, t: float, surface: int, seed: int, colour: Any) -> Any:
    """Return the look and the noises of a part: kind and row[4:9], place from its middle, distance, attributes."""
    kind, long, wide, high, c, s = shape
    (px, py, pz), (nx, ny, nz) = place, normal
    u, v = (c * px + s * py, c * py - s * px) if kind == 0.0 else (px, py)
    factor, shine, fine, coarse = texture(surface, u, v, pz, nz, long, wide, high, t, seed)
    red, green, blue = colour
    gloss, least, warm = 0.0, 0.0, 0.0
    if surface == 3:
        gloss = 0.08
        if shine > 0.0:
            red, green, blue, factor = (0.9, 0.9, 0.85, 1.0) if shine > 1.5 else (0.7, 0.03, 0.02, 1.0)
        elif factor == 6.0:  # a plate
            red, green, blue, factor = 0.8, 0.8, 0.8, 1.0
    elif surface == 4:
        gloss = 0.3 if factor < 0.5 else 0.0
    elif surface == 2:
        least = 0.05
    elif surface == 1 and shine > 0.0:
        warm = 1.0
    if kind == 4.0 and wide == 0.0 and px * px + py * py + pz * pz < 0.4 * long * long:
        red, green, blue = 0.35, 0.35, 0.37  # a wheel: the rim inside the tyre
    return (factor, least, red, green, blue, nx, ny, nz, gloss, shine, warm, 0.0), (fine, coarse, PLAIN)


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
