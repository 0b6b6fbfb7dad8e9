"""What a ray sees where it ends: colour and class. Kernels over N rays, one thread, GIL released.

Colours are linear light. Rays are looked at 64 at a time: what each shows is noted in a sheet, one ray after the other;
noise and light are then worked out for all of the sheet at once.
"""

from __future__ import annotations

from functools import lru_cache
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
MIXED = -1
"""A sheet of several classes."""
FLOOR = 1e9
"""Half width of a road that has no kerb: the floor of the cabin."""

(
    FACTOR, LEAST, RED, GREEN, BLUE, NX, NY, NZ, GLOSS, LAMP, WARM, CLOUD,
    DX, DY, DZ, AWAY, SUNNY, MIRRORED, HAZE, NOISE,
) = (RAYS * row for row in range(20))  # fmt: skip
"""Where the rows of the sheet begin. How it looks: brightness before and its least after noise, colour (in the end
light), normal, how much it mirrors the sky and shines, whether it shines warm and whether it is sky. Then direction,
distance, how much sun there is, which sky is mirrored, how much haze; three noises of four rows."""
SHEET_SIZE = NOISE + 12 * RAYS


@lru_cache(maxsize=16)
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
    directions: Any, distance: Any, hit: Any, places: Any, radiance: Any, semantic: Any,
) -> None:  # fmt: skip
    """Fill what rays (3, N) see that begin at one origin (3,) and ended at `distance` on `hit`.

    `radiance` (M, 3) and `semantic` (M,) are filled at `places` (N,). Where all rays of a sheet see the sky, or all the
    road, or all a pavement, the sheet is noted without a branch, too.
    """
    sheet, cells, shares = np.zeros(SHEET_SIZE), np.zeros(3 * RAYS, np.int32), np.zeros(2 * RAYS, np.float32)
    for first in range(0, len(hit), RAYS):
        many, hits = min(RAYS, len(hit) - first), hit[first : first + RAYS]
        on_sky, on_road, on_pavement = _begin(
            sheet, directions[:, first : first + RAYS], distance[first : first + RAYS], hits, origin[1], ground[0]
        )
        if on_sky == RAYS:
            kind = _note_sky(sheet)
        elif on_road == RAYS and ground[0] < FLOOR:
            kind = _note_road(sheet, origin[0], origin[1], ground[0], light[17])
        elif on_pavement == RAYS:
            kind = _note_pavement(sheet, origin[0], origin[1], light[17])
        else:
            kind = MIXED
            for i in range(many):
                h, t = hits[i], sheet[AWAY + i]
                dx, dy, dz = sheet[DX + i], sheet[DY + i], sheet[DZ + i]
                x, y, z = origin[0] + t * dx, origin[1] + t * dy, origin[2] + t * dz
                if h == NOTHING:
                    look, noises, semantic[places[first + i]] = _sky(dx, dy, dz)
                elif h == GROUND:
                    look, noises, semantic[places[first + i]] = _ground(ground[0], light[17], x, y, t)
                else:
                    nx, ny, nz = part_normal(rows, h, x, y, z)
                    if rows[h, 0] == 4.0 and nx * dx + ny * dy > 0.0:
                        nx, ny = -nx, -ny
                    look, noises = _part(
                        (rows[h, 0], rows[h, 4], rows[h, 5], rows[h, 6], rows[h, 7], rows[h, 8]),
                        (x - rows[h, 1], y - rows[h, 2], z - rows[h, 3]), (nx, ny, nz), t, surfaces[h], seeds[h],
                        (colours[h, 0], colours[h, 1], colours[h, 2]),
                    )  # fmt: skip
                    semantic[places[first + i]] = semantics[h]
                _note(sheet, i, look, noises)
        for k in range(3):
            _add_noise(sheet, sheet[NOISE + 4 * RAYS * k : NOISE + 4 * RAYS * (k + 1)], cells, shares)
        _lit(sheet, light)
        for i in range(many):
            p = places[first + i]
            radiance[p, 0], radiance[p, 1], radiance[p, 2] = sheet[RED + i], sheet[GREEN + i], sheet[BLUE + i]
            if kind != MIXED:
                semantic[p] = kind


@inlined
def _begin(sheet: Any, directions: Any, distance: Any, hit: Any, origin_y: float, half: float) -> Any:
    """Write directions and distances; return how many rays see the sky, the road and a pavement."""
    xs, ys, zs = directions[0], directions[1], directions[2]
    on_sky, on_road, on_pavement = 0, 0, 0
    for i in range(min(len(hit), RAYS)):
        sky, ground, beside = hit[i] == NOTHING, hit[i] == GROUND, abs(origin_y + distance[i] * ys[i]) >= half - 1e-6
        sheet[DX + i], sheet[DY + i], sheet[DZ + i] = xs[i], ys[i], zs[i]
        sheet[AWAY + i] = 0.0 if sky else distance[i]
        on_sky += sky
        on_road += ground & (not beside)
        on_pavement += ground & beside
    return on_sky, on_road, on_pavement


@inlined
def _note(sheet: Any, i: int, look: Any, noises: Any) -> None:
    """Write what a ray shows."""
    (
        sheet[FACTOR + i], sheet[LEAST + i], sheet[RED + i], sheet[GREEN + i], sheet[BLUE + i], sheet[NX + i],
        sheet[NY + i], sheet[NZ + i], sheet[GLOSS + i], sheet[LAMP + i], sheet[WARM + i], sheet[CLOUD + i],
    ) = look  # fmt: skip
    _note_noise(sheet, NOISE + i, noises[0])
    _note_noise(sheet, NOISE + 4 * RAYS + i, noises[1])
    _note_noise(sheet, NOISE + 8 * RAYS + i, noises[2])


@inlined
def _note_noise(sheet: Any, at: int, noise: Any) -> None:
    sheet[at], sheet[at + RAYS], sheet[at + 2 * RAYS], sheet[at + 3 * RAYS] = noise


@inlined
def _note_sky(sheet: Any) -> int:
    for i in range(RAYS):
        look, noises, _ = _sky(sheet[DX + i], sheet[DY + i], sheet[DZ + i])
        _note(sheet, i, look, noises)
    return SKY


@inlined
def _note_road(sheet: Any, x: float, y: float, half: float, rain: float) -> int:
    for i in range(RAYS):
        t = sheet[AWAY + i]
        look, noises, _ = _asphalt(x + t * sheet[DX + i], y + t * sheet[DY + i], t, half, rain)
        _note(sheet, i, look, noises)
    return ROAD


@inlined
def _note_pavement(sheet: Any, x: float, y: float, rain: float) -> int:
    for i in range(RAYS):
        t = sheet[AWAY + i]
        look, noises, _ = _slabs(x + t * sheet[DX + i], y + t * sheet[DY + i], t, rain)
        _note(sheet, i, look, noises)
    return SIDEWALK


@inlined
def _sky(dx: float, dy: float, dz: float) -> Any:
    """Return look, noises and class of the sky: those of a mirror that shows the sky behind it, and clouds."""
    look = (0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0)
    return look, (clouds(dx, dy, dz), PLAIN, PLAIN), SKY


@inlined
def _ground(half: float, rain: float, x: float, y: float, t: float) -> Any:
    """Return look, noises and class of floor, pavement or road."""
    if half >= FLOOR:
        value, grain = boards(x, y)
        look = (value, 0.0, 1.15, 0.92, 0.7, 0.0, 0.0, 1.0, 0.35 * rain, 0.0, 0.0, 0.0)
        return look, (grain, PLAIN, PLAIN), ROAD
    if abs(y) >= half - 1e-6:
        return _slabs(x, y, t, rain)
    return _asphalt(x, y, t, half, rain)


@inlined
def _slabs(x: float, y: float, t: float, rain: float) -> Any:
    value, grain = pavement(x, y, t)
    look = (value, 0.0, 1.0, 0.97, 0.92, 0.0, 0.0, 1.0, 0.15 * rain, 0.0, 0.0, 0.0)
    return look, (grain, PLAIN, PLAIN), SIDEWALK


@inlined
def _asphalt(x: float, y: float, t: float, half: float, rain: float) -> Any:
    value, patches, tracks, grain = road(x, y, t, half)
    return (value, 0.0, 1.0, 1.0, 1.04, 0.0, 0.0, 1.0, 0.35 * rain, 0.0, 0.0, 0.0), (patches, tracks, grain), ROAD


@inlined
def _add_noise(sheet: Any, noise: Any, cells: Any, shares: Any) -> None:
    """Add to the brightness a noise of all rays, if one of them has it."""
    some = 0
    for i in range(RAYS):
        some += noise[3 * RAYS + i] > 0.0
    if some == 0:
        return
    for i in range(RAYS):
        u, v = np.floor(noise[i]), np.floor(noise[RAYS + i])
        cells[i], cells[RAYS + i], cells[2 * RAYS + i] = int(u), int(v), int(noise[2 * RAYS + i])
        shares[i], shares[RAYS + i] = noise[i] - u, noise[RAYS + i] - v
    for i in range(RAYS):
        shares[i] = smooth(cells[i], cells[RAYS + i], cells[2 * RAYS + i], shares[i], shares[RAYS + i])
    for i in range(RAYS):
        sheet[FACTOR + i] += noise[3 * RAYS + i] * shares[i]


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


@inlined
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
