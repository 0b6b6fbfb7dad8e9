"""Compare two evaluations scene by scene: the difference, and how sure it is (paired bootstrap over scenes).

Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, percentile intervals.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception.errors import UserError, did_you_mean
from perception.evaluation.run_report import headline_name

DRAWS = 2000
LESS_IS_BETTER = ("MPJPE_mm",)
REQUIREMENT = re.compile(r"(.+):([^:<>=]+)(>=|<=)([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)")


@dataclass(frozen=True)
class Comparison:
    """One output in two reports.

    Attributes:
        figure: what is compared.
        a, b: of the whole log.
        difference: b - a.
        low, high: the 95 % interval of the difference over scenes; equal to it where there is one scene.
        scenes: how many both reports have.
        verdict: better, worse, or no difference that the scenes can show.
    """

    figure: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    scenes: int
    verdict: str

    def drop(self) -> float:
        """Return by how much b is worse; NaN where one of them has no such figure."""
        return self.difference if self.figure in LESS_IS_BETTER else -self.difference


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


def regressions(a: Mapping[str, Any], found: Mapping[str, Comparison], max_drop: float) -> list[str]:
    """Return a line for each output of `a` that the other lost, or whose headline figure fell by more than `max_drop`.

    A fall counts where the scenes show that it is none of chance; of a single scene, which shows nothing, as it is.
    """
    lines = [f"{topic}: the second report has no such output" for topic in a["outputs"] if topic not in found]
    for topic, one in found.items():
        if math.isfinite(one.a) and not math.isfinite(one.b):
            lines.append(f"{topic}: {one.figure} was {one.a:.4f} and is not known any more")
        elif one.drop() > max_drop and (one.verdict == "worse" or one.scenes < 2):
            lines.append(f"{topic}: {one.figure} is worse by {one.drop():.4f}, {max_drop:g} is allowed")
    return lines


def unmet(report: Mapping[str, Any], requirement: str) -> str:
    """Return why a report does not meet TOPIC:FIGURE>=VALUE (or <=), "" where it does.

    FIGURE is an offline one such as mAP, `streaming.mAP`, or `latency_ms.p50` or `latency_ms.p99`.

    Raises:
        UserError: it is not written so, or the report has no such output or figure.
    """
    parts = REQUIREMENT.fullmatch(requirement)
    if parts is None:
        raise UserError(f"--require {requirement}: expected TOPIC:FIGURE>=VALUE or <=, such as objects:mAP>=0.5")
    topic, figure, sign, text = parts.groups()
    if topic not in report["outputs"]:
        raise UserError(f"--require {requirement}: no output '{topic}'.{did_you_mean(topic, report['outputs'])}")
    output = report["outputs"][topic]
    kinds = {"": output["offline"]["summary"], "streaming.": (output["streaming"] or {}).get("summary", {})}
    known = {kind + name: value for kind, of in kinds.items() for name, value in of.items()}
    known |= {f"latency_ms.{name}": value for name, value in output["latency_ms"].items()}
    if figure not in known:
        raise UserError(f"--require {requirement}: '{topic}' has no figure '{figure}'.{did_you_mean(figure, known)}")
    value, limit = _number(known[figure]), float(text)
    met = value >= limit if sign == ">=" else value <= limit  # neither holds of NaN
    return "" if met else f"{topic}: {figure} is {value:.4f}, {sign} {limit:g} is required"


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
    return Comparison(figure, values[0], values[1], difference, low, high, len(steps), verdict)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


__all__ = ["Comparison", "compare", "regressions", "unmet"]
