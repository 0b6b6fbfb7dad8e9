"""Compare two evaluations scene by scene: the difference, and how sure it is (paired bootstrap over scenes).

Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, percentile intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception.errors import UserError
from perception.evaluation.run_report import headline_name

DRAWS = 2000
LESS_IS_BETTER = ("MPJPE_mm",)


@dataclass(frozen=True)
class Comparison:
    """One output in two reports.

    Attributes:
        figure: what is compared.
        a, b: of the whole log.
        difference: b - a.
        low, high: the 95 % interval of the difference over scenes; equal to it where there is one scene.
        verdict: better, worse, or no difference that the scenes can show.
    """

    figure: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    verdict: str


def compare(a: Mapping[str, Any], b: Mapping[str, Any], seed: int = 0) -> dict[str, Comparison]:
    """Compare the outputs that both reports have.

    Raises:
        UserError: they share no output.
    """
    shared = [topic for topic in a["outputs"] if topic in b["outputs"]]
    if not shared:
        raise UserError(
            f"the reports share no output: {', '.join(a['outputs']) or 'none'} and {', '.join(b['outputs']) or 'none'}"
        )
    return {topic: _compared(a["outputs"][topic], b["outputs"][topic], seed) for topic in shared}


def _compared(a: Mapping[str, Any], b: Mapping[str, Any], seed: int) -> Comparison:
    figure = headline_name(a["offline"])
    values = [_number(of["offline"]["summary"].get(figure)) for of in (a, b)]
    difference = values[1] - values[0]
    pairs = np.array(
        [(_number(x), _number(y)) for x, y in zip(a["scenes"], b["scenes"], strict=False)], np.float64
    ).reshape(-1, 2)
    steps = np.diff(pairs[np.isfinite(pairs).all(axis=1)], axis=1)[:, 0]
    low = high = difference
    if len(steps) > 1:
        drawn = np.random.default_rng(seed).choice(steps, (DRAWS, len(steps))).mean(axis=1)
        low, high = (float(value) for value in np.quantile(drawn, (0.025, 0.975)))
    sign = -1 if figure in LESS_IS_BETTER else 1
    verdict = "no difference shown"
    if len(steps) > 1 and low * high > 0:
        verdict = "better" if sign * low > 0 else "worse"
    return Comparison(figure, values[0], values[1], difference, low, high, verdict)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


__all__ = ["Comparison", "compare"]
