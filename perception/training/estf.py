"""Train ESTF to tell what the person in the cabin does, from the events of the camera on the cabin's wall.

Loss       cross entropy, as HARDVS trains it
Differs    AdamW in place of SGD; the stem is not pre-trained; and a run of consecutive images is embedded once, though
           each of its images is a member of up to eight clips
Truth      what the person does at the end of a clip. Where the action has just changed, the clip shows both: so the
           network learns to believe its newest images
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from perception.evaluation import recognition
from perception.networks.card import find_card
from perception.networks.estf import ESTF
from perception.networks.load import build_network
from perception.training.event_clips import CLASSES, STEPS, EventAugmentation, cabin_events, images_of, run_of
from perception.training.precision import convolutions
from perception.training.recipe import Recipe
from perception.training.world import VALIDATION_SEEDS, Samples, training_seed, world_rig

ESTF_RECIPE = Recipe(
    card="estf_cabin", seed=0, steps=1200, batch_size=8, learning_rate=2e-3, warm_up=0.15, weight_decay=0.02,
    average_decay=0.99, further_steps=3000, further_rate=1.5e-3,
)  # fmt: skip
WORLDS = 192
VALIDATION_WORLDS = 8
RUN = 15
"""Images that follow each other in a run: eight clips of eight."""
CHANGING = 0.5
"""Share of the runs that are chosen so that the action changes while their clips end: there the errors are."""


@dataclass(frozen=True, eq=False)
class Runs:
    """Images (B, L, 3, S, S) as the network reads them, and (B, C) what is done at the end of each clip in them."""

    images: Tensor
    action: Tensor


class ActionTask:
    """Event images to actions.

    Args:
        network: with as many classes as there are actions.
        recipe: `batch_size` is the number of runs.
        samples: of `cabin_events`.
        device: where the network learns.
        worlds: how many worlds there are; more are drawn only as the steps need them.
        augmentation: of each run.
    """

    def __init__(
        self, network: ESTF, recipe: Recipe, samples: Samples, device: torch.device, worlds: int = WORLDS,
        augmentation: EventAugmentation | None = None,
    ) -> None:  # fmt: skip
        self.network: ESTF = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe, self.samples, self.device, self.worlds = recipe, samples, device, worlds
        self.augmentation = augmentation or EventAugmentation()

    def batch(self, step: int) -> Runs:
        random = np.random.default_rng((self.recipe.seed, step, 61))
        images, action = [], []
        for _ in range(self.recipe.batch_size):
            sample = self.samples.sample(training_seed(self.recipe.seed, int(random.integers(self.worlds))), 0)
            run = run_of(sample, run_begin(sample["action"], self.network.config.clip_len, random), RUN)
            images.append(self.network.prepared_images(images_of(self.augmentation.apply(run.marks, random))))
            action.append(torch.from_numpy(run.action[self.network.config.clip_len - 1 :]))
        return Runs(torch.stack(images).to(self.device), torch.stack(action).to(self.device))

    def loss(self, batch: Runs) -> tuple[Tensor, Mapping[str, Tensor]]:
        with convolutions(self.device):
            logits = run_logits(self.network, batch.images).float()
        right = (logits.argmax(-1) == batch.action).float().mean()
        return clip_loss(logits, batch.action), {"top1": right}

    def evaluate(self) -> dict[str, float]:
        """Return top-1 and top-5 over every clip of the validation worlds, as the node sees them.

        `settled` counts only clips that show one action, none that began after their first image did.
        """
        truth: dict[str, str] = {}
        answers: dict[str, list[str]] = {}
        settled: list[bool] = []
        length = self.network.config.clip_len
        for seed in VALIDATION_SEEDS[:VALIDATION_WORLDS]:
            run = run_of(self.samples.sample(seed, 0), 0, len(self.samples.sample(seed, 0)["action"]) // STEPS)
            ranks = self._ranks(run.marks)
            for place, ranked in enumerate(ranks):
                clip = f"{seed}.{place}"
                truth[clip] = CLASSES[run.action[place + length - 1]]
                answers[clip] = [CLASSES[k] for k in ranked]
                settled.append(len(set(run.action[max(place - 1, 0) : place + length].tolist())) == 1)
        scores = recognition.evaluate(truth, answers)
        kept = [clip for clip, whole in zip(truth, settled, strict=True) if whole]
        pure = recognition.evaluate({clip: truth[clip] for clip in kept}, answers)
        by_class = {f"top1 {name}": value for name, value in scores.by_class.items()}
        return {"top1": scores.top1, "top5": scores.top5, "top1 settled": pure.top1, "clips": len(truth), **by_class}

    @torch.no_grad()
    def _ranks(self, marks: np.ndarray) -> np.ndarray:
        """Return the classes of every clip, the likeliest first, (C, K)."""
        tokens = []
        for part in np.array_split(marks, max(len(marks) // 32, 1)):
            image = self.network.prepared_images(images_of(part).to(self.device))
            tokens.append(self.network.backbone.image_tokens(image))
        temporal, spatial = (torch.cat(found)[None] for found in zip(*tokens, strict=True))
        return np.asarray(clip_logits(self.network, temporal, spatial)[0].argsort(dim=1, descending=True).cpu())


def run_begin(action: NDArray[np.int64], clip_len: int, random: np.random.Generator, changing: float = CHANGING) -> int:
    """Return the step at which a run begins: anywhere, or, for a share of them, so that the action changes in it.

    Args:
        action: (T,) what is done at the end of each step.
        clip_len: images of a clip; the change lies after the first clip's last image but one.
        random: what chooses.
        changing: the share.
    """
    last = len(action) - RUN * STEPS
    changes = np.flatnonzero(np.diff(action)) + 1
    if not len(changes) or random.random() >= changing:
        return int(random.integers(last + 1))
    place = int(random.choice(changes)) - int(random.integers((clip_len - 1) * STEPS, RUN * STEPS))
    return min(max(place, 0), last)


def run_logits(network: ESTF, images: Tensor) -> Tensor:
    """Map images (B, L, 3, S, S) of consecutive windows to the logits of each clip in them, (B, L - T + 1, K)."""
    temporal, spatial = network.backbone.image_tokens(images.flatten(0, 1))
    batch, length = images.shape[:2]
    temporal, spatial = (tokens.reshape(batch, length, *tokens.shape[1:]) for tokens in (temporal, spatial))
    return clip_logits(network, temporal, spatial)


def clip_logits(network: ESTF, temporal: Tensor, spatial: Tensor) -> Tensor:
    """Map the tokens of images, (B, L, D) and (B, L, G * G, D), to the logits of each clip, (B, L - T + 1, K)."""
    length = network.config.clip_len
    clips = temporal.unfold(1, length, 1).movedim(-1, 2)  # (B, C, T, D)
    cells = spatial.unfold(1, length, 1).movedim(-1, 2)  # (B, C, T, G * G, D)
    _, logits = network.classify(clips.flatten(0, 1), cells.flatten(0, 1))
    return logits.reshape(*clips.shape[:2], -1)


def clip_loss(logits: Tensor, action: Tensor) -> Tensor:
    """Return the mean cross entropy of clips (B, C, K) against what is done at the end of each, (B, C)."""
    return F.cross_entropy(logits.flatten(0, 1), action.flatten())


def estf_task(recipe: Recipe, world: str, device: torch.device) -> ActionTask:
    """Return the task of the bundled ESTF."""
    torch.manual_seed(recipe.seed)
    network = build_network(find_card(recipe.card), ESTF)
    return ActionTask(network, recipe, Samples(world_rig(world), "cabin_events", cabin_events), device)


__all__ = ["ESTF_RECIPE", "ActionTask", "clip_logits", "clip_loss", "estf_task", "run_begin", "run_logits"]
