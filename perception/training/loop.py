"""The training loop: one for all networks, plain, deterministic and resumable.

A `Task` says what is learned, a `Recipe` how; `train` turns both into a weights file. A step is a function of the
weights before it, the recipe and its number alone: the data of a step are drawn from (seed, step), and so is what is
random inside the network. A run that is cut off and resumed therefore ends in the bytes of one that was not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from perception.errors import PerceptionError, UserError
from perception.networks.card import find_card
from perception.networks.weights import read_weights, save_weights
from perception.training.average import MovingAverage
from perception.training.file import rounded, write_trained
from perception.training.progress import Progress
from perception.training.recipe import Cycle, Recipe

BatchT = TypeVar("BatchT")


class Task(Protocol[BatchT]):
    """What is learned. Its network has its first weights from the recipe's seed and lies on the device."""

    @property
    def network(self) -> nn.Module:
        """The network as it is trained; it may hold heads that the card's configuration leaves out."""

    def batch(self, step: int) -> BatchT:
        """Return the data of a step on the device: equal for equal (seed, step)."""

    def loss(self, batch: BatchT) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return what is minimised, and its parts by name for the progress line."""

    def evaluate(self) -> dict[str, float]:
        """Return the metrics of the network, which is in evaluation mode, in worlds of `VALIDATION_SEEDS`."""


@dataclass(frozen=True)
class Trained:
    """A weights file and what it reached."""

    path: Path
    metrics: Mapping[str, float]


def train(
    task: Task[Any],
    recipe: Recipe,
    out: Path,
    *,
    provenance: Mapping[str, object],
    resume: bool = False,
    checkpoint_every: int = 200,
    threads: int = 1,
    progress: Progress | None = None,
) -> Trained:
    """Train a task and write its weights in float16, with its card and where they came from.

    Args:
        task: what is learned.
        recipe: how.
        out: the file to write. Beside it lies `<name>.checkpoint.safetensors` while the run goes on.
        provenance: what the file says beside the recipe and the metrics: the command, the world and its version.
        resume: go on from the checkpoint; without one, from the beginning.
        checkpoint_every: steps from one checkpoint to the next.
        threads: of torch; another number changes the last bits.
        progress: told of every step.

    Raises:
        UserError: the checkpoint is of another recipe.
        PerceptionError: the loss is no number any more, or the file would be too large.
    """
    checkpoint = out.with_name(f"{out.stem}.checkpoint.safetensors")
    with _deterministic(recipe.seed, threads):
        run = _Run(task, recipe)
        first = run.restore(checkpoint) if resume and checkpoint.is_file() else 0
        for step in range(first, recipe.all_steps):
            cycle = recipe.cycle_of(step)
            if step == cycle.first > 0:
                run.begin_again(cycle)
            said = run.step(step)
            if progress is not None:
                progress.step(step + 1, recipe.all_steps, said)
            if (step + 1) % checkpoint_every == 0 and step + 1 < recipe.all_steps:
                run.store(checkpoint, step + 1)
        run.finish()
        metrics = task.evaluate()
    write_trained(out, task.network, find_card(recipe.card), recipe, metrics, provenance)
    checkpoint.unlink(missing_ok=True)
    return Trained(out, metrics)


class _Run:
    """The state of a training between two steps."""

    def __init__(self, task: Task[Any], recipe: Recipe) -> None:
        self.task, self.recipe = task, recipe
        self.network = task.network
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self._begin()

    def _begin(self) -> None:
        """Remember nothing but the weights."""
        self.network.train()
        matrices = [p for p in self.parameters if p.ndim > 1]
        vectors = [p for p in self.parameters if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": self.recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=self.recipe.learning_rate)
        decay = self.recipe.average_decay
        self.average = MovingAverage(self.network, decay) if decay else None

    def begin_again(self, cycle: Cycle) -> None:
        """Start another cycle from the weights as a file of the one before would hold them."""
        self.finish()
        self._begin()
        self._still_norms(cycle)

    def _still_norms(self, cycle: Cycle) -> None:
        """Let batch norms take the statistics that they have, if the cycle wants it."""
        if cycle.still_norms:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def step(self, step: int) -> dict[str, float]:
        """Take one step; return the loss, its parts and the learning rate."""
        rate = self.recipe.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self.task.batch(step)
        torch.manual_seed(self.recipe.seed * 1_000_003 + step)  # drop-out and the like
        self.optimizer.zero_grad(set_to_none=True)
        loss, parts = self.task.loss(batch)
        said = {name: float(part.detach()) for name, part in {"loss": loss, **parts}.items()}
        if not math.isfinite(said["loss"]):
            named = ", ".join(f"{name} {value:g}" for name, value in said.items())
            raise PerceptionError(
                f"training {self.recipe.card}: step {step} has no finite loss ({named}); a lower "
                "learning rate or clip_norm keeps it finite"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.network, step - self.recipe.cycle_of(step).first)
        return {**said, "rate": rate}

    def finish(self) -> None:
        """Leave the network as the file will hold it, in evaluation mode: averaged, and rounded to float16."""
        if self.average is not None:
            self.average.copy_to(self.network)
        self.network.load_state_dict(rounded(self.network.state_dict(), self.recipe.card))
        self.network.eval()

    def store(self, path: Path, step: int) -> None:
        """Write everything that the next step depends on, all of it or nothing."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": value for name, value in self.average.state.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        save_weights(path, {k: v.clone() for k, v in tensors.items()}, {"step": step, "recipe": asdict(self.recipe)})

    def restore(self, path: Path) -> int:
        """Read what `store` wrote; return the number of the next step."""
        tensors, metadata = read_weights(path)
        if metadata.get("recipe") != asdict(self.recipe):
            raise UserError(f"{path}: the checkpoint of another recipe; resume with its settings, or remove it")

        def under(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        self.network.load_state_dict(under("network."))
        if self.average is not None:
            self.average.load(under("average."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in under("optimizer.").items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        step = int(metadata["step"])
        self._still_norms(self.recipe.cycle_of(step))
        return step


@contextmanager
def _deterministic(seed: int, threads: int) -> Iterator[None]:
    """Make torch repeat itself, and leave it as it was.

    On a GPU some gradients have no deterministic form (bilinear resizing): torch warns there and goes on.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a tenth of the time
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.set_rng_state(before[2])


MakeTask = Callable[[Recipe, str, torch.device], Task[Any]]
"""(recipe, world, device) -> the task; `world` is the name or path of the rig that is simulated."""

__all__ = ["MakeTask", "Task", "Trained", "train"]
