"""DSVT and FlatFormer learn to detect in LiDAR sweeps of the synthetic world.

Papers     Wang et al., "DSVT", CVPR 2023; Liu et al., "FlatFormer", CVPR 2023, both trained as a CenterPoint:
           center_targets.py, center_losses.py
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.errors import WeightsError
from perception.geometry.rig import Rig
from perception.networks.card import Card, PointsInput
from perception.networks.dsvt import DSVT
from perception.networks.flatformer import FlatFormer
from perception.networks.layers.boxes import Boxes3D
from perception.networks.layers.center_head import BevCells
from perception.networks.part import run_in_torch
from perception.training.center_losses import CenterLossWeights, center_losses
from perception.training.center_targets import DSVT_HEAD, FLATFORMER_HEAD, HeadConvention, center_targets
from perception.training.sweeps import CLASSES, Augmentation, Beams, LabelledSweep, augmented, simulated_sweep

Detector: TypeAlias = DSVT | FlatFormer


class LidarDetection:
    """What one network learns: from which sweeps, by which losses.

    Args:
        network: of a center head.
        card: of the network; its frame is `base_link`, its classes are those of the world's objects.
        rig: with the LiDAR.
        augmentation: of the sweeps.
        weights: of the losses.

    Raises:
        WeightsError: a card of another frame or of other classes.
    """

    def __init__(
        self, network: Detector, card: Card, rig: Rig, augmentation: Augmentation | None = None,
        weights: CenterLossWeights | None = None,
    ) -> None:  # fmt: skip
        check_card(card)
        self.network, self.card, self.beams = network, card, Beams.of_rig(rig)
        self.augmentation, self.weights = augmentation or Augmentation(), weights or CenterLossWeights()
        self.head, self.cells, self.size = head_of(network)
        self.run = run_in_torch(network.parts())  # makes its modules ready to run: training() comes after it
        self._simulated = lru_cache(maxsize=8)(lambda seed: simulated_sweep(rig, seed))

    def sweep(self, seed: int) -> LabelledSweep:
        """Return the sweep of a seed to learn from; objects of the next seed's are pasted into it."""
        random = np.random.default_rng((seed, 13))
        return augmented(self._simulated(seed), self._simulated(seed + 1), self.augmentation, random, self.beams)

    def losses(self, sweeps: Sequence[LabelledSweep]) -> dict[str, Tensor]:
        """Return the losses of a batch by name; their sum is what is learned."""
        maps = self.network.maps(self.points(sweeps), len(sweeps), self.run)
        targets = center_targets(sweeps, len(self.card.classes), self.size, self.cells)
        return center_losses(maps, targets, self.head, self.cells, self.weights)

    def points(self, sweeps: Sequence[LabelledSweep]) -> Tensor:
        """Return the points of a batch (N, 1 + 3 + F): sample, x, y, z and the features of the card."""
        rows = [torch.from_numpy(card_points(sweep.points, self.card.points)) for sweep in sweeps]
        if isinstance(self.network, FlatFormer):
            rows = [self.network.in_range(points) for points in rows]
        return torch.cat(
            [torch.cat((points.new_full((len(points), 1), k), points), 1) for k, points in enumerate(rows)]
        )

    def detect(self, sweep: LabelledSweep) -> Boxes3D:
        """Return what the network, in evaluation mode, finds in a sweep."""
        with torch.inference_mode():
            return self.network.detect(torch.from_numpy(card_points(sweep.points, self.card.points)), self.run)


def check_card(card: Card) -> None:
    """Raise WeightsError unless the card is of the world's classes and a network in `base_link`."""
    wanted = card.points
    if wanted.axes != "x forward, y left, z up" or wanted.origin == "sensor" or wanted.origin_height_m != 0:
        raise WeightsError(f"card '{card.name}': its frame is not base_link; sweeps to learn from are in base_link")
    if card.class_names != CLASSES:
        raise WeightsError(
            f"card '{card.name}' has classes {', '.join(card.class_names)}; expected {', '.join(CLASSES)}"
        )


def head_of(network: Detector) -> tuple[HeadConvention, BevCells, tuple[int, int]]:
    """Return how the head writes boxes, where its cells are, and the size (H, W) of its maps."""
    config = network.config
    if isinstance(network, FlatFormer):
        nx, ny = network.config.grid
        return FLATFORMER_HEAD, BevCells(network.config.minimum_m[:2], network.config.pillar_m), (ny, nx)
    cells = network.cells
    columns, rows = (
        round(count * side / cell)
        for count, side, cell in zip(config.grid[:2], network.config.voxel_m[:2], cells.cell_m, strict=True)
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


__all__ = ["Detector", "LidarDetection", "card_points", "check_card", "head_of"]
