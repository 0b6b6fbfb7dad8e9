"""The labels of a segmentation mask, written out or in runs of equal labels.

A mask in runs has `label` (R,), the label of each run, and `run_length` (R,), its pixels: row by row through the
picture of `height_px` x `width_px`, runs going on from one row to the next.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.errors import MessageError
from perception.messages.array import host
from perception.messages.outputs import SegmentationMask

MAX_PIXELS = 1 << 28
"""Larger masks in runs are not believed: a few bytes must not fill the memory."""


def mask_labels(mask: SegmentationMask) -> NDArray[np.uint8]:
    """Return the class of each pixel, (H, W) uint8.

    Raises:
        MessageError: runs that do not add up to the picture.
    """
    label = host(mask.label)
    if mask.run_length is None:
        if label.ndim != 2:
            raise MessageError(f"mask with labels {label.shape} and no run_length; expected (H, W)")
        return label
    length = host(mask.run_length)
    pixels = mask.height_px * mask.width_px
    total = int(length.sum(dtype=np.uint64))
    if label.shape != length.shape or total != pixels or not 0 <= pixels <= MAX_PIXELS or mask.height_px < 0:
        raise MessageError(
            f"mask of {len(label)} labels and {len(length)} runs over {total} pixels; "
            f"expected one length a label and {mask.height_px} x {mask.width_px} pixels"
        )
    return np.repeat(label, length).reshape(mask.height_px, mask.width_px)


def runs_of(label: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Return the label and the length of each run of equal labels in (H, W), row by row."""
    flat = np.ascontiguousarray(label).reshape(-1)
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1)) if flat.size else np.zeros(0, np.int64)
    return flat[starts], np.diff(starts, append=flat.size).astype(np.uint32)


__all__ = ["mask_labels", "runs_of"]
