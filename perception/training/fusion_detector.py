"""DeepInteraction++ learns to detect with surround cameras and a LiDAR in the synthetic world.

Paper      Yang et al., "DeepInteraction++", TPAMI 2025; its losses are TransFusion's: query_losses.py
Differs    as published, the LiDAR branch learns first and the fusion after it, but in one schedule; rare objects of
           other instants are pasted, and cameras are left out by chance, so that the network also learns to do
           without one, or without any: surround.py
Frames     the card's: origin in the LiDAR, x right, y forward, z up
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perception.errors import WeightsError
from perception.geometry.rig import Rig
from perception.geometry.transforms import Transform
from perception.networks.card import Card, find_card
from perception.networks.deepinteraction import DeepInteraction
from perception.networks.layers.boxes import Boxes3D
from perception.networks.layers.interaction_decoder import Decoded
from perception.networks.load import build_network
from perception.networks.part import run_in_torch
from perception.ops.host_sampling import as_learned
from perception.ops.image import Normalization, normalised
from perception.ops.pinhole import pinhole_view
from perception.training.center_losses import STARTS_AT
from perception.training.detection_scores import detection_scores
from perception.training.precision import convolutions
from perception.training.query_losses import query_losses
from perception.training.recipe import Recipe
from perception.training.surround import SurroundDrawing, drawing_of, drawn_surround, pasted, street_cameras
from perception.training.sweeps import (
    CLASSES,
    Augmentation,
    Beams,
    LabelledSweep,
    augmented,
    drawn,
    lidar_of,
    upright,
)
from perception.training.world import VALIDATION_SEEDS, Samples, training_seed, world_rig

VALIDATED = 100
"""Samples, of as many worlds, that the metrics of a training are of."""
LIDAR_FIRST = 0.65
"""Share of the steps, the first ones, in which the LiDAR branch learns alone: they cost a third of the others."""
LEFT_OUT, ALL_LEFT_OUT = 0.1, 0.1
"""Afterwards, the share of the pictures that a sample goes without, and of samples that go without all."""
PASTED = 8
"""At most so many rare objects of the next instant are put into one."""
SWEPT = Augmentation(mirrored=0.0, turned_rad=0.05, scaled=0.02, pasted=PASTED)
"""How a sweep without pictures is changed; none is mirrored, since the street keeps to the right."""


@dataclass(frozen=True, eq=False)
class SurroundSample:
    """One instant.

    Attributes:
        cloud: (N, 5) x, y, z, intensity 0 to 255, time lag 0, in the frame of the card.
        images: (V, 3, H, W) normalised.
        image_from_lidar: (V, 4, 4) to u * depth, v * depth, depth, 1.
        lidar_from_camera: (V, 4, 4).
        truth: boxes and velocities in the frame of the card.
    """

    cloud: NDArray[np.float32]
    images: Tensor
    image_from_lidar: Tensor
    lidar_from_camera: Tensor
    truth: LabelledSweep


DEEPINTERACTION_RECIPE = Recipe(
    "deepinteraction_compact", seed=1, steps=6400, batch_size=1, learning_rate=1e-3, average_decay=0.98, warm_up=0.2,
    limit_mb=12.2, further_steps=4000, further_rate=2e-4, still_steps=1500, still_rate=1.5e-4,
)  # fmt: skip


def fusion_task(recipe: Recipe, world: str, device: torch.device) -> SurroundDetection:
    """Return the task of a recipe; `world` names the rig."""
    card = find_card(recipe.card)
    torch.manual_seed(recipe.seed)
    network = build_network(card, DeepInteraction)
    start(network)
    return SurroundDetection(network.to(device), card, world_rig(world), recipe)


def start(network: DeepInteraction) -> None:
    """Let both untrained heatmaps say little everywhere, as the focal loss wants it."""
    for head in (network.pts_bbox_head.heatmap_head, network.pts_bbox_head.heatmap_head_img):
        bias = head[-1].bias
        assert isinstance(bias, Tensor)
        nn.init.constant_(bias, float(np.log(STARTS_AT / (1 - STARTS_AT))))


class SurroundDetection:
    """What the network learns: from which samples, by which losses.

    Args:
        network: to be trained, on its device.
        card: of the network; its classes are those of the world's objects.
        rig: with a LiDAR; its cameras in the street are taken.
        recipe: its seed chooses the worlds, its batch size how many make a step.

    Raises:
        WeightsError: a card of another frame or of other classes.
    """

    def __init__(self, network: DeepInteraction, card: Card, rig: Rig, recipe: Recipe) -> None:
        if card.class_names != CLASSES:
            raise WeightsError(f"card '{card.name}' has other classes than the world: {', '.join(CLASSES)}")
        if card.points.origin != "sensor" or card.points.axes != "x right, y forward, z up":
            raise WeightsError(f"card '{card.name}': its frame is not the LiDAR's of nuScenes, x right, y forward")
        self.network, self.card, self.rig, self.recipe = network, card, rig, recipe
        self.cameras, self.beams = street_cameras(rig), Beams.of_rig(rig)
        self._views = {name: pinhole_view(rig.camera(name), *network.config.image_size) for name in self.cameras}
        mount = rig.base_link_from(lidar_of(rig).frame).translation_m
        self._card_from_base_link = Transform.from_yaw(mount, -np.pi / 2).inverse()
        samples = Samples(rig, "deskewed_surround", drawn_surround)
        self._drawing = lru_cache(maxsize=4)(lambda seed: drawing_of(samples.sample(seed, 0), self.cameras))
        sweeps = Samples(rig, "deskewed_sweeps", drawn)
        self._sweep = lru_cache(maxsize=4)(lambda seed: LabelledSweep(**sweeps.sample(seed, 0)))

    def batch(self, step: int) -> list[SurroundSample]:
        """Return the samples of a step: sweeps alone at first, then with pictures, of which some are left out.

        Into each, objects of the next one are pasted.
        """
        random = np.random.default_rng((self.recipe.seed, step, 14))
        first = step * self.recipe.batch_size
        seeds = [training_seed(self.recipe.seed, first + k) for k in range(self.recipe.batch_size + 1)]
        if step < LIDAR_FIRST * self.recipe.steps:
            return [self._swept(seed, donor, random) for seed, donor in pairwise(seeds)]
        drawings = [
            pasted(self._drawing(seed), self._drawing(donor), PASTED, random, self.beams)
            for seed, donor in pairwise(seeds)
        ]
        return [self._sample(drawing, self._used(random)) for drawing in drawings]

    def _used(self, random: np.random.Generator) -> NDArray[np.bool_]:
        return (random.random(len(self.cameras)) >= LEFT_OUT) & (random.random() >= ALL_LEFT_OUT)

    def _swept(self, seed: int, donor: int, random: np.random.Generator) -> SurroundSample:
        sweep = augmented(self._sweep(seed), self._sweep(donor), SWEPT, random, self.beams)
        return self._sample(SurroundDrawing(sweep, {}), np.zeros(len(self.cameras), np.bool_))

    def sample(self, seed: int, used: NDArray[np.bool_] | None = None) -> SurroundSample:
        """Return the sample of a seed with the cameras that are `used`, by default all."""
        return self._sample(self._drawing(seed), used)

    def _sample(self, drawing: SurroundDrawing, used: NDArray[np.bool_] | None) -> SurroundSample:
        truth = in_frame(drawing.sweep, self._card_from_base_link)
        normalization = Normalization(self.card.image.mean, self.card.image.std)
        images, projections, poses = [], [], []
        for name in [name for k, name in enumerate(self.cameras) if used is None or used[k]]:
            view = self._views[name]
            optical = self.rig.base_link_from(self.rig.sensor(name).frame)
            card_from_optical = self._card_from_base_link @ optical
            images.append(view.apply(normalised(drawing.pictures[name].rgb[None], normalization))[0])
            projections.append(view.image_from_optical @ card_from_optical.inverse().matrix)
            poses.append(card_from_optical.matrix)
        height, width = self.network.config.image_size
        cloud = np.column_stack((truth.points[:, :3], truth.points[:, 3] * 255, np.zeros(len(truth.points))))
        return SurroundSample(
            cloud.astype(np.float32), torch.stack(images) if images else torch.zeros(0, 3, height, width),
            _matrices(projections), _matrices(poses), truth,
        )  # fmt: skip

    def loss(self, batch: Sequence[SurroundSample]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss of samples and its parts; each sample is run alone, since each has its own cameras."""
        every = [query_losses(self._decoded(s), [s.truth], self.network.config.decoder) for s in batch]
        losses = {name: torch.stack([one[name] for one in every]).mean() for name in every[0]}
        return torch.stack(list(losses.values())).sum(), losses

    def evaluate(self) -> dict[str, float]:
        """Return the mAP and the AP of each class with all cameras, in worlds that no training saw."""
        samples = [self.sample(seed) for seed in VALIDATION_SEEDS[:VALIDATED]]
        return detection_scores([sample.truth for sample in samples], [self.detect(sample) for sample in samples])

    def detect(self, sample: SurroundSample) -> Boxes3D:
        """Return what the network, in evaluation mode, finds, in the house's convention and the frame of the card."""
        with torch.inference_mode(), as_learned():
            found = self.network.boxes(self._decoded(sample))[0].cpu()
        boxes = found.upright_boxes()
        return Boxes3D(
            torch.from_numpy(boxes.center_m), torch.from_numpy(boxes.size_lwh_m), torch.from_numpy(boxes.yaw_rad),
            found.scores, found.labels, found.boxes[:, 7:9],
        )  # fmt: skip

    def _decoded(self, sample: SurroundSample) -> Decoded:
        training, device = self.network.training, next(self.network.parameters()).device
        modes = [(module, module.training) for module in self.network.modules()]
        parts = run_in_torch(self.network.parts(views=len(sample.images)))  # which sets its modules to evaluation
        for module, mode in modes:
            module.training = mode

        def run(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            """Run a part; in training the map's convolutions in bfloat16, channels last, in half of the time."""
            if name != "bev_backbone" or not training:
                return parts(name, inputs)
            with convolutions(device):
                maps = {key: value.contiguous(memory_format=torch.channels_last) for key, value in inputs.items()}
                return {key: value.float() for key, value in parts(name, maps).items()}

        if training and not len(sample.images):
            return self.network.decoded_without_images([sample.cloud], run)
        given = (sample.images, sample.image_from_lidar, sample.lidar_from_camera)
        images, projections, poses = (values[None].to(device) for values in given)
        return self.network.decoded(images, [sample.cloud], projections, poses, run)


def in_frame(sweep: LabelledSweep, target_from_base_link: Transform) -> LabelledSweep:
    """Return a sweep in another upright frame."""
    moved = upright(sweep.boxes).transformed(target_from_base_link)
    points = sweep.points.copy()
    points[:, :3] = target_from_base_link.apply(points[:, :3].astype(np.float64))
    flat = np.column_stack((sweep.velocity, np.zeros(len(sweep.velocity)))).astype(np.float64)
    return replace(
        sweep, points=points, velocity=target_from_base_link.rotate(flat)[:, :2].astype(np.float32),
        boxes=np.column_stack((moved.center_m, moved.size_lwh_m, moved.yaw_rad)).astype(np.float32),
    )  # fmt: skip


def _matrices(rows: Sequence[NDArray[np.float64]]) -> Tensor:
    return torch.from_numpy(np.array(rows, np.float32).reshape(len(rows), 4, 4))


__all__ = ["DEEPINTERACTION_RECIPE", "LIDAR_FIRST", "SurroundDetection", "SurroundSample", "fusion_task", "in_frame"]
