"""What detections say of an object's class, given how each detector confuses classes."""

from __future__ import annotations

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


def class_evidence(said: Float, label: NDArray[np.int64], sure: Float) -> Float:
    """Return the log-likelihood (n, K) of each class, highest 0: an unsure detection speaks for none.

    Args:
        said: (K, K) of its detector, see `said_by_class`.
        label: (n,) the class that each detection says.
        sure: (n,) how probable it is that the detection is of anything real.
    """
    evidence = np.log(sure[:, None] * said.T[label] + (1 - sure[:, None]) / len(said))
    return np.asarray(evidence - evidence.max(axis=1, keepdims=True))


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def add_evidence(evidence: Any, said: Any, label: Any) -> None:
    """Add what was said (n, K) to the evidence (n, K), highest 0 again, and put the likeliest class in label (n,)."""
    for k in range(len(label)):
        best = 0
        for i in range(said.shape[1]):
            evidence[k, i] += said[k, i]
            if evidence[k, i] > evidence[k, best]:
                best = i
        highest, label[k] = evidence[k, best], best
        for i in range(said.shape[1]):
            evidence[k, i] -= highest


__all__ = ["RIGHT", "add_evidence", "class_evidence", "said_by_class"]
