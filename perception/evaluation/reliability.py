"""The line that makes scores into probabilities: how often a result of such a score is right.

Whether probabilities mean what they say tells `perception.evaluation.calibration.reliability`.

Source: Platt, "Probabilistic outputs for support vector machines", 1999: logistic regression on the score, by Newton's
method.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError


def fit_reliability(score: NDArray[np.float64], true: NDArray[np.bool_], steps: int = 100) -> tuple[float, float]:
    """Return slope and offset: `1 / (1 + exp(-(slope * score + offset)))` is how often such a score is right.

    Raises:
        ShapeError: shapes differ, or all cases have one outcome, which fixes no line.
    """
    score, wanted = np.asarray(score, np.float64), np.asarray(true, np.float64)
    if score.shape != wanted.shape or score.ndim != 1 or not 0 < wanted.sum() < len(wanted):
        raise ShapeError(f"scores {score.shape} and outcomes {wanted.shape}; expected (N,) each, and both outcomes")
    right = wanted.sum()  # Platt's targets: what is never seen still has a little probability
    wanted = np.where(wanted > 0, (right + 1) / (right + 2), 1 / (len(wanted) - right + 2))
    inputs = np.column_stack((score, np.ones_like(score)))
    line = np.zeros(2)
    for _ in range(steps):
        given = 1 / (1 + np.exp(-np.clip(inputs @ line, -30, 30)))
        curvature = (inputs * (given * (1 - given))[:, None]).T @ inputs + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, inputs.T @ (wanted - given))
        line = line + step
        if np.abs(step).max() < 1e-10:
            break
    return float(line[0]), float(line[1])


__all__ = ["fit_reliability"]
