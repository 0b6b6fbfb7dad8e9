"""How the ego vehicle drives: smooth, planar, and exact at every instant.

The vehicle follows a gentle wave around the middle of its lane while its speed swells and ebbs. Place, heading, speed,
turn rate and acceleration are closed formulas of time, so every truth that is derived from them is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Motion:
    """The way of the vehicle in the world (x along the street, y left, z up).

    Attributes:
        speed_mps: mean speed along the street.
        swell: share by which the speed swells and ebbs.
        swell_period_s: of that.
        sway_m: how far it leaves the middle of its way to each side.
        sway_length_m: way on which it returns.
        start_m: where it is at time zero.
    """

    speed_mps: float = 8.0
    swell: float = 0.15
    swell_period_s: float = 11.0
    sway_m: float = 0.4
    sway_length_m: float = 48.0
    start_m: tuple[float, float] = (0.0, -1.75)

    def along_m(self, t_s: Float) -> Float:
        """Return x at instants (T,)."""
        w = 2 * math.pi / self.swell_period_s
        way: Float = self.start_m[0] + self.speed_mps * (t_s + self.swell / w * (1 - np.cos(w * t_s)))
        return way

    def mean_along_m(self, t_s: float) -> float:
        """Return x without the swell: traffic keeps its place to this."""
        return self.start_m[0] + self.speed_mps * t_s

    def poses(self, t_s: Float) -> tuple[Float, Float]:
        """Return places (T, 3) and headings (T,) at instants (T,), seconds from the start."""
        x = self.along_m(t_s)
        k = 2 * math.pi / self.sway_length_m
        phase = k * (x - self.start_m[0])
        y = self.start_m[1] + self.sway_m * np.sin(phase)
        return np.stack((x, y, np.zeros_like(x)), axis=1), np.arctan(self.sway_m * k * np.cos(phase))

    def world_from_base_link(self, t_s: float) -> Transform:
        """Return the pose at an instant."""
        k, x = 2 * math.pi / self.sway_length_m, self._along_m(t_s)
        half = self.heading_rad(t_s) / 2
        place = np.array([x, self.start_m[1] + self.sway_m * math.sin(k * (x - self.start_m[0])), 0.0])
        return Transform(place, np.array([0.0, 0.0, math.sin(half), math.cos(half)]))

    def heading_rad(self, t_s: float) -> float:
        """Return the yaw at an instant, counter-clockwise from the street's direction."""
        k = 2 * math.pi / self.sway_length_m
        return math.atan(self.sway_m * k * math.cos(k * (self._along_m(t_s) - self.start_m[0])))

    def _along_m(self, t_s: float) -> float:
        w = 2 * math.pi / self.swell_period_s
        return self.start_m[0] + self.speed_mps * (t_s + self.swell / w * (1 - math.cos(w * t_s)))

    def _slopes(self, t_s: float) -> tuple[float, float, float, float]:
        """Return dx/dt, d2x/dt2, dy/dx and d2y/dx2."""
        w, k = 2 * math.pi / self.swell_period_s, 2 * math.pi / self.sway_length_m
        x_speed = self.speed_mps * (1 + self.swell * math.sin(w * t_s))
        x_gain = self.speed_mps * self.swell * w * math.cos(w * t_s)
        phase = k * (self._along_m(t_s) - self.start_m[0])
        return x_speed, x_gain, self.sway_m * k * math.cos(phase), -self.sway_m * k * k * math.sin(phase)

    def speed_at(self, t_s: float) -> float:
        """Return the speed along the heading, m/s."""
        x_speed, _, slope, _ = self._slopes(t_s)
        return x_speed * math.hypot(1.0, slope)

    def yaw_rate_radps(self, t_s: float) -> float:
        """Return the turn rate, counter-clockwise."""
        x_speed, _, slope, bend = self._slopes(t_s)
        return bend * x_speed / (1 + slope * slope)

    def acceleration_mps2(self, t_s: float) -> tuple[float, float]:
        """Return acceleration over ground in base_link axes, forward and left."""
        x_speed, x_gain, slope, bend = self._slopes(t_s)
        length = math.hypot(1.0, slope)
        forward = x_gain * length + x_speed * slope * bend * x_speed / length
        return forward, self.speed_at(t_s) * self.yaw_rate_radps(t_s)


__all__ = ["Motion"]
