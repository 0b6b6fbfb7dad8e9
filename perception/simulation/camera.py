"""A camera of any model: colour with motion blur and noise, and for every pixel its class, object and distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform
from perception.simulation.intersections import jit
from perception.simulation.raycast import NOTHING, cast
from perception.simulation.rays import Tiles, camera_slopes, camera_tiles
from perception.simulation.scene import Snapshot
from perception.simulation.shading import bell, hashed, light_of, shade
from perception.simulation.weather import Weather

Float: TypeAlias = NDArray[np.float64]

REACH_M = 150.0
LEAST_BLUR_PX = 0.5
TAPS = 7
"""Samples along the way of a pixel during the exposure."""
NO_LAG, NOTHING_BEHIND = np.zeros(1), np.zeros(0)
NO_CLASS = 255


@dataclass(frozen=True)
class Movement:
    """How a camera moves through the world at mid exposure: m/s and rad/s, world frame."""

    velocity_mps: Float
    angular_velocity_radps: Float


@dataclass(frozen=True, eq=False)
class View:
    """Where the rays of a picture end, tile after tile, before anything is coloured.

    Attributes:
        origin: (3,) world.
        directions: (N, 3) world.
        distance: (N,) inf for the sky.
        hit: (N,) part, GROUND or NOTHING.
        tiles: of the camera.
    """

    origin: Float
    directions: Float
    distance: Float
    hit: NDArray[np.int64]
    tiles: Tiles


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture and its truth.

    Attributes:
        rgb: (H, W, 3) uint8.
        semantic: (H, W) uint8 class; 255 where the model has no ray.
        instance: (H, W) uint16 id of the object, 0 for none.
        distance_m: (H, W) float32 along the ray from the camera's centre; inf for the sky, 0 where there is no ray.
        exposure_ns: length of the exposure.
    """

    rgb: NDArray[np.uint8]
    semantic: NDArray[np.uint8]
    instance: NDArray[np.uint16]
    distance_m: NDArray[np.float32]
    exposure_ns: int


def look(camera: Camera, world_from_optical: Transform, snapshot: Snapshot) -> View:
    """Cast the rays of a picture."""
    tiles = camera_tiles(camera)
    directions, cones, group_cones = tiles.turned(world_from_optical.rotation)
    origin = np.ascontiguousarray(world_from_optical.translation_m)
    distance, hit = np.empty(len(directions)), np.empty(len(directions), np.int64)
    cast(
        snapshot.parts.rows, snapshot.spheres, snapshot.parts.velocity_mps, snapshot.ground, tiles.groups,
        group_cones, tiles.starts, cones, origin[None], directions, NO_LAG, 0.0, REACH_M, NOTHING_BEHIND, distance, hit,
    )  # fmt: skip
    return View(origin, directions, distance, hit, tiles)


def coloured(view: View, snapshot: Snapshot, weather: Weather) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return radiance (N, 3) and class (N,) of the rays of a view."""
    scene = snapshot.parts
    radiance = np.empty((len(view.hit), 3), np.float32)
    semantic = np.empty(len(view.hit), np.uint8)
    shade(scene.rows, scene.colour, scene.semantic, scene.surface, scene.thing, snapshot.texture_seeds, snapshot.ground,
          light_of(weather), view.origin, view.directions, view.distance, view.hit, radiance, semantic)  # fmt: skip
    return radiance, semantic


def picture(
    camera: Camera, world_from_optical: Transform, snapshot: Snapshot, weather: Weather, *,
    movement: Movement | None = None, exposure_ns: int = 0, seed: int = 0,
) -> Picture:  # fmt: skip
    """Take a picture at the instant of a snapshot.

    Args:
        camera: intrinsics of any model.
        world_from_optical: pose at mid exposure.
        snapshot: the world then.
        weather: light, exposure and noise.
        movement: of the camera, for motion blur; None stands still.
        exposure_ns: by day; longer in bad light.
        seed: of the noise.
    """
    view = look(camera, world_from_optical, snapshot)
    radiance, semantic = coloured(view, snapshot, weather)
    height, width, places = camera.height_px, camera.width_px, view.tiles.places
    frame, classes = np.zeros((height, width, 3), np.float32), np.full((height, width), NO_CLASS, np.uint8)
    instance, distance = np.zeros((height, width), np.uint16), np.zeros((height, width), np.float32)
    ids = np.append(snapshot.things.ids, 0)[snapshot.parts.thing]
    _unfold(places, ids, view.hit, view.distance, radiance, semantic, frame, classes, instance, distance)
    exposure_ns = round(exposure_ns * weather.exposure)
    if exposure_ns and movement is not None:
        flow = np.zeros((height, width, 2), np.float32)
        slopes, sharpest = camera_slopes(camera)
        if _flow(
            view.directions, view.distance, view.hit, snapshot.parts.velocity_mps, movement.velocity_mps,
            movement.angular_velocity_radps, world_from_optical.rotation, slopes, sharpest, places,
            exposure_ns * 1e-9, flow,
        ):  # fmt: skip
            frame = _blurred(frame, flow)
    rgb = np.empty((height, width, 3), np.uint8)
    _develop(frame, gain_of(weather), weather.contrast, weather.noise, weather.rain, seed, rgb)
    return Picture(rgb, classes, instance, distance, exposure_ns)


@jit
def _unfold(
    places: NDArray[np.int64], ids: NDArray[np.int64], hit: NDArray[np.int64], distance: Float, radiance: Any,
    semantic: Any, frame: Any, classes: Any, instance: Any, depth: Any,
) -> None:  # fmt: skip
    """Put what the rays of the tiles found where their pixels are."""
    width = frame.shape[1]
    for i in range(len(places)):
        v, u = places[i] // width, places[i] % width
        for k in range(3):
            frame[v, u, k] = radiance[i, k]
        classes[v, u], depth[v, u] = semantic[i], distance[i]
        instance[v, u] = ids[hit[i]] if hit[i] >= 0 else 0


def gain_of(weather: Weather) -> float:
    """Return the gain of an automatic exposure."""
    return 0.8 / (0.5 * float(np.mean(weather.sun_light)) + float(np.mean(weather.sky_light)))


@jit
def _flow(
    directions: Float, distance: Float, hit: NDArray[np.int64], velocities: Float, velocity: Float, turning: Float,
    rotation: Float, slopes: Float, sharpest: float, places: NDArray[np.int64], exposure_s: float,
    flow: Any,
) -> bool:  # fmt: skip
    """Fill `flow` (H, W, 2): how many pixels right and down what each pixel shows moves during the exposure.

    Pixels that move by less than half a pixel are left alone; returns whether any moves more. `sharpest` is the largest
    number of pixels per radian.
    """
    blurred = False
    for i in range(len(directions)):
        dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
        x, y, z = (
            turning[2] * dy - turning[1] * dz,
            turning[0] * dz - turning[2] * dx,
            turning[1] * dx - turning[0] * dy,
        )
        h = hit[i]
        if h != NOTHING:
            near = 1.0 / distance[i]
            x -= velocity[0] * near
            y -= velocity[1] * near
            z -= velocity[2] * near
            if h >= 0:
                x += velocities[h, 0] * near
                y += velocities[h, 1] * near
                z += velocities[h, 2] * near
        if exposure_s * sharpest * math.sqrt(x * x + y * y + z * z) < LEAST_BLUR_PX:
            continue
        blurred = True
        a = rotation[0, 0] * x + rotation[1, 0] * y + rotation[2, 0] * z
        b = rotation[0, 1] * x + rotation[1, 1] * y + rotation[2, 1] * z
        c = rotation[0, 2] * x + rotation[1, 2] * y + rotation[2, 2] * z
        p, width = places[i], flow.shape[1]
        for k in range(2):
            flow[p // width, p % width, k] = exposure_s * (
                slopes[p, k, 0] * a + slopes[p, k, 1] * b + slopes[p, k, 2] * c
            )
    return blurred


@jit
def _blurred(frame: Any, flow: Any) -> Any:
    """Average each pixel along its way, half an exposure to both sides."""
    height, width = frame.shape[:2]
    out = np.empty_like(frame)
    for v in range(height):
        for u in range(width):
            right, down = flow[v, u, 0], flow[v, u, 1]
            if right * right + down * down < LEAST_BLUR_PX * LEAST_BLUR_PX:
                for k in range(3):
                    out[v, u, k] = frame[v, u, k]
                continue
            red, green, blue = 0.0, 0.0, 0.0
            for tap in range(TAPS):
                along = tap / (TAPS - 1.0) - 0.5
                a = min(max(round(u + along * right), 0), width - 1)
                b = min(max(round(v + along * down), 0), height - 1)
                red += frame[b, a, 0]
                green += frame[b, a, 1]
                blue += frame[b, a, 2]
            out[v, u, 0], out[v, u, 1], out[v, u, 2] = red / TAPS, green / TAPS, blue / TAPS
    return out


@jit
def _develop(frame: Any, gain: float, contrast: float, noise: float, rain: float, seed: int, rgb: Any) -> None:
    """Turn radiance into bytes: gain, gamma of two, noise, and streaks of rain."""
    height, width = frame.shape[:2]
    for v in range(height):
        for u in range(width):
            streak = 0.0
            if rain > 0.0:
                cell = hashed((u + v // 9) // 5, v // 17, seed)
                if cell < 0.05 * rain and (u + v // 9) % 5 == 2:
                    streak = 22.0
            key = (v * width + u) * 4
            for k in range(3):
                tone = np.sqrt(gain * frame[v, u, k])  # a gamma of two, then steeper in the middle, as cameras are
                value = 255.0 * (tone + contrast * (tone - 0.45)) + noise * bell(key + k, seed) + streak
                rgb[v, u, k] = np.uint8(min(max(value, 0.0), 255.0))


__all__ = ["Movement", "Picture", "View", "coloured", "gain_of", "look", "picture"]
