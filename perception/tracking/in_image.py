"""Which track is which region of a picture: boxes in space, seen through a camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.geometry.boxes import Boxes
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform
from perception.ops.matching import UNMATCHED, assign, iou_2d

NEAREST_M = 0.5
"""Boxes with a corner nearer to the camera's plane have no outline in the picture."""


def outlines(
    boxes: NDArray[np.float64], camera: Camera, optical_from_boxes: Transform
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return image boxes (N, 4) around boxes (N, 7), and (N,) True where the camera sees something of them."""
    if not len(boxes):
        return np.empty((0, 4)), np.empty(0, np.bool_)
    corners = Boxes(boxes[:, :3], boxes[:, 3:6], boxes[:, 6]).corners()
    optical = optical_from_boxes.apply(corners.reshape(-1, 3))
    pixels, valid = camera.project(optical, inside=False)
    ahead = (valid & (optical[:, 2] > NEAREST_M)).reshape(-1, 8).all(axis=1)
    pixels = pixels.reshape(-1, 8, 2)
    edge = np.array([camera.width_px, camera.height_px], np.float64)
    low, high = np.clip(pixels.min(axis=1), 0, edge), np.clip(pixels.max(axis=1), 0, edge)
    return np.concatenate((low, high), axis=1), np.asarray(ahead & (high > low).all(axis=1))


def match_regions(
    outline: NDArray[np.float64], visible: NDArray[np.bool_], region: NDArray[np.float64], least: float
) -> NDArray[np.int64]:
    """Return the outline (M,) that each region (M, 4) is, UNMATCHED where none overlaps by `least`."""
    candidates = np.flatnonzero(visible)
    match = assign(1 - iou_2d(region, outline[candidates]), 1 - least)
    return np.where(match == UNMATCHED, UNMATCHED, candidates[match] if len(candidates) else UNMATCHED)


__all__ = ["match_regions", "outlines"]
