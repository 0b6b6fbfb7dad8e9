"""Whether scores mean what they say: of the boxes scored 0.8, four in five should be there.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (expected calibration error, reliability
diagram); Brier, "Verification of forecasts expressed in terms of probability", 1950.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError
from perception.evaluation.track_frames import Float


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram and its summary.

    Attributes:
        edges: (B + 1,) of the bins of the score.
        count: (B,) results in each bin.
        score: (B,) their mean score; NaN where a bin is empty.
        right: (B,) the share of them that is right.
        expected_error: ECE, the mean of |right - score| over results.
        largest_error: MCE, the largest over bins.
        brier: the mean of (score - right)^2 over results.
    """

    edges: Float
    count: NDArray[np.int64]
    score: Float
    right: Float
    expected_error: float
    largest_error: float
    brier: float


def reliability(score: Float, right: NDArray[np.bool_], bins: int = 10) -> Reliability:
    """Compare scores with what came true.

    Args:
        score: (N,) probabilities in [0, 1].
        right: (N,) whether each result was true.
        bins: of equal width; a score of 1 lies in the last.

    Raises:
        ShapeError: the lengths differ, or a score is no probability.
    """
    if score.shape != right.shape or score.ndim != 1:
        raise ShapeError(f"scores {score.shape} and outcomes {right.shape}; expected (N,) alike")
    if len(score) and not ((score >= 0) & (score <= 1)).all():
        raise ShapeError("a score is no probability between 0 and 1")
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.minimum((score * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    some = np.maximum(count, 1)
    mean_score = np.where(count, np.bincount(place, score, bins) / some, np.nan)
    share = np.where(count, np.bincount(place, right.astype(float), bins) / some, np.nan)
    gap = np.abs(share - mean_score)
    none = len(score) == 0
    return Reliability(
        edges=edges,
        count=count,
        score=mean_score,
        right=share,
        expected_error=float("nan") if none else float(np.nansum(gap * count) / len(score)),
        largest_error=float("nan") if none else float(np.nanmax(gap)),
        brier=float("nan") if none else float(np.mean((score - right) ** 2)),
    )


__all__ = ["Reliability", "reliability"]
