"""What the pulls of points tell, where those of one thing are wrong together."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float64]
Index: TypeAlias = NDArray[np.int64]


def told_by_pulls(curvature: Float, pulls: Float, thing: Index, at: Float, asked: Float) -> tuple[Float, Float]:
    """Return information (U, U) and goal (U,) of unknowns: what things pull for, against how much they disagree.

    White, "Maximum likelihood estimation of misspecified models", Econometrica 1982, over things. A direction that one
    thing alone tells seems to be without disagreement, since that thing has its way: so what is usual is added.

    Args:
        curvature: (U, U) by how much the pull of all falls with each unknown; directions in which it rises count for
            nothing.
        pulls: (N, U) of each point, near the solution.
        thing: (N,) 0 to T - 1.
        at: (U,) the unknowns there.
        asked: (U,) steps that matter, by which unknowns of different units compare.
    """
    sizes, axes = np.linalg.eigh(asked[:, None] * curvature * asked)
    sizes = np.maximum(sizes, 0.0)
    along = axes / asked[:, None]  # from what is asked along each axis of the curvature to unknowns, as slopes go
    by_thing = np.stack([np.bincount(thing, column) for column in (pulls * asked @ axes).T], axis=1)
    between = by_thing.T @ by_thing
    spread = between + _usual(sizes, np.diag(between)) * np.diag(sizes) + 1e-9 * np.eye(len(sizes))
    told = along * sizes @ np.linalg.inv(spread)
    return (
        np.asarray(told * sizes @ along.T),
        np.asarray(told @ (sizes * (axes.T @ (at / asked)) + by_thing.sum(axis=0))),
    )


def _usual(sizes: Float, between: Float) -> float:
    """Return how much things disagree, over the curvature (U,), in the mean of its axes.

    An axis along which a step that matters would not show, had each point erred on its own, has no part in it.
    """
    told = sizes / (1.0 + sizes**2)
    return float((told * between).sum() / max(float((told * sizes).sum()), 1e-12))


__all__ = ["told_by_pulls"]
