"""What the pulls of points tell, where those of one thing are wrong together."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float64]
Index: TypeAlias = NDArray[np.int64]


def told_by_pulls(curvature: Float, pulls: Float, thing: Index, at: Float, asked: Float) -> tuple[Float, Float]:
    """Return information (U, U) and goal (U,) of unknowns: what things pull for, against how much they disagree.

    White, "Maximum likelihood estimation of misspecified models", Econometrica 1982, over things. What they disagree in
    is known of few of them: so what they do on the whole is added.

    Args:
        curvature: (U, U) by how much the pull of all falls with each unknown; directions in which it rises count for
            nothing.
        pulls: (N, U) of each point, near the solution.
        thing: (N,) 0 to T - 1.
        at: (U,) the unknowns there.
        asked: (U,) steps that matter, by which unknowns of different units compare.
    """
    matrix = _upright(curvature, asked)
    by_thing = np.stack([np.bincount(thing, column) for column in pulls.T], axis=1)
    between = by_thing.T @ by_thing
    usual = float(np.mean(np.diag(between) / np.maximum(np.diag(matrix), 1e-3 * asked**-2.0)))
    solved = np.linalg.solve(between + usual * matrix + 1e-9 * np.diag(asked**-2.0), np.eye(len(at)))
    return np.asarray(matrix @ solved @ matrix), np.asarray(matrix @ solved @ (matrix @ at + pulls.sum(axis=0)))


def _upright(curvature: Float, asked: Float) -> Float:
    """Return the curvature without what bends the other way."""
    sizes, axes = np.linalg.eigh(asked[:, None] * curvature * asked)
    scaled = (axes * np.maximum(sizes, 0.0)) @ axes.T
    return np.asarray(scaled / asked[:, None] / asked)


__all__ = ["told_by_pulls"]
