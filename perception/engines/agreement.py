"""The gate before an engine: it runs only after it agreed with the torch reference on samples.

The certificate (`Agreement`) lies beside a cached engine. The tolerance is that of the parity cases; engines below
float32 are judged by the class for those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.engines.engine import Engine, kept, part_samples
from perception.engines.task_agreement import task_figures
from perception.engines.torch_engine import TorchEngine
from perception.errors import EngineError
from perception.networks.part import Part


@dataclass(frozen=True)
class Agreement:
    """How near an engine came to the reference: the largest error over its tolerance, up to 1."""

    samples: int
    worst: float
    output: str
    """The output with that error."""
    task: Mapping[str, float] = field(default_factory=dict)
    """Figures in the terms of the task, the worst sample's (`task_agreement`)."""


def confirm_agreement(engine: Engine, part: Part, half: bool = False) -> Agreement:
    """Run the engine and the torch reference on the part's samples.

    Args:
        engine: what was compiled from `part`.
        part: its module is the reference.
        half: the tolerance of engines below float32.

    Raises:
        EngineError: an output differs by more than the tolerance, or has another shape, or the task's result differs.
    """
    reference = TorchEngine(part)
    samples, worst, output = part_samples(part), -1.0, ""
    task: dict[str, float] = {}
    for sample in samples:
        inputs = dict(zip(part.inputs, (tensor.numpy() for tensor in sample), strict=True))
        expected, got = kept(reference.run(inputs)), kept(engine.run(inputs))
        for name, array in expected.items():
            error = relative_error(got[name], array, half)
            if error > 1:
                sizes = ", ".join(f"{key} {value.shape}" for key, value in inputs.items())
                raise EngineError(
                    f"{engine.name} disagrees with the torch reference in part '{part.name}': output '{name}' is "
                    f"{error:.3g} times the tolerance away ({sizes}); it is not used"
                )
            if error > worst:
                worst, output = error, name
        for figure in task_figures(got, expected, half):
            if not figure.passed:
                raise EngineError(
                    f"{engine.name} disagrees with the torch reference in part '{part.name}': {figure.share:.1%} of "
                    f"the {figure.name} agree, expected at least {figure.least:.1%}; it is not used"
                )
            task[figure.name] = min(figure.share, task.get(figure.name, 1.0))
    return Agreement(len(samples), worst, output, task)


def relative_error(got: NDArray[Any], expected: NDArray[Any], half: bool = False) -> float:
    """Return the largest error over its tolerance; infinite where shapes, integers or non-finite places differ."""
    if got.shape != expected.shape:
        return float("inf")
    if expected.dtype.kind in "iub":
        return 0.0 if np.array_equal(got, expected) else float("inf")
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(got)):
        return float("inf")
    if not finite.any():
        return 0.0
    ours, theirs = got[finite].astype(np.float64), expected[finite].astype(np.float64)
    spread = float(theirs.std())
    bound = 0.02 * (np.abs(theirs) + spread) + 1e-6 if half else 1e-3 * np.abs(theirs) + max(3e-4 * spread, 1e-6)
    return float((np.abs(ours - theirs) / bound).max())


def certificate(agreement: Agreement) -> Mapping[str, object]:
    """Return what is stored beside the engine."""
    return {
        "samples": agreement.samples,
        "worst_over_tolerance": agreement.worst,
        "output": agreement.output,
        "task": dict(agreement.task),
    }
