"""What tracking metrics read: who was there at every instant of a sequence, who was reported, how alike they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TrackFrame:
    """One instant of one sequence.

    Attributes:
        truth: (G,) ids of the true objects, unique within the sequence.
        results: (R,) ids of the reported tracks, likewise.
        similarity: (G, R) in [0, 1], for example IoU.
    """

    truth: NDArray[np.int64]
    results: NDArray[np.int64]
    similarity: Float


TrackSequence: TypeAlias = Sequence[TrackFrame]


def image_iou(a: Float, b: Float) -> Float:
    """Return IoU (N, M) of image boxes (N, 4) and (M, 4): left, top, right, bottom in pixels, no pixel added."""
    left_top = np.maximum(a[:, None, :2], b[None, :, :2])
    right_bottom = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(right_bottom - left_top, 0, None).prod(axis=2)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(axis=1), (b[:, 2:] - b[:, :2]).prod(axis=1)
    union = area_a[:, None] + area_b[None] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def dense_ids(ids: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each id in the sorted `known` ids."""
    return np.searchsorted(known, ids)


def all_ids(sequence: TrackSequence) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sorted unique ids of truth and of results over a sequence."""
    truth = np.unique(np.concatenate([frame.truth for frame in sequence] or [np.empty(0, np.int64)]))
    results = np.unique(np.concatenate([frame.results for frame in sequence] or [np.empty(0, np.int64)]))
    return truth, results


__all__ = ["TrackFrame", "TrackSequence", "all_ids", "dense_ids", "image_iou"]
