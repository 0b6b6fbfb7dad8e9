"""Pictures of one camera, smoothed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]
Grey: TypeAlias = NDArray[np.float32]
Index: TypeAlias = NDArray[np.int64]

LONGEST_FOCAL_PX = 300.0
"""Larger pictures are halved until their focal length is below: a degree is to be a few pixels."""
BORDER_PX = 4.0
MOST_REFERENCES = 24
"""Pictures of a camera to which others are compared."""
LEAST_SLOPE = 1.5
"""Of a picture at a point that is compared, grey values per pixel."""
JUDGED = 2
"""How often pictures are smoothed for telling how sure it is."""
ROBUST = 1.5
"""Standard deviations at which a point counts half."""


class Looks:
    """The pictures of a camera.

    Attributes:
        camera: its intrinsics, for pictures of the size that is used.
        t_ns: (S,) stamps.
    """

    def __init__(self, camera: Camera, pictures: Sequence[tuple[int, NDArray[np.uint8]]]) -> None:
        halvings = _halvings(camera)
        height, width = (side >> halvings << halvings for side in pictures[0][1].shape)
        self.camera = camera.cropped(0, 0, width, height).scaled(width >> halvings, height >> halvings)
        self.t_ns = np.array([t_ns for t_ns, _ in pictures], np.int64)
        small = [_halved(grey[:height, :width].astype(np.float32), halvings) for _, grey in pictures]
        self._smoothed: dict[int, Grey] = {0: np.stack(small)}

    def smoothed(self, times: int) -> Grey:
        """Return grey values (S, H, W) of pictures that were smoothed so many times."""
        if times not in self._smoothed:
            self._smoothed[times] = _binomial(self.smoothed(times - 1))
        return self._smoothed[times]

    def seen(self, base_m: Float, base_link_from_optical: Transform) -> NDArray[np.bool_]:
        """True where points (N, 3) lie in the picture, away from its border."""
        return self._places(base_m, base_link_from_optical)[1]

    def slope_at(self, picture: int, base_m: Float, base_link_from_optical: Transform) -> Float:
        """Return how steep a picture is at points (N, 3), per pixel; 0 where they are not in the picture."""
        pixels, seen = self._places(base_m, base_link_from_optical)
        _, slope = sampled(self.smoothed(2), np.full(len(pixels), picture), pixels)
        return np.where(seen, np.linalg.norm(slope, axis=1), 0.0)

    def _places(self, base_m: Float, base_link_from_optical: Transform) -> tuple[Float, NDArray[np.bool_]]:
        pixels, seen = self.camera.project(base_link_from_optical.inverse().apply(base_m))
        last = np.array([self.camera.width_px, self.camera.height_px]) - 1
        return pixels, seen & ((pixels > BORDER_PX) & (pixels < last - BORDER_PX)).all(axis=1)


def sampled(pictures: Grey, which: Index, pixels: Float) -> tuple[Float, Float]:
    """Return what pictures (S, H, W) show at pixels (N, 2), bilinear, and its slope (N, 2) per pixel."""
    _, height, width = pictures.shape
    u, v = np.clip(pixels[:, 0], 1.0, width - 3.001), np.clip(pixels[:, 1], 1.0, height - 3.001)
    left, top = u.astype(np.int64), v.astype(np.int64)
    right_share, low_share = u - left, v - top
    flat, corner = pictures.reshape(-1), (which * height + top) * width + left

    def at(offset: int) -> Float:
        place = corner + offset
        upper = flat[place] * (1 - right_share) + flat[place + 1] * right_share
        lower = flat[place + width] * (1 - right_share) + flat[place + width + 1] * right_share
        return np.asarray(upper * (1 - low_share) + lower * low_share, np.float64)

    return at(0), np.stack(((at(1) - at(-1)) / 2, (at(width) - at(-width)) / 2), axis=1)


def _halvings(camera: Camera) -> int:
    ahead = camera.jacobian(np.array([[0.0, 0.0, 1.0]]))[0][:, :2]
    focal_px = float(np.sqrt(abs(np.linalg.det(ahead))))
    return max(0, int(np.ceil(np.log2(focal_px / LONGEST_FOCAL_PX))))


def _halved(grey: Grey, times: int) -> Grey:
    for _ in range(times):
        grey = (grey[::2, ::2] + grey[1::2, ::2] + grey[::2, 1::2] + grey[1::2, 1::2]) / np.float32(4)
    return grey


def _binomial(grey: Grey) -> Grey:
    """Smooth by 1 4 6 4 1 along rows and columns: a deviation of one pixel."""
    for axis in (1, 2):
        padded = np.pad(grey, [(0, 0)] + [(2, 2) if axis == a else (0, 0) for a in (1, 2)], mode="edge")
        size = grey.shape[axis]
        part = [padded[:, k : k + size] if axis == 1 else padded[:, :, k : k + size] for k in range(5)]
        grey = (part[0] + part[4] + 4 * (part[1] + part[3]) + 6 * part[2]) / np.float32(16)
    return grey


def exposure(grey: Float, pair: Index, least: float) -> tuple[Float, Float]:
    """Return mean and deviation of grey values (N,) in each picture of each pair (N,), for each point.

    Both pictures show the same points: what differs in these is exposure. `least` is added to the deviation.
    """
    count = np.maximum(np.bincount(pair), 1)
    mean = np.bincount(pair, grey) / count
    square = np.bincount(pair, (grey - mean[pair]) ** 2) / count
    return mean[pair], np.sqrt(square[pair]) + least


def weights(error: Float, usual: float | Float, seen: NDArray[np.bool_]) -> Float:
    """Return how much each point (N,) counts, by its error beside what is usual."""
    return np.asarray(seen / (1.0 + (error / (ROBUST * usual)) ** 2) ** 2 / usual**2)


def misfit(error: Float, usual: float | Float) -> Float:
    """Return how badly each point (N,) fits, 0 to 1: the cost of which `weights` is the slope.

    Geman and McClure, "Statistical methods for tomographic image reconstruction", Bulletin of the ISI 1987.
    """
    square = (error / (ROBUST * usual)) ** 2
    return np.asarray(square / (1.0 + square))


__all__ = [
    "JUDGED", "LEAST_SLOPE", "MOST_REFERENCES", "Grey", "Looks", "exposure", "misfit", "sampled", "weights",
]  # fmt: skip
