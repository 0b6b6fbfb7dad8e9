"""How a network is trained: every number that the trained file depends on, beside the world and the code."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from perception.errors import UserError


@dataclass(frozen=True)
class Cycle:
    """Steps in which the learning rate rises and falls once.

    Attributes:
        first: number of its first step.
        steps: how many.
        highest_rate: the learning rate between rising and falling.
        still_norms: batch norms take the statistics that they have.
    """

    first: int
    steps: int
    highest_rate: float
    still_norms: bool = False


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
        still_steps: of a last cycle, in which batch norms take the statistics that they have, as they do when nothing
            is learned any more, in place of those of the step. A step of one sample has other statistics in a head of
            100 queries than all samples have together, and what such a head learned is wrong by the difference.
        still_rate: the highest learning rate of that cycle.
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
    still_steps: int = 0
    still_rate: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1000 or self.steps < 1 or self.batch_size < 1 or min(self._later_steps) < 0:
            raise UserError(
                f"recipe of {self.card}: seed {self.seed}, {self.steps} steps and {self._later_steps} in later cycles, "
                f"batches of {self.batch_size}; expected a seed of 0 to 999, no step or more in later cycles, and at "
                "least one of the others"
            )

    @property
    def _later_steps(self) -> tuple[int, int]:
        return self.further_steps, self.still_steps

    def told(self) -> dict[str, Any]:
        """Return what a file says of it: of later cycles only where there are such, as files from before them do."""
        fields = asdict(self)
        if not self.further_steps:
            del fields["further_steps"], fields["further_rate"]
        if not self.still_steps:
            del fields["still_steps"], fields["still_rate"]
        return fields

    def of_steps(self, steps: int) -> Recipe:
        """Return the recipe with so many steps in all its cycles together, each with its share of them."""
        further, still = (steps * later // self.all_steps for later in self._later_steps)
        return replace(self, steps=steps - further - still, further_steps=further, still_steps=still)

    @property
    def cycles(self) -> tuple[Cycle, ...]:
        """Return the cycles that have steps: each goes on from the weights as the file of the one before holds them."""
        still = self.steps + self.further_steps
        every = (
            Cycle(0, self.steps, self.learning_rate),
            Cycle(self.steps, self.further_steps, self.further_rate),
            Cycle(still, self.still_steps, self.still_rate, still_norms=True),
        )
        return tuple(cycle for cycle in every if cycle.steps)

    @property
    def all_steps(self) -> int:
        """Those of all cycles."""
        return self.steps + self.further_steps + self.still_steps

    def cycle_of(self, step: int) -> Cycle:
        """Return the cycle of a step, 0 to `all_steps` - 1."""
        return next(cycle for cycle in reversed(self.cycles) if step >= cycle.first)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, 0 to `all_steps` - 1; a function of nothing else, so a run can resume."""
        cycle = self.cycle_of(step)
        rising = max(self.warm_up * cycle.steps, 1e-9)
        at = step - cycle.first + 0.5
        if at < rising:
            share = at / rising
            if self.schedule == "cosine":
                return cycle.highest_rate * share
            return cycle.highest_rate * (0.04 + 0.96 * (1 - math.cos(math.pi * share)) / 2)
        share = (at - rising) / max(cycle.steps - rising, 1e-9)
        return cycle.highest_rate * (1 + math.cos(math.pi * share)) / 2


__all__ = ["Cycle", "Recipe"]
