"""How a network is trained: every number that the trained file depends on, beside the world and the code."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from perception.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """Settings of one training.

    Attributes:
        card: the shipped card of what is trained; its name is the file's name.
        seed: of the first weights, the order of the data and all augmentation; 0 to 999.
        steps: of the optimizer.
        batch_size: samples in a step.
        learning_rate: the highest.
        schedule: one_cycle rises and falls along half cosines (Smith & Topin, arXiv 1708.07120); cosine rises
            linearly, then falls along half a cosine to zero (Loshchilov & Hutter, arXiv 1608.03983).
        warm_up: share of the steps in which the rate rises.
        weight_decay: of AdamW, on kernels and matrices; norm scales, biases and other vectors have none.
        clip_norm: gradients are scaled down to this norm.
        average_decay: the file holds the moving average of the weights with this decay; 0 takes the last weights.
        limit_mb: the file may not be larger, in megabytes.
        further_steps: of a second cycle (Loshchilov & Hutter's warm restart), from the weights as the file would hold
            them after `steps`, with an optimizer that remembers nothing: it makes a better file of a good one.
        further_rate: the highest learning rate of that cycle.
    """

    card: str
    seed: int
    steps: int
    batch_size: int
    learning_rate: float
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    warm_up: float = 0.3
    weight_decay: float = 0.01
    clip_norm: float = 10.0
    average_decay: float = 0.0
    limit_mb: float = 6.2
    further_steps: int = 0
    further_rate: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1000 or self.steps < 1 or self.batch_size < 1 or self.further_steps < 0:
            raise UserError(
                f"recipe of {self.card}: seed {self.seed}, {self.steps} steps and {self.further_steps} further ones, "
                f"batches of {self.batch_size}; expected a seed of 0 to 999, no further step or more, and at least one "
                "of the others"
            )

    def told(self) -> dict[str, Any]:
        """Return what a file says of it: of a second cycle only where there is one, as files from before it do."""
        fields = asdict(self)
        if not self.further_steps:
            del fields["further_steps"], fields["further_rate"]
        return fields

    @property
    def all_steps(self) -> int:
        """Those of both cycles."""
        return self.steps + self.further_steps

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, 0 to `all_steps` - 1; a function of nothing else, so a run can resume."""
        if step >= self.steps:
            return self._cycle(step - self.steps, self.further_steps, self.further_rate)
        return self._cycle(step, self.steps, self.learning_rate)

    def _cycle(self, step: int, steps: int, highest: float) -> float:
        rising = max(self.warm_up * steps, 1e-9)
        at = step + 0.5
        if at < rising:
            share = at / rising
            if self.schedule == "cosine":
                return highest * share
            return highest * (0.04 + 0.96 * (1 - math.cos(math.pi * share)) / 2)
        share = (at - rising) / max(steps - rising, 1e-9)
        return highest * (1 + math.cos(math.pi * share)) / 2


__all__ = ["Recipe"]
