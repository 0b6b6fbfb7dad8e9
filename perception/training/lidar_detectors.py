"""DSVT and FlatFormer learn to detect in LiDAR sweeps of the synthetic world.

Papers     Wang et al., "DSVT", CVPR 2023; Liu et al., "FlatFormer", CVPR 2023, both trained as a CenterPoint:
           center_targets.py, center_losses.py
Differs    AdamW with one cycle as both, but a step is of few sweeps, and only the compact configurations are trained;
           convolutions are computed in bfloat16 (precision.py), all else in float32
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perception.errors import WeightsError
from perception.geometry.rig import Rig
from perception.networks.card import Card, PointsInput, find_card
from perception.networks.dsvt import DSVT
from perception.networks.flatformer import FlatFormer
from perception.networks.layers.boxes import Boxes3D
from perception.networks.layers.center_head import BevCells
from perception.networks.load import build_network
from perception.networks.part import run_in_torch
from perception.training.center_losses import STARTS_AT, CenterLossWeights, center_losses
from perception.training.center_targets import DSVT_HEAD, FLATFORMER_HEAD, HeadConvention, center_targets
from perception.training.detection_scores import detection_scores
from perception.training.precision import convolutions
from perception.training.recipe import Recipe
from perception.training.sweeps import CLASSES, Augmentation, Beams, LabelledSweep, augmented, drawn
from perception.training.world import VALIDATION_SEEDS, Samples, training_seed, world_rig

Detector: TypeAlias = DSVT | FlatFormer

DSVT_RECIPE = Recipe(
    "dsvt_compact", seed=1, steps=2000, batch_size=1, learning_rate=2e-3, average_decay=0.98, warm_up=0.2
)
FLATFORMER_RECIPE = Recipe(
    "flatformer_compact", seed=1, steps=3000, batch_size=1, learning_rate=2e-3, average_decay=0.98, warm_up=0.2
)
AUGMENTATION = Augmentation(mirrored=0.0, turned_rad=0.05, scaled=0.02, pasted=8)
"""No world is seen twice, so little need be made up; none is mirrored, since the street keeps to the right."""
VALIDATED = 100
"""Sweeps, of as many worlds, that the metrics of a training are of."""


def lidar_task(recipe: Recipe, world: str, device: torch.device) -> LidarDetection:
    """Return the task of a recipe for either network; `world` names the rig."""
    card = find_card(recipe.card)
    torch.manual_seed(recipe.seed)
    network = build_network(card, nn.Module)
    assert isinstance(network, DSVT | FlatFormer)
    start(network)
    return LidarDetection(network.to(device), card, world_rig(world), recipe, device)


class LidarDetection:
    """What one network learns: from which sweeps, by which losses.

    Args:
        network: of a center head, on the device.
        card: of the network; its frame is `base_link`, its classes are those of the world's objects.
        rig: with the LiDAR.
        recipe: its seed chooses the worlds, its batch size how many make a step.
        device: where the network lies.
        augmentation: of the sweeps.
        weights: of the losses.

    Raises:
        WeightsError: a card of another frame or of other classes.
    """

    def __init__(
        self, network: Detector, card: Card, rig: Rig, recipe: Recipe, device: torch.device,
        augmentation: Augmentation | None = None, weights: CenterLossWeights | None = None,
    ) -> None:  # fmt: skip
        check_card(card)
        self.network: Detector = network
        self.card, self.recipe, self.device, self.beams = card, recipe, device, Beams.of_rig(rig)
        self.augmentation, self.weights = augmentation or AUGMENTATION, weights or CenterLossWeights()
        self.head, self.cells, self.size = head_of(network)
        training = network.training
        self._run = run_in_torch(network.parts())  # which sets the modules of parts to evaluation
        network.train(training).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        samples = Samples(rig, "deskewed_sweeps", drawn)
        self._sweep = lru_cache(maxsize=4)(lambda seed: LabelledSweep(**samples.sample(seed, 0)))

    def batch(self, step: int) -> list[LabelledSweep]:
        """Return the sweeps of a step, changed by chance; into each, objects of the next one are pasted."""
        random = np.random.default_rng((self.recipe.seed, step, 13))
        first = step * self.recipe.batch_size
        seeds = [training_seed(self.recipe.seed, first + k) for k in range(self.recipe.batch_size + 1)]
        return [
            augmented(self._sweep(seed), self._sweep(donor), self.augmentation, random, self.beams)
            for seed, donor in pairwise(seeds)
        ]

    def loss(self, batch: Sequence[LabelledSweep]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss of a batch and its parts."""
        maps = self.network.maps(self.points(batch), len(batch), self.run)
        targets = center_targets(batch, len(self.card.classes), self.size, self.cells).to(self.device)
        losses = center_losses(maps, targets, self.head, self.cells, self.weights)
        return torch.stack(list(losses.values())).sum(), losses

    def run(self, name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Run a part; in training, convolutions on maps in bfloat16 with channels last, which halves a step.

        Attention stays in float32: its gradient in bfloat16 takes ten times as long on a CPU.
        """
        if name != "bev" or not self.network.training:
            return self._run(name, inputs)
        with convolutions(self.device):
            maps = {key: value.contiguous(memory_format=torch.channels_last) for key, value in inputs.items()}
            return self._run(name, maps)

    def evaluate(self) -> dict[str, float]:
        """Return the mAP and the AP of each class in worlds that no training saw."""
        truths = [self._sweep(seed) for seed in VALIDATION_SEEDS[:VALIDATED]]
        return detection_scores(truths, [self.detect(sweep) for sweep in truths])

    def detect(self, sweep: LabelledSweep) -> Boxes3D:
        """Return what the network, in evaluation mode, finds in a sweep."""
        points = torch.from_numpy(card_points(sweep.points, self.card.points)).to(self.device)
        with torch.inference_mode():
            return self.network.detect(points, self.run)

    def points(self, sweeps: Sequence[LabelledSweep]) -> Tensor:
        """Return the points of a batch (N, 1 + 3 + F): sample, x, y, z and the features of the card."""
        rows = [torch.from_numpy(card_points(sweep.points, self.card.points)) for sweep in sweeps]
        if isinstance(self.network, FlatFormer):
            rows = [self.network.in_range(points) for points in rows]
        numbered = [torch.cat((points.new_full((len(points), 1), k), points), 1) for k, points in enumerate(rows)]
        return torch.cat(numbered).to(self.device)


def start(network: Detector) -> None:
    """Let the untrained heatmap say little everywhere, as the focal loss wants it."""
    bias = _heatmap_convolution(network).bias
    assert bias is not None
    nn.init.constant_(bias, float(np.log(STARTS_AT / (1 - STARTS_AT))))


def _heatmap_convolution(network: Detector) -> nn.Conv2d:
    if isinstance(network, FlatFormer):
        last = network.bbox_head.task_heads[0].get_submodule("heatmap")[-1]  # type: ignore[index]
    else:
        last = network.dense_head.get_submodule("heads_list.0.hm")[-1]  # type: ignore[index]
    assert isinstance(last, nn.Conv2d)
    return last


def check_card(card: Card) -> None:
    """Raise WeightsError unless the card is of the world's classes and a network in `base_link`."""
    wanted = card.points
    if wanted.axes != "x forward, y left, z up" or wanted.origin == "sensor" or wanted.origin_height_m != 0:
        raise WeightsError(f"card '{card.name}': its frame is not base_link; sweeps to learn from are in base_link")
    if card.class_names != CLASSES:
        found, expected = ", ".join(card.class_names), ", ".join(CLASSES)
        raise WeightsError(f"card '{card.name}' has classes {found}; expected {expected}")


def head_of(network: Detector) -> tuple[HeadConvention, BevCells, tuple[int, int]]:
    """Return how the head writes boxes, where its cells are, and the size (H, W) of its maps."""
    if isinstance(network, FlatFormer):
        nx, ny = network.config.grid
        return FLATFORMER_HEAD, BevCells(network.config.minimum_m[:2], network.config.pillar_m), (ny, nx)
    config, cells = network.config, network.cells
    columns, rows = (
        round(count * side / cell)
        for count, side, cell in zip(config.grid[:2], config.voxel_m[:2], cells.cell_m, strict=True)
    )
    return DSVT_HEAD, cells, (rows, columns)


def card_points(points: NDArray[np.float32], wanted: PointsInput) -> NDArray[np.float32]:
    """Return points (N, 3 + F) with the features of a card from points (N, 4) with intensity 0 to 1."""
    scales = {"unit": points[:, 3], "byte": points[:, 3] * 255, "tanh": np.tanh(points[:, 3])}
    columns = [
        scales[feature.scale] if feature.name == "intensity" else np.full(len(points), feature.fill, np.float32)
        for feature in wanted.features
    ]
    return np.column_stack((points[:, :3], *columns)).astype(np.float32)


__all__ = ["DSVT_RECIPE", "FLATFORMER_RECIPE", "Detector", "LidarDetection", "card_points", "head_of", "lidar_task"]
