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
from perception.simulation.raycast import cast
from perception.simulation.rays import camera_slopes, camera_tiles
from perception.simulation.scene import Snapshot
from perception.simulation.shading import light_of, shade
from perception.simulation.textures import bell, hashed
from perception.simulation.weather import Weather

Float: TypeAlias = NDArray[np.float64]

REACH_M = 150.0
LEAST_BLUR_PX = 1.0
"""Samples of a shorter way all fall on one pixel."""
TAPS = 7
"""Samples along the way of a pixel during the exposure."""
NO_CLASS = 255


@dataclass(frozen=True)
class Movement:
    """How a camera moves through the world at mid exposure: m/s and rad/s, world frame."""

    velocity_mps: Float
    angular_velocity_radps: Float


@dataclass(frozen=True, eq=False)
class View:
    """Where rays end, before anything is coloured.

    Attributes:
        origin: (3,) in the scene.
        directions: (3, N) unit, in the scene.
        distance: (N,) inf for the sky.
        hit: (N,) part, GROUND or NOTHING.
    """

    origin: Float
    directions: Float
    distance: Float
    hit: NDArray[np.int64]

    def only(self, which: NDArray[np.int64]) -> View:
        """Return some of the rays."""
        directions = np.take(self.directions, which, axis=1)
        return View(self.origin, directions, self.distance[which], self.hit[which])


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
    """Cast the rays of a camera, in the order of `camera_tiles`."""
    rays = camera_tiles(camera).turned(world_from_optical.rotation)
    origin = np.ascontiguousarray(world_from_optical.translation_m)
    return View(origin, rays.directions, *cast(snapshot, rays, origin[:, None], reach_m=REACH_M))


def coloured(
    view: View, snapshot: Snapshot, weather: Weather, places: NDArray[np.int64] | None = None, count: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return radiance (N, 3) and class (N,) of rays, or (count, 3) and (count,) with those of the rays at `places`."""
    scene = snapshot.parts
    if places is None:
        count, places = len(view.hit), np.arange(len(view.hit))
    radiance, semantic = np.zeros((count, 3), np.float32), np.full(count, NO_CLASS, np.uint8)
    shade(scene.rows, scene.colour, scene.semantic, scene.surface, snapshot.texture_seeds, snapshot.ground,
          light_of(weather), view.origin, view.directions, view.distance, view.hit, places, radiance,
          semantic)  # fmt: skip
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
    places, size = camera_tiles(camera).places, (camera.height_px, camera.width_px)
    radiance, semantic = coloured(view, snapshot, weather, places, size[0] * size[1])
    frame = radiance.reshape(*size, 3)
    instance, distance = np.zeros(size, np.uint16), np.zeros(size, np.float32)
    ids = np.append(snapshot.things.ids, 0)[snapshot.parts.thing]
    _unfold(places, ids, view.hit, view.distance, instance.reshape(-1), distance.reshape(-1))
    exposure_ns = round(exposure_ns * weather.exposure)
    if exposure_ns and movement is not None:
        slopes, sharpest = camera_slopes(camera)
        moved, flow = np.empty(len(places), np.int64), np.empty((len(places), 2))
        count = _flow(
            view.directions, view.distance, view.hit, snapshot.parts.velocity_mps, movement.velocity_mps,
            movement.angular_velocity_radps, world_from_optical.rotation, slopes, sharpest, places,
            exposure_ns * 1e-9, moved, flow,
        )  # fmt: skip
        frame = _blurred(frame, moved[:count], flow[:count]) if count else frame
    rgb = np.empty((*size, 3), np.uint8)
    _develop(frame.reshape(-1), gain_of(weather), weather.contrast, weather.noise, seed, rgb.reshape(-1))
    if weather.rain > 0.0:
        _rain(weather.rain, seed, rgb)
    return Picture(rgb, semantic.reshape(size), instance, distance, exposure_ns)


@jit
def _unfold(
    places: NDArray[np.int64], ids: NDArray[np.int64], hit: NDArray[np.int64], distance: Float, instance: Any,
    depth: Any,
) -> None:  # fmt: skip
    """Put distances and objects of rays where their pixels are."""
    for i in range(len(places)):
        p, h = places[i], hit[i]
        depth[p] = distance[i]
        instance[p] = ids[h] if h >= 0 else 0


def gain_of(weather: Weather) -> float:
    """Return the gain of an automatic exposure."""
    return 0.8 / (0.5 * float(np.mean(weather.sun_light)) + float(np.mean(weather.sky_light)))


@jit
def _flow(
    directions: Float, distance: Float, hit: NDArray[np.int64], velocities: Float, velocity: Float, turning: Float,
    rotation: Float, slopes: Float, sharpest: float, places: NDArray[np.int64], exposure_s: float, moved: Any,
    flow: Any,
) -> int:  # fmt: skip
    """Find the pixels whose content moves during the exposure, and how many pixels right and down.

    `moved` (N,) and `flow` (N, 2) are filled; returns how many there are. Pixels that move by less than one are left
    alone. `sharpest` is the largest number of pixels per radian.
    """
    count = 0
    least = LEAST_BLUR_PX / (exposure_s * sharpest)  # radians per second
    speed = math.sqrt(velocity[0] ** 2 + velocity[1] ** 2 + velocity[2] ** 2)
    spin = math.sqrt(turning[0] ** 2 + turning[1] ** 2 + turning[2] ** 2)
    for i in range(len(hit)):
        h = hit[i]
        vx, vy, vz, fastest = velocity[0], velocity[1], velocity[2], speed
        if h >= 0:
            vx, vy, vz = vx - velocities[h, 0], vy - velocities[h, 1], vz - velocities[h, 2]
            fastest = math.sqrt(vx * vx + vy * vy + vz * vz)
        if fastest < (least - spin) * distance[i]:
            continue
        dx, dy, dz = directions[0, i], directions[1, i], directions[2, i]
        near = 1.0 / distance[i]
        x = turning[2] * dy - turning[1] * dz - vx * near
        y = turning[0] * dz - turning[2] * dx - vy * near
        z = turning[1] * dx - turning[0] * dy - vz * near
        a = rotation[0, 0] * x + rotation[1, 0] * y + rotation[2, 0] * z
        b = rotation[0, 1] * x + rotation[1, 1] * y + rotation[2, 1] * z
        c = rotation[0, 2] * x + rotation[1, 2] * y + rotation[2, 2] * z
        p = places[i]
        right = exposure_s * (slopes[p, 0, 0] * a + slopes[p, 0, 1] * b + slopes[p, 0, 2] * c)
        down = exposure_s * (slopes[p, 1, 0] * a + slopes[p, 1, 1] * b + slopes[p, 1, 2] * c)
        if right * right + down * down >= LEAST_BLUR_PX * LEAST_BLUR_PX:
            moved[count], flow[count, 0], flow[count, 1] = p, right, down
            count += 1
    return count


@jit
def _blurred(frame: Any, moved: Any, flow: Any) -> Any:
    """Average the pixels that move along their way, half an exposure to both sides."""
    height, width = frame.shape[:2]
    out = frame.copy()
    for m in range(len(moved)):
        v, u = moved[m] // width, moved[m] % width
        right, down = flow[m, 0], flow[m, 1]
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
def _develop(frame: Any, gain: float, contrast: float, noise: float, seed: int, rgb: Any) -> None:
    """Turn radiance into bytes: gain, a gamma of two, then steeper in the middle, as cameras are, and noise."""
    for i in range(len(frame)):
        tone = math.sqrt(gain * frame[i])
        value = 255.0 * (tone + contrast * (tone - 0.45)) + noise * bell(i, seed)
        rgb[i] = np.uint8(min(max(value, 0.0), 255.0))


@jit
def _rain(rain: float, seed: int, rgb: Any) -> None:
    """Draw streaks."""
    for v in range(rgb.shape[0]):
        for u in range(rgb.shape[1]):
            at = u + v // 9
            if at % 5 == 2 and hashed(at // 5, v // 17, seed) < 0.05 * rain:
                for k in range(3):
                    rgb[v, u, k] = min(rgb[v, u, k] + 22, 255)


__all__ = ["Movement", "Picture", "View", "coloured", "gain_of", "look", "picture"]
