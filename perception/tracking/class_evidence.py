"""What detections say of an object's class, given how each detector confuses classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
RIGHT = 0.95
"""How often the class of a right box is right, where nothing else is known."""


def said_by_class(confusion: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> Float:
    """Return (K, K): how often a detector calls an object of the first class by the name of the second.

    Args:
        confusion: true class -> class that is said -> how often; all others by `RIGHT`.
        names: of the K classes.
    """
    wrong = (1 - RIGHT) / max(1, len(names) - 1)
    table = np.full((len(names), len(names)), wrong) + (RIGHT - wrong) * np.eye(len(names))
    for true, said in confusion.items():
        for name, share in said.items():
            table[names.index(true), names.index(name)] = max(share, wrong)
    return table


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def add_evidence(evidence: Any, said: Any, label: int, sure: float) -> int:
    """Add what a detection says of a track's class to its evidence (K,), highest 0 again; return the likeliest class.

    A detection that is unsure of being one of anything real speaks for no class.

    Args:
        evidence: (K,) log-likelihoods.
        said: (K, K) of its detector, see `said_by_class`.
        label: what it says.
        sure: how probable it is that it is of anything real.
    """
    best, count = 0, len(evidence)
    for i in range(count):
        evidence[i] += math.log(sure * said[i, label] + (1 - sure) / count)
        if evidence[i] > evidence[best]:
            best = i
    highest = evidence[best]
    for i in range(count):
        evidence[i] -= highest
    return best


__all__ = ["RIGHT", "add_evidence", "said_by_class"]
