"""Train EgoPoseFormer on the worn stereo pair: first the encoder on heatmaps, then the whole network on poses.

Losses     heatmaps: ten times the mean squared error. Poses: a tenth of the mean joint error in centimetres, of the
           proposal and of the pose of each layer, summed
Reference  ChenhongyiYang/egoposeformer, commit e4fb005: these losses and weights
Differs    heatmaps are drawn here, a Gaussian around each joint in view; one schedule spans both stages; the encoder is
           not pre-trained on ImageNet; the proposal begins at the mean pose
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from perception.errors import WeightsError
from perception.evaluation import pose
from perception.networks.card import Card, find_card
from perception.networks.egoposeformer import EgoPoseFormer, EgoPoseFormerConfig
from perception.networks.load import build_network
from perception.ops.image import Letterbox, Normalization
from perception.ops.joint_projection import Projection
from perception.training.precision import convolutions
from perception.training.recipe import Recipe
from perception.training.world import VALIDATION_SEEDS, Samples, training_seed, world_rig
from perception.training.worn_pairs import PAIRS, Headset, Photometry, worn_pairs

EGOPOSEFORMER_RECIPE = Recipe(
    card="egoposeformer_cabin", seed=0, steps=2000, batch_size=16, learning_rate=1.5e-3, warm_up=0.1,
    weight_decay=5e-4, average_decay=0.99,
)  # fmt: skip
HEATMAP_SHARE = 0.2
"""Of the steps: the encoder's pre-training."""
HEATMAP_WEIGHT, POSE_WEIGHT = 10.0, 0.1
SIGMA_CELLS = 1.5
WORLDS = 800
VALIDATION_WORLDS = 24


class PoseWithHeatmaps(EgoPoseFormer):
    """The pose network with the head that pre-trains its encoder, which its weights file leaves out."""

    def __init__(self, config: EgoPoseFormerConfig) -> None:
        super().__init__(config)
        self.conv_heatmap = nn.Conv2d(config.neck_channels, config.num_heatmaps, 1)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pictures (B, V, 3, H, W) as the network takes them, poses (B, J, 3), and which of the two is learned."""

    images: Tensor
    poses: Tensor
    heatmaps: bool


class PoseTask:
    """Pictures of a worn pair to a skeleton.

    Args:
        network: of two views.
        recipe: how it learns.
        samples: of `worn_pairs`.
        headset: the cameras and the reference.
        device: where the network learns.
        worlds: how many worlds there are; more are drawn only as the steps need them.
        photometry: augmentation.
    """

    def __init__(
        self, network: PoseWithHeatmaps, recipe: Recipe, samples: Samples, headset: Headset, device: torch.device,
        worlds: int = WORLDS, photometry: Photometry | None = None,
    ) -> None:  # fmt: skip
        self.network: PoseWithHeatmaps = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe, self.samples, self.headset, self.device = recipe, samples, headset, device
        self.worlds, self.photometry = worlds, photometry or Photometry()
        self.card = find_card(recipe.card)
        self.references, self.project = headset.references().to(device), headset.projection()
        begin_at_the_mean(self.network, self._drawn(np.random.default_rng((recipe.seed, 52)), recipe.batch_size)[1])

    def batch(self, step: int) -> Pairs:
        random = np.random.default_rng((self.recipe.seed, step, 53))
        images, poses = self._drawn(random, self.recipe.batch_size)
        heatmaps = step < HEATMAP_SHARE * self.recipe.steps
        return Pairs(torch.stack(images).to(self.device), poses.to(self.device), heatmaps)

    def loss(self, batch: Pairs) -> tuple[Tensor, Mapping[str, Tensor]]:
        with convolutions(self.device):
            encoded = self.network.encoder(batch.images.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        encoded = encoded.float()  # centimetres in bfloat16 would be half a centimetre wrong
        if batch.heatmaps:
            maps = self.network.conv_heatmap(encoded).unflatten(0, batch.images.shape[:2])
            places, seen = self.project(batch.poses, self.references)
            size = self.network.config.feature_size
            # As published there is none of the head, the first joint.
            error = heatmap_loss(maps, heatmaps_of(places[:, :, 1:], seen[:, :, 1:], size))
            return error, {"heatmaps": error}
        poses = poses_of(self.network, encoded, self.references, self.project)
        final_cm = (poses[:, -1] - batch.poses).norm(dim=-1).mean()
        return pose_loss(poses, batch.poses), {"final cm": final_cm}

    def evaluate(self) -> dict[str, float]:
        """Return the errors of joints relative to the reference, over the pairs of the validation worlds."""
        truth, answers, proposals = [], [], []
        for seed in VALIDATION_SEEDS[:VALIDATION_WORLDS]:
            found = [self.samples.sample(seed, index) for index in range(PAIRS)]
            images = torch.stack([self._fitted(sample["images"]) for sample in found]).to(self.device)
            with torch.no_grad():
                poses = self.network(images, self.references, self.project)
            truth.append(np.stack([sample["joints_m"] for sample in found]))
            answers.append(self.headset.joints_m(poses[:, -1]))
            proposals.append(self.headset.joints_m(poses[:, 0]))
        scores = pose.evaluate(np.concatenate(truth), np.concatenate(answers))
        first = pose.evaluate(np.concatenate(truth), np.concatenate(proposals))
        assert self.card.skeleton is not None
        by_joint = dict(zip(self.card.skeleton.joints, scores.by_joint_mm.tolist(), strict=True))
        return {
            "MPJPE_mm": scores.mpjpe_mm, "PA_MPJPE_mm": scores.pa_mpjpe_mm, "PCK_150mm": scores.pck,
            "proposal MPJPE_mm": first.mpjpe_mm, **{f"MPJPE_mm {name}": value for name, value in by_joint.items()},
        }  # fmt: skip

    def _drawn(self, random: np.random.Generator, count: int) -> tuple[list[Tensor], Tensor]:
        images, joints = [], []
        for _ in range(count):
            world, index = int(random.integers(self.worlds)), int(random.integers(PAIRS))
            sample = self.samples.sample(training_seed(self.recipe.seed, world), index)
            images.append(self._fitted(self.photometry.apply(sample["images"], random)))
            joints.append(sample["joints_m"])
        return images, self.headset.targets(np.stack(joints))

    def _fitted(self, pair: np.ndarray) -> Tensor:
        """Return a pair (2, H, W, 3) as the node gives it to the network, (2, 3, h, w)."""
        contract = self.card.image
        box = Letterbox.of(pair.shape[1:3], self.network.config.image_size)
        normalization = Normalization(contract.mean, contract.std)
        return torch.cat([box.apply(picture, normalization) for picture in pair])


def begin_at_the_mean(network: EgoPoseFormer, poses: Tensor) -> None:
    """Let the proposal begin at the mean of poses (N, J, 3)."""
    last = network.mlp_pred[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias.copy_(poses.mean(dim=0).flatten())


def poses_of(network: EgoPoseFormer, encoded: Tensor, references: Tensor, project: Projection) -> Tensor:
    """Do what `EgoPoseFormer.forward` does, from the encoder's features (B * V, C, h, w)."""
    features, proposal = network.proposed(encoded)
    begin = proposal.detach()
    anchors, in_view = project(begin, references)
    poses = network.refine(features, begin, *network.usable(anchors, in_view))
    return torch.cat((proposal[:, None], poses), dim=1)


def heatmaps_of(places: Tensor, seen: Tensor, size: tuple[int, int], sigma_cells: float = SIGMA_CELLS) -> Tensor:
    """Draw a Gaussian of height one around each joint.

    Args:
        places: (..., J, 2) column and row in the picture, 0 to 1.
        seen: (..., J) False leaves the map empty.
        size: rows and columns of a map.
        sigma_cells: standard deviation.

    Returns:
        (..., J, rows, columns).
    """
    rows, columns = (torch.arange(count, device=places.device) + 0.5 for count in size)
    across = torch.exp(-((places[..., 0, None] * size[1] - columns) ** 2) / (2 * sigma_cells**2))
    down = torch.exp(-((places[..., 1, None] * size[0] - rows) ** 2) / (2 * sigma_cells**2))
    maps: Tensor = down[..., :, None] * across[..., None, :] * seen[..., None, None]
    return maps


def heatmap_loss(maps: Tensor, truth: Tensor) -> Tensor:
    """Return ten times the mean squared error of heatmaps, of any equal shape."""
    return HEATMAP_WEIGHT * (maps - truth).square().mean()


def pose_loss(poses: Tensor, truth: Tensor) -> Tensor:
    """Return a tenth of the mean joint error, summed over the proposal and the layers.

    Args:
        poses: (B, L + 1, J, 3) centimetres.
        truth: (B, J, 3).
    """
    apart: Tensor = torch.linalg.vector_norm(poses - truth[:, None], dim=-1)
    return POSE_WEIGHT * apart.mean(dim=(0, 2)).sum()


def headset_of(card: Card, world: str) -> Headset:
    """Return the headset of a rig with the reference that the card states.

    Raises:
        WeightsError: it states none.
    """
    body = card.skeleton
    if body is None or body.reference_m is None:
        raise WeightsError(f"card '{card.name}' states no reference_m, the point that joints are to be relative to")
    return Headset(world_rig(world), body.reference_m, body.unit_m)


def egoposeformer_task(recipe: Recipe, world: str, device: torch.device) -> PoseTask:
    """Return the task of the bundled EgoPoseFormer."""
    torch.manual_seed(recipe.seed)
    card = find_card(recipe.card)
    network = PoseWithHeatmaps(build_network(card, EgoPoseFormer).config)
    headset = headset_of(card, world)
    return PoseTask(network, recipe, Samples(headset.rig, "worn_pairs", worn_pairs), headset, device)


__all__ = [
    "EGOPOSEFORMER_RECIPE", "PoseTask", "PoseWithHeatmaps", "begin_at_the_mean", "egoposeformer_task", "headset_of",
    "heatmap_loss", "heatmaps_of", "pose_loss", "poses_of",
]  # fmt: skip
