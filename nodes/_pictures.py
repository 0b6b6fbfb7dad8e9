"""Pictures of messages as RGB arrays."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError
from perception.messages import Image, host


def rgb_of(image: Image, at_least: tuple[int, int] = (0, 0)) -> NDArray[np.uint8]:
    """Return the picture as (H, W, 3) RGB; raw RGB is not copied.

    A JPEG is decoded at the smallest size that reaches `at_least` (height, width); (0, 0) decodes in full.

    Raises:
        ShapeError: the bytes are truncated, or not what the message says.
    """
    data = host(image.data)
    size = (image.height_px, image.width_px)
    if image.encoding in ("jpeg", "png"):
        return _decompressed(image, data, at_least)
    channels = 1 if image.encoding.startswith("mono") else 3
    if data.shape not in ((*size, channels), size[:2] if channels == 1 else (*size, 3)):
        raise ShapeError(f"picture of {data.shape}; its message says {size[0]} x {size[1]} {image.encoding}")
    if image.encoding == "mono16":
        data = (data >> 8).astype(np.uint8)
    if data.dtype != np.uint8:
        raise ShapeError(f"{image.encoding} picture of {data.dtype}; expected uint8")
    if channels == 1:
        return np.repeat(data.reshape(*size, 1), 3, axis=2)
    return data[..., ::-1] if image.encoding == "bgr8" else data


def _decompressed(image: Image, data: NDArray[Any], at_least: tuple[int, int]) -> NDArray[np.uint8]:
    try:
        if image.encoding == "jpeg":
            from perception.ops.image import decoded_jpeg, jpeg_size

            size, pixels = jpeg_size(data.tobytes()), decoded_jpeg(data.tobytes(), at_least)
        else:
            from PIL import Image as Pillow

            with Pillow.open(io.BytesIO(data.tobytes())) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            size = pixels.shape[:2]
    except (OSError, ValueError, SyntaxError) as error:
        raise ShapeError(f"{image.encoding} picture cannot be read: {error}") from None
    if size != (image.height_px, image.width_px):
        raise ShapeError(f"picture of {size}; its message says {image.height_px} x {image.width_px}")
    return pixels
