"""Pictures with the class of every pixel, and what is done to them so that few worlds teach much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from perception.geometry.rig import Rig
from perception.simulation.world import is_in_cabin
from perception.training.losses import IGNORED
from perception.training.world import Sample, Samples, training_seed, world_of

SECOND_NS = 1_000_000_000
PICTURES = 8
"""In each world."""
SMALL = 0.02
"""A class is small in a picture where it has less than this share of it."""


def street_pictures(rig: Rig, seed: int) -> Iterator[Sample]:
    """Yield `rgb` (H, W, 3) and `label` (H, W) of the cameras that look at the street, at instants of a minute."""
    world, random = world_of(seed), np.random.default_rng((seed, 42))
    cameras = [s.name for s in rig.sensors.values() if s.kind == "camera" and not is_in_cabin(rig, s)]
    for index in range(PICTURES):
        t_ns = int((index + random.random()) * 60 / PICTURES * SECOND_NS)
        picture = world.camera(rig, cameras[(index + seed) % len(cameras)], t_ns)
        yield {"rgb": picture.rgb, "label": picture.semantic}


@dataclass(frozen=True)
class Augmentation:
    """How a training picture is cut and coloured.

    Attributes:
        crop: height and width of the network's input in training. Half of the crops lie anywhere; the others around a
            pixel of a class that is drawn from the small ones in the picture.
        label: height and width of the labels of a crop.
        scale: least and most that a picture is enlarged; the network will see it enlarged by its input over its size.
    """

    crop: tuple[int, int]
    label: tuple[int, int]
    scale: tuple[float, float]

    def apply(self, rgb: NDArray[np.uint8], label: NDArray[np.uint8], random: np.random.Generator) -> Example:
        """Cut, flip and colour one picture: float input (3, *crop) in 0 to 1, labels (*label) int64."""
        scale = float(np.exp(random.uniform(*np.log(self.scale))))
        rows, columns = (min(round(side / scale), most) for side, most in zip(self.crop, label.shape, strict=True))
        top, left = _corner(label, (rows, columns), random)
        part = np.s_[top : top + rows, left : left + columns]
        image = torch.from_numpy(rgb[part].astype(np.float32)).permute(2, 0, 1)[None] / 255
        image = F.interpolate(image, size=self.crop, mode="bilinear", antialias=True)[0]
        kinds = torch.from_numpy(label[part].astype(np.float32))[None, None]
        labels = F.interpolate(kinds, self.label, mode="nearest-exact")[0, 0].long()
        if random.random() < 0.5:
            image, labels = image.flip(2), labels.flip(1)
        return Example(_coloured(image, random), labels)


@dataclass(frozen=True)
class Example:
    """A picture as a network takes it, before normalisation, with its labels."""

    image: Tensor
    labels: Tensor


def _corner(label: NDArray[np.uint8], size: tuple[int, int], random: np.random.Generator) -> tuple[int, int]:
    """Return top and left of a crop of so many rows and columns."""
    free = [whole - side for whole, side in zip(label.shape, size, strict=True)]
    kinds, counts = np.unique(label[label != IGNORED], return_counts=True)
    small = counts < SMALL * label.size
    kinds = kinds[small] if small.any() else kinds
    if not len(kinds) or random.random() < 0.5:
        return int(random.integers(free[0] + 1)), int(random.integers(free[1] + 1))
    places = np.flatnonzero(label == random.choice(kinds))
    row, column = divmod(int(random.choice(places)), label.shape[1])
    top, left = (
        min(max(at - int(random.integers(side)), 0), most)
        for at, side, most in zip((row, column), size, free, strict=True)
    )
    return top, left


def _coloured(image: Tensor, random: np.random.Generator) -> Tensor:
    """Change brightness, contrast, saturation and the balance of colours."""
    gain = torch.from_numpy(random.uniform(0.75, 1.3) * random.uniform(0.93, 1.07, 3)).float()
    image = image * gain[:, None, None]
    mean, grey = image.mean(), image.mean(0, keepdim=True)
    image = mean + float(random.uniform(0.75, 1.3)) * (image - mean)
    image = grey + float(random.uniform(0.6, 1.4)) * (image - grey)
    return image.clamp(0.0, 1.0)


class TrainingPictures:
    """Batches of augmented pictures, each a function of (seed, step).

    Args:
        samples: of `street_pictures`.
        seed: of the recipe.
    """

    def __init__(self, samples: Samples, seed: int) -> None:
        self.samples, self.seed = samples, seed

    def batch(self, step: int, size: int, worlds: int, augmentation: Augmentation) -> Example:
        """Return images (size, 3, *crop) and labels (size, *label) of the first `worlds`, drawn as they are needed."""
        random = np.random.default_rng((self.seed, step, 43))
        examples = []
        for _ in range(size):
            world, index = int(random.integers(worlds)), int(random.integers(PICTURES))
            sample = self.samples.sample(training_seed(self.seed, world), index)
            examples.append(augmentation.apply(sample["rgb"], sample["label"], random))
        return Example(torch.stack([e.image for e in examples]), torch.stack([e.labels for e in examples]))

    def class_counts(self, classes: int, worlds: int = 40) -> Tensor:
        """Return (classes,) pixels of each class in the first worlds."""
        counts = np.zeros(256, np.int64)
        for number in range(worlds):
            for index in range(PICTURES):
                label = self.samples.sample(training_seed(self.seed, number), index)["label"]
                counts += np.bincount(label.ravel(), minlength=256)
        return torch.from_numpy(counts[:classes]).float()


__all__ = ["PICTURES", "Augmentation", "Example", "TrainingPictures", "street_pictures"]
