"""The simulated LiDAR and camera: what they measure of a scene, and the truth of every point and pixel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.geometry.boxes import Boxes
from perception.geometry.cameras import Camera
from perception.geometry.rig_file import LidarFile
from perception.geometry.transforms import Transform
from perception.simulation.raycast import GROUND, NOTHING, cast_picture, cast_sweep
from perception.simulation.scene import ROAD, SIDEWALK, SIDEWALK_FROM_M, SKY, Scene

Float: TypeAlias = NDArray[np.float64]

RANGE_NOISE_M = 0.02
DROP_OUT = 0.02
FARTHEST_M = 150.0
MARGIN_M = 3.0
"""What anything moves, relative to the vehicle, in one turn."""
REFLECTIVITY = np.array([0.12, 0.25, 0.35, 0.3, 0.0, 0.4, 0.55, 0.5, 0.45])
"""By class of the scene."""


@dataclass(frozen=True)
class Sweep:
    """One turn of the LiDAR, points in the sensor's frame, each as of its own instant.

    Attributes:
        xyz_m: (N, 3).
        intensity: (N,) 0 to 1.
        ring: (N,).
        lag_ns: (N,) time of each point after the sweep's stamp, <= 0.
        hit: (N,) index of the scene's box, or GROUND: the truth.
    """

    xyz_m: NDArray[np.float32]
    intensity: NDArray[np.float32]
    ring: NDArray[np.uint16]
    lag_ns: NDArray[np.int32]
    hit: NDArray[np.int64]


class SimulatedLidar:
    """A spinning LiDAR: turns clockwise seen from above, beginning and ending behind the vehicle.

    Args:
        lidar: rings, range and field of view.
        base_link_from_lidar: where it is mounted.
        rate_hz: turns per second.
        columns: firings per turn.
    """

    def __init__(self, lidar: LidarFile, base_link_from_lidar: Transform, rate_hz: float, columns: int = 900) -> None:
        self.lidar, self.mount, self.period_s = lidar, base_link_from_lidar, 1 / rate_hz
        azimuth = np.pi - 2 * np.pi * (np.arange(columns) + 0.5) / columns
        low, high = np.radians(lidar.vertical_fov_deg)
        elevation = np.linspace(low, high, lidar.rings)
        across, up = np.meshgrid(azimuth, elevation, indexing="ij")
        self._directions = np.stack((np.cos(up) * np.cos(across), np.cos(up) * np.sin(across), np.sin(up)), axis=-1)
        self._column_lag_s = ((np.arange(columns) + 1) / columns - 1) * self.period_s

    def sweep(self, scene: Scene, t_s: float, random: np.random.Generator) -> Sweep:
        """Measure the turn that ends at `t_s`."""
        columns, rings = self._directions.shape[:2]
        place, yaw = scene.motion.track(t_s, self._column_lag_s)
        cosine, sine, zero = np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)
        turn = np.stack((cosine, -sine, zero, sine, cosine, zero, zero, zero, zero + 1), axis=1).reshape(-1, 3, 3)
        origins = place + turn @ self.mount.translation_m
        directions = self._directions @ np.swapaxes(turn @ self.mount.rotation, 1, 2)
        boxes = scene.boxes_at(t_s)
        windows = self._windows(boxes, scene.motion.world_from_base_link(t_s) @ self.mount, columns)
        cast = cast_sweep(
            origins, np.ascontiguousarray(directions), self._column_lag_s, _packed(boxes), scene.velocity_mps, windows
        )
        distance, hit, cosine = (values.reshape(-1) for values in cast)
        lag_s = np.repeat(self._column_lag_s, rings)
        near, far = self.lidar.range_m
        kept = (distance > near) & (distance < far) & (random.random(len(distance)) >= DROP_OUT)
        measured = distance[kept] + random.normal(0.0, RANGE_NOISE_M, int(kept.sum()))
        semantic = np.where(hit[kept] >= 0, scene.semantic[np.maximum(hit[kept], 0)], ROAD)
        intensity = REFLECTIVITY[semantic] * (0.3 + 0.7 * cosine[kept]) * random.uniform(0.9, 1.1, len(measured))
        ring = np.broadcast_to(np.arange(rings, dtype=np.uint16), (columns, rings)).reshape(-1)
        return Sweep(
            xyz_m=(self._directions.reshape(-1, 3)[kept] * measured[:, None]).astype(np.float32),
            intensity=np.clip(intensity, 0, 1).astype(np.float32),
            ring=np.ascontiguousarray(ring[kept]),
            lag_ns=np.round(lag_s[kept] * 1e9).astype(np.int32),
            hit=hit[kept],
        )

    def _windows(self, boxes: Boxes, world_from_lidar: Transform, columns: int) -> NDArray[np.int64]:
        """Return for each box the columns that can meet it, with room for what moves during a turn."""
        corners = world_from_lidar.inverse().apply(boxes.corners().reshape(-1, 3)).reshape(-1, 8, 3)
        middle = corners.mean(axis=1)
        heading = np.arctan2(middle[:, 1], middle[:, 0])
        apart = np.arctan2(corners[..., 1], corners[..., 0]) - heading[:, None]
        apart = np.abs(np.mod(apart + np.pi, 2 * np.pi) - np.pi).max(axis=1)
        reach = np.linalg.norm(boxes.size_lwh_m[:, :2], axis=1) / 2
        away = np.hypot(middle[:, 0], middle[:, 1])
        half = apart + MARGIN_M / np.maximum(away, 1.0)
        around = (away < reach + 2 * MARGIN_M) | (half > np.pi / 2)
        first = np.floor((np.pi - heading - half) / (2 * np.pi) * columns).astype(np.int64)
        count = np.ceil(2 * half / (2 * np.pi) * columns).astype(np.int64) + 2
        count = np.where(around, columns, np.minimum(count, columns))
        count[away - reach > self.lidar.range_m[1]] = 0
        return np.stack((np.mod(first, columns), count), axis=1)


@dataclass(frozen=True)
class Picture:
    """One picture and its truth.

    Attributes:
        rgb: (H, W, 3) uint8.
        semantic: (H, W) uint8, class of the scene.
        instance: (H, W) index of the scene's box, GROUND or NOTHING.
        distance_m: (H, W) along the ray, inf for the sky.
    """

    rgb: NDArray[np.uint8]
    semantic: NDArray[np.uint8]
    instance: NDArray[np.int64]
    distance_m: Float


class SimulatedCamera:
    """A camera of any model; exposure is an instant.

    Args:
        camera: intrinsics.
        base_link_from_optical: where its optical frame is mounted.
    """

    def __init__(self, camera: Camera, base_link_from_optical: Transform) -> None:
        self.camera, self.mount = camera, base_link_from_optical

    @cached_property
    def _rays(self) -> Float:
        v, u = np.mgrid[: self.camera.height_px, : self.camera.width_px]
        rays, _ = self.camera.unproject(np.stack((u.reshape(-1), v.reshape(-1)), axis=1))
        shaped: Float = rays.reshape(self.camera.height_px, self.camera.width_px, 3)
        return shaped

    def picture(self, scene: Scene, t_s: float, random: np.random.Generator) -> Picture:
        """Take the picture of an instant."""
        world_from_optical = scene.motion.world_from_base_link(t_s) @ self.mount
        directions = np.ascontiguousarray(self._rays @ world_from_optical.rotation.T)
        boxes = scene.boxes_at(t_s)
        windows = self._windows(boxes, world_from_optical.inverse())
        origin = np.ascontiguousarray(world_from_optical.translation_m)
        distance, hit, face = cast_picture(origin, directions, _packed(boxes), windows)
        semantic = np.where(hit >= 0, scene.semantic[np.maximum(hit, 0)], SKY)
        ground = hit == GROUND
        reach = np.where(ground, distance, 0.0)[..., None] * directions + origin
        beside = np.abs(reach[..., 1]) > SIDEWALK_FROM_M
        semantic = np.where(ground, np.where(beside, SIDEWALK, ROAD), semantic)
        rgb = _street_colours(semantic, hit, reach, directions)
        box = hit >= 0
        rgb[box] = scene.colour[hit[box]] * np.array([0.75, 0.55, 1.0])[face[box]][:, None]
        noisy = rgb * np.float32(255) + 2 * random.standard_normal(rgb.shape, np.float32)
        return Picture(np.clip(noisy, 0, 255).astype(np.uint8), semantic.astype(np.uint8), hit, distance)

    def _windows(self, boxes: Boxes, optical_from_world: Transform) -> NDArray[np.int64]:
        """Return for each box the pixels that it can cover: all of them where a corner is not in front."""
        height, width = self.camera.height_px, self.camera.width_px
        corners = optical_from_world.apply(boxes.corners().reshape(-1, 3))
        pixels, valid = self.camera.project(corners, inside=False)
        pixels, valid, depth = pixels.reshape(-1, 8, 2), valid.reshape(-1, 8), corners[:, 2].reshape(-1, 8)
        low = np.floor(pixels.min(axis=1)).astype(np.int64) - 2
        high = np.ceil(pixels.max(axis=1)).astype(np.int64) + 3
        windows = np.stack((low[:, 1], high[:, 1], low[:, 0], high[:, 0]), axis=1)
        windows = np.clip(windows, 0, np.array([height, height, width, width]))
        partly = ~valid.all(axis=1)
        windows[partly] = (0, height, 0, width)
        windows[(depth.max(axis=1) <= 0) | (depth.min(axis=1) > FARTHEST_M)] = 0
        visible: NDArray[np.int64] = windows
        return visible


def _street_colours(
    semantic: NDArray[np.int64], hit: NDArray[np.int64], reach: Float, directions: Float
) -> NDArray[np.float32]:
    """Colour sky and ground, with markings of the lanes; boxes stay black."""
    rgb = np.zeros((*hit.shape, 3), np.float32)
    sky, ground = hit == NOTHING, hit == GROUND
    rgb[sky] = np.array([0.55, 0.7, 0.9]) + np.clip(directions[sky][:, 2:], 0, 1) * np.array([-0.25, -0.2, 0.0])
    x, y = reach[ground][:, 0], reach[ground][:, 1]
    marking = (np.abs(y) < 0.08) & (np.mod(x, 6.0) < 3.0) | (np.abs(np.abs(y) - 5.4) < 0.07)
    grey = np.where(semantic[ground] == SIDEWALK, 0.55, np.where(marking, 0.9, 0.3))
    rgb[ground] = (grey + 0.02 * np.sin(3 * x) * np.sin(2 * y))[:, None]
    return rgb


def _packed(boxes: Boxes) -> Float:
    cosine, sine = np.cos(boxes.yaw_rad)[:, None], np.sin(boxes.yaw_rad)[:, None]
    return np.ascontiguousarray(np.concatenate((boxes.center_m, boxes.size_lwh_m, cosine, sine), axis=1))


__all__ = ["Picture", "SimulatedCamera", "SimulatedLidar", "Sweep"]
