"""Pictures of a camera with boxes or masks drawn into them, to look at what was wrong."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from perception.evaluation.track_frames import Float
from perception.geometry.boxes import Boxes
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform

WIDTH_PX = 560
TRUE, REPORTED, WRONG = (40, 200, 40), (230, 50, 50), (255, 30, 30)
_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
_STEPS = np.linspace(0.0, 1.0, 9)[:, None]
_Rgb = NDArray[np.uint8]


def with_boxes(
    rgb: _Rgb, camera: Camera, optical_from_base_link: Transform, truth: Boxes, results: Boxes
) -> bytes | None:
    """Draw the edges of true boxes green and of reported ones red; a lens bends them.

    Args:
        rgb: (H, W, 3), of the size of the camera.
        camera: its intrinsics.
        optical_from_base_link: where it is.
        truth: true boxes in `base_link`.
        results: reported ones.

    Returns:
        A JPEG, None where no box is in the picture.
    """
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    draw, drawn = ImageDraw.Draw(picture), False
    for boxes, colour in ((truth, TRUE), (results, REPORTED)):
        for corners in boxes.corners():
            for start, end in _EDGES:
                drawn |= _edge(draw, camera, optical_from_base_link, corners[[start, end]], colour)
    return _jpeg(picture) if drawn else None


def _edge(
    draw: ImageDraw.ImageDraw, camera: Camera, optical_from_base_link: Transform, ends: Float, colour: tuple[int, ...]
) -> bool:
    points = optical_from_base_link.apply(ends[0] + _STEPS * (ends[1] - ends[0]))
    pixels, valid = camera.project(points)
    width = max(1, camera.width_px // 400)
    for before in np.flatnonzero(valid[:-1] & valid[1:]):
        draw.line([*map(float, (*pixels[before], *pixels[before + 1]))], fill=colour, width=width)
    return bool(valid.any())


def with_mask(rgb: _Rgb, labels: NDArray[np.uint8], wrong: NDArray[np.bool_]) -> bytes:
    """Return two pictures side by side as a JPEG: the mask in colours, and what of it is wrong in red.

    Args:
        rgb: (H, W, 3); it is scaled to the mask where it has another size.
        labels: (h, w) reported classes.
        wrong: (h, w) True where another class is true.
    """
    base = Image.fromarray(np.ascontiguousarray(rgb)).resize(labels.shape[::-1])
    plain = np.asarray(base, np.float64)
    left = 0.45 * plain + 0.55 * _colours()[labels]
    right = np.where(wrong[..., None], 0.3 * plain + 0.7 * np.array(WRONG), plain)
    return _jpeg(Image.fromarray(np.concatenate((left, right), axis=1).astype(np.uint8)), 2 * WIDTH_PX)


def _colours() -> Float:
    """Return (256, 3) colours that differ from one label to the next; 255, no class, is black."""
    turns = np.arange(256)[:, None] * 0.618034 + np.array([0.0, 1 / 3, 2 / 3])
    colours = 128 + 127 * np.cos(2 * np.pi * turns)
    colours[255] = 0.0
    return np.asarray(colours)


def _jpeg(picture: Image.Image, width_px: int = WIDTH_PX) -> bytes:
    if picture.width > width_px:
        picture = picture.resize((width_px, max(1, round(picture.height * width_px / picture.width))))
    data = BytesIO()
    picture.save(data, "JPEG", quality=80, subsampling=0)  # thin lines keep their colour
    return data.getvalue()


__all__ = ["with_boxes", "with_mask"]
