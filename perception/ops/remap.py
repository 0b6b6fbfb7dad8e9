"""Make a picture by a pixel map: bilinear between the centres of the old pixels, black where nothing was seen."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError
from perception.geometry.rectification import PixelMap


def remapped(picture: NDArray[np.uint8], pixel_map: PixelMap) -> NDArray[np.uint8]:
    """Return the picture that the map describes.

    Args:
        picture: (H, W) or (H, W, C) uint8, as the map's old camera took it.
        pixel_map: the map.

    Returns:
        (h, w) or (h, w, C) uint8.

    Raises:
        ShapeError: the picture has another dtype or number of dimensions.
    """
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
        raise ShapeError(f"picture {picture.shape} {picture.dtype}; expected (H, W) or (H, W, C) uint8")
    colours = np.ascontiguousarray(picture.reshape(*picture.shape[:2], -1))
    out = np.zeros((*pixel_map.seen.shape, colours.shape[2]), np.uint8)
    _remap(colours, pixel_map.place_px, pixel_map.seen, out)
    return out.reshape(*pixel_map.seen.shape, *picture.shape[2:])


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _remap(picture: Any, place: Any, seen: Any, out: Any) -> None:
    rows, columns, colours = picture.shape
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            if not seen[row, column]:
                continue
            u = min(max(place[row, column, 0], 0.0), columns - 1.0)
            v = min(max(place[row, column, 1], 0.0), rows - 1.0)
            left, top = int(u), int(v)
            right, below = min(left + 1, columns - 1), min(top + 1, rows - 1)
            fu, fv = u - left, v - top
            for colour in range(colours):
                upper = picture[top, left, colour] * (1 - fu) + picture[top, right, colour] * fu
                lower = picture[below, left, colour] * (1 - fu) + picture[below, right, colour] * fu
                out[row, column, colour] = np.uint8(upper * (1 - fv) + lower * fv + 0.5)


__all__ = ["remapped"]
