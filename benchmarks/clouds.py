"""Made-up sweeps for benchmarks that run where only torch and numpy are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BEAMS, SENSOR_M, REACH_M = 64, 1.9, 75.0


def spinning_sweep(points: int, seed: int = 0) -> NDArray[np.float32]:
    """Return (points, 3) x, y, z in metres over the ground: a spinning LiDAR of 64 beams among walls and cars.

    Each direction meets a wall 8 to 75 m away and, in one of six, a car before it; what passes over both is lost.
    """
    random = np.random.default_rng(seed)
    elevation = np.deg2rad(np.linspace(-24.9, 2.0, BEAMS))
    found: list[NDArray[np.float64]] = []
    while sum(map(len, found)) < points:
        azimuth = np.arange(0, 2 * np.pi, 2 * np.pi / 2650) + random.uniform(0, 0.002)
        sector = np.repeat(np.arange(213), 13)[: len(azimuth)]  # about 1.8 degrees each
        wall_m, wall_height_m = random.uniform(8, REACH_M, 213)[sector], random.uniform(1, 8, 213)[sector]
        car_m = np.where(random.random(213) < 1 / 6, random.uniform(4, 40, 213), np.inf)[sector]
        slope = np.tan(elevation)[:, None]
        ground_m = np.where(slope < 0, -SENSOR_M / np.minimum(slope, -1e-6), np.inf)
        over_wall = SENSOR_M + slope * wall_m > wall_height_m
        over_car = SENSOR_M + slope * np.where(np.isinf(car_m), 0, car_m) > 1.5
        range_m = np.minimum(
            np.minimum(ground_m, np.where(over_wall, np.inf, wall_m)), np.where(over_car, np.inf, car_m)
        )
        range_m = range_m + random.normal(0, 0.02, range_m.shape)
        xyz = np.stack((range_m * np.cos(azimuth), range_m * np.sin(azimuth), SENSOR_M + slope * range_m), axis=2)
        found.append(xyz[range_m < REACH_M])
    cloud = np.concatenate(found)
    return np.ascontiguousarray(cloud[random.permutation(len(cloud))[:points]], np.float32)


__all__ = ["spinning_sweep"]
