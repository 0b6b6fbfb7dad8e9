"""DDRNet and P2AT, trained on pictures of the street.

Losses, in which rare classes weigh more; the final heads also learn their IoU as such (losses.soft_jaccard)
  DDRNet  hard cross entropy of the final head, and 0.4 times that of the auxiliary head (paper, section 4.3).
  P2AT    hard cross entropy of the final head, 0.4 times that of the auxiliary head at stride 8, and 0.4 times the
          cross entropy at the boundaries of classes of the auxiliary head at stride 4. The released loss calls that
          head's output a boundary map, while it is a second head of all classes: so it is taught the pixels at
          boundaries, and the classes there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.evaluation.message_scores import canonical
from perception.evaluation.segmentation import Confusion
from perception.networks.card import Card, find_card
from perception.networks.ddrnet import DDRNet
from perception.networks.load import build_network
from perception.networks.p2at import P2AT
from perception.ops.image import Letterbox, Normalization
from perception.training.losses import boundary_cross_entropy, hard_cross_entropy, rare_class_weights, soft_jaccard
from perception.training.pictures import PICTURES, Augmentation, Example, TrainingPictures, street_pictures
from perception.training.precision import convolutions
from perception.training.recipe import Recipe
from perception.training.world import VALIDATION_SEEDS, Samples, world_rig

DDRNET_RECIPE = Recipe(
    card="ddrnet_compact", seed=0, steps=12000, batch_size=6, learning_rate=4e-3, warm_up=0.15, weight_decay=0.02,
    average_decay=0.99, further_steps=4000, further_rate=2e-3,
)  # fmt: skip
P2AT_RECIPE = Recipe(
    card="p2at_compact", seed=0, steps=7000, batch_size=6, learning_rate=3e-3, warm_up=0.15, weight_decay=0.02,
    average_decay=0.99, further_steps=1500, further_rate=1.5e-3,
)  # fmt: skip
AUXILIARY = 0.4
WORLDS, FURTHER_WORLDS = 640, 4000
"""In the first cycle, and in the second."""
WHOLE = 2
"""Whole pictures in a step."""
VALIDATION_WORLDS = 8


Loss = Callable[[nn.Module, Example, Tensor], tuple[Tensor, Mapping[str, Tensor]]]
"""(network, batch, weight of each class) -> what is minimised, and its parts."""


@dataclass(frozen=True)
class Lesson:
    """What a stretch of a training shows, and what it asks for.

    Attributes:
        first: the step that it begins with.
        augmentation: of each picture.
        batch_size: pictures in a step.
        worlds: that the pictures are of.
        loss: what is minimised.
    """

    first: int
    augmentation: Augmentation
    batch_size: int
    worlds: int
    loss: Loss


@dataclass(frozen=True)
class Lectured:
    """A batch, normalised, and the loss of the lesson that it belongs to."""

    example: Example
    loss: Loss


class SegmentationTask:
    """Pictures of the street to a class per pixel, in lessons that follow each other."""

    def __init__(
        self, network: nn.Module, recipe: Recipe, samples: Samples, lessons: Sequence[Lesson], device: torch.device,
        validation_worlds: int = VALIDATION_WORLDS,
    ) -> None:  # fmt: skip
        self.network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.card, self.recipe, self.samples, self.device = find_card(recipe.card), recipe, samples, device
        self.lessons, self.pictures = lessons, TrainingPictures(samples, recipe.seed)
        self.validation_worlds = validation_worlds
        self._mean = torch.tensor(self.card.image.mean)[:, None, None]
        self._std = torch.tensor(self.card.image.std)[:, None, None]

    def batch(self, step: int) -> Lectured:
        lesson = [one for one in self.lessons if one.first <= step][-1]
        drawn = self.pictures.batch(step, lesson.batch_size, lesson.worlds, lesson.augmentation)
        image = ((drawn.image - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        return Lectured(Example(image.to(self.device), drawn.labels.to(self.device)), lesson.loss)

    def loss(self, batch: Lectured) -> tuple[Tensor, Mapping[str, Tensor]]:
        with convolutions(self.device):  # the convolutions; losses are in float32
            return batch.loss(self.network, batch.example, self._weight)

    @functools.cached_property
    def _weight(self) -> Tensor:
        return rare_class_weights(self.pictures.class_counts(len(self.card.classes))).to(self.device)

    def evaluate(self) -> dict[str, float]:
        """Return mIoU and the IoU of each identity that occurs, over the pictures of the validation worlds."""
        names = [canonical(info.identity) for info in self.card.classes]
        identities = list(dict.fromkeys(names))
        of_class = np.array([identities.index(name) for name in names], np.uint8)
        counts = Confusion(len(identities))
        for seed in VALIDATION_SEEDS[: self.validation_worlds]:
            for index in range(PICTURES):
                sample = self.samples.sample(seed, index)
                truth, known = sample["label"], sample["label"] < len(of_class)
                answer = of_class[self._segmented(sample["rgb"])]
                counts.add(np.where(known, of_class[np.where(known, truth, 0)], counts.ignored), answer)
        scores = counts.scores(counts.true_classes)
        by_class = {f"IoU {identities[k]}": float(scores.iou[k]) for k in counts.true_classes}
        return {"mIoU": scores.mean_iou, "classes": float(len(counts.true_classes)), **by_class}

    @torch.no_grad()
    def _segmented(self, rgb: Any) -> Any:
        """Return the class of each pixel, the way of the node that runs the network."""
        view = Letterbox.of(rgb.shape[:2], self.card.image.size)
        image = view.apply(rgb, Normalization(self.card.image.mean, self.card.image.std)).to(self.device)
        logits = self.network(image).float().cpu().numpy()
        align_corners: bool = cast("Any", self.network).align_corners
        return view.segmented(logits[0], align_corners, confidence=False, entropy=False).label


def ddrnet_loss(network: nn.Module, batch: Example, weight: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return the loss of DDRNet, and its parts."""
    final, auxiliary = (logits.float() for logits in cast("DDRNet", network).with_auxiliary(batch.image))
    main, overlap = hard_cross_entropy(final, batch.labels, weight), soft_jaccard(final, batch.labels)
    early = hard_cross_entropy(auxiliary, _labels_of(auxiliary, batch), weight)
    return main + overlap + AUXILIARY * early, {"final": main, "overlap": overlap, "auxiliary": early}


def p2at_loss(network: nn.Module, batch: Example, weight: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return the loss of P2AT, and its parts."""
    final, at8, at4 = (logits.float() for logits in cast("P2AT", network).with_auxiliary(batch.image))
    main, overlap = hard_cross_entropy(final, batch.labels, weight), soft_jaccard(final, batch.labels)
    early = hard_cross_entropy(at8, _labels_of(at8, batch), weight)
    boundary = boundary_cross_entropy(at4, _labels_of(at4, batch), weight)
    parts = {"final": main, "overlap": overlap, "auxiliary": early, "boundary": boundary}
    return main + overlap + AUXILIARY * (early + boundary), parts


def final_loss(network: nn.Module, batch: Example, weight: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return the loss of what the network answers in the end, and its parts.

    The weights that let a network see what is rare let it call rare what is beside it, too: in the second cycle their
    roots weigh.
    """
    final = network(batch.image).float()
    main, overlap = hard_cross_entropy(final, batch.labels, weight.sqrt()), soft_jaccard(final, batch.labels)
    return main + overlap, {"final": main, "overlap": overlap}


def ddrnet_task(recipe: Recipe, world: str, device: torch.device) -> SegmentationTask:
    """Return the task of the bundled DDRNet: what sharpens its logits learns in the second cycle."""
    torch.manual_seed(recipe.seed)
    network = build_network(_with(find_card(recipe.card), auxiliary_head=True), DDRNet)
    crops = Augmentation((240, 400), (120, 200), (1.25, 3.0))
    whole = Augmentation((480, 800), (240, 400), (2.5, 2.5))
    return SegmentationTask(network, recipe, street_samples(world), _lessons(recipe, crops, whole, ddrnet_loss), device)


def p2at_task(recipe: Recipe, world: str, device: torch.device) -> SegmentationTask:
    """Return the task of the bundled P2AT."""
    torch.manual_seed(recipe.seed)
    network = build_network(_with(find_card(recipe.card), auxiliary_heads=True), P2AT)
    crops = Augmentation((192, 320), (96, 160), (0.9, 2.8))
    whole = Augmentation((384, 640), (192, 320), (2.0, 2.0))
    return SegmentationTask(network, recipe, street_samples(world), _lessons(recipe, crops, whole, p2at_loss), device)


def _lessons(recipe: Recipe, crops: Augmentation, whole: Augmentation, loss: Loss) -> list[Lesson]:
    """Return crops for half of the steps, then whole pictures, as the node sees them, and in the second cycle too.

    Crops show what is small often and are cheap, but no crop has the surroundings by which a wall of pixels is known
    to be a truck, and pooling over a whole map sees other maps than those of a picture.
    """
    return [
        Lesson(0, crops, recipe.batch_size, WORLDS, loss),
        Lesson((recipe.steps + 1) // 2, whole, WHOLE, WORLDS, loss),
        Lesson(recipe.steps, whole, WHOLE, FURTHER_WORLDS, final_loss),
    ]


def street_samples(world: str) -> Samples:
    """Return the pictures of the street of a rig."""
    return Samples(world_rig(world), "street", street_pictures)


def _with(card: Card, **configuration: bool) -> Card:
    return card.model_copy(update={"configuration": {**card.configuration, **configuration}})


def _labels_of(logits: Tensor, batch: Example) -> Tensor:
    """Return the labels at the centres of the cells of logits (B, K, h, w): (B, h, w)."""
    size = (logits.shape[2], logits.shape[3])
    return F.interpolate(batch.labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()
