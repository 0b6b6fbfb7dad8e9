"""Day, dusk and rain: what the light and the air do to cameras and LiDARs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from perception.errors import UserError, did_you_mean

WeatherName: TypeAlias = Literal["day", "dusk", "rain"]
Colour: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Weather:
    """Light and air.

    Attributes:
        sun: unit vector to the sun, world frame.
        sun_light: colour of what the sun gives, linear; 0 where it is hidden.
        sky_light: colour of what the sky gives.
        zenith: colour of the sky above.
        horizon: colour of the sky at the horizon, and of far things in haze.
        haze_per_m: extinction of the air.
        exposure: how much longer a camera exposes than by day.
        contrast: how much steeper the camera's tone curve is in the middle.
        noise: standard deviation of a camera's noise, grey levels of 255 at mid grey.
        lamps: True where vehicles and signals shine.
        rain: 0 dry to 1: wet road, streaks in pictures, lost and false LiDAR returns.
    """

    sun: tuple[float, float, float]
    sun_light: Colour
    sky_light: Colour
    zenith: Colour
    horizon: Colour
    haze_per_m: float
    exposure: float
    contrast: float
    noise: float
    lamps: bool
    rain: float


WEATHERS: dict[str, Weather] = {
    "day": Weather(
        sun=(0.48, 0.60, 0.64), sun_light=(0.95, 0.90, 0.80), sky_light=(0.26, 0.30, 0.36), zenith=(0.28, 0.48, 0.85),
        horizon=(0.72, 0.80, 0.90), haze_per_m=0.0012, exposure=1.0, contrast=0.35, noise=1.5, lamps=False, rain=0.0,
    ),
    "dusk": Weather(
        sun=(0.96, 0.22, 0.17), sun_light=(0.30, 0.16, 0.08), sky_light=(0.13, 0.14, 0.20), zenith=(0.08, 0.10, 0.22),
        horizon=(0.55, 0.33, 0.22), haze_per_m=0.002, exposure=6.0, contrast=0.3, noise=4.5, lamps=True, rain=0.0,
    ),
    "rain": Weather(
        sun=(0.0, 0.0, 1.0), sun_light=(0.05, 0.05, 0.05), sky_light=(0.42, 0.44, 0.47), zenith=(0.45, 0.47, 0.50),
        horizon=(0.55, 0.57, 0.59), haze_per_m=0.008, exposure=2.5, contrast=0.1, noise=3.0, lamps=True, rain=1.0,
    ),
}  # fmt: skip
"""The weather by its name."""


def weather_of(name: str) -> Weather:
    """Return the weather of a name.

    Raises:
        UserError: there is no such weather.
    """
    if name not in WEATHERS:
        raise UserError(f"there is no weather '{name}'; there are {', '.join(WEATHERS)}.{did_you_mean(name, WEATHERS)}")
    return WEATHERS[name]


__all__ = ["WEATHERS", "Weather", "WeatherName", "weather_of"]
