"""Whether probabilities mean what they say: reliability diagram, calibration error, and the line that mends scores.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (expected calibration error); Platt,
"Probabilistic outputs for support vector machines", 1999 (logistic regression on the score, by Newton's method).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError


@dataclass(frozen=True)
class ReliabilityBin:
    """Cases whose stated probability lies between `low` and `high`."""

    low: float
    high: float
    count: int
    stated: float
    """Mean of the stated probabilities."""
    happened: float
    """Share of the cases that were true."""


@dataclass(frozen=True)
class ReliabilityDiagram:
    """Bins that hold cases, and the expected calibration error: the mean gap, weighted by count."""

    bins: tuple[ReliabilityBin, ...]
    expected_error: float


def reliability_diagram(stated: NDArray[np.float64], true: NDArray[np.bool_], bins: int = 10) -> ReliabilityDiagram:
    """Compare stated probabilities (N,) with what happened (N,).

    Raises:
        ShapeError: shapes differ, or a probability is not between 0 and 1.
    """
    stated, true = np.asarray(stated, np.float64), np.asarray(true, np.bool_)
    if stated.ndim != 1 or stated.shape != true.shape or not ((stated >= 0) & (stated <= 1)).all():
        raise ShapeError(f"probabilities {stated.shape} and outcomes {true.shape}; expected (N,) each, 0 to 1")
    index = np.minimum((stated * bins).astype(np.int64), bins - 1)
    found = []
    for number in np.unique(index):
        members = index == number
        found.append(
            ReliabilityBin(
                number / bins,
                (number + 1) / bins,
                int(members.sum()),
                float(stated[members].mean()),
                float(true[members].mean()),
            )
        )
    gap = sum(one.count * abs(one.stated - one.happened) for one in found)
    return ReliabilityDiagram(tuple(found), gap / len(stated) if len(stated) else 0.0)


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


__all__ = ["ReliabilityBin", "ReliabilityDiagram", "fit_reliability", "reliability_diagram"]
