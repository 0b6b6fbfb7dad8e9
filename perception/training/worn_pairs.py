"""Pictures of a worn stereo pair with the true joints, simulated by seed: what EgoPoseFormer learns from.

Joints are relative to a constant point below the head (`reference: fixed` of the node), along the axes of the left
camera: that is all that a headset knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.geometry.rig import Rig
from perception.geometry.transforms import Transform
from perception.ops.joint_projection import Projection, camera_projection
from perception.simulation.world import SECOND_NS, World
from perception.training.world import Sample

CAMERAS = ("ego_left", "ego_right")
PAIRS = 8
"""In each world."""
SECONDS = 40
"""Instants are taken from so much of each world: every action has its turn."""


def worn_pairs(rig: Rig, seed: int) -> Iterator[Sample]:
    """Yield `images` (2, H, W, 3), left and right, and `joints_m` (16, 3) in the left camera's optical frame."""
    world, random = World(seed), np.random.default_rng((seed, 51))
    for t_ns in random.integers(0, SECONDS * SECOND_NS, PAIRS).tolist():
        images = np.stack([world.camera(rig, name, t_ns).rgb for name in CAMERAS])
        yield {"images": images, "joints_m": world.skeleton(rig, CAMERAS[0], t_ns)[0]}


@dataclass(frozen=True, eq=False)
class Headset:
    """Two cameras on the head, and the point that joints are relative to.

    Attributes:
        rig: which has the cameras.
        reference_m: (3,) the point in the left camera's optical frame.
        unit_m: metres in one unit of the network.
    """

    rig: Rig
    reference_m: tuple[float, float, float]
    unit_m: float

    def targets(self, joints_m: NDArray[np.float64]) -> Tensor:
        """Return joints (N, J, 3) as the network gives them: relative to the reference, in its unit."""
        return torch.from_numpy((joints_m - np.array(self.reference_m)) / self.unit_m).to(torch.float32)

    def joints_m(self, poses: Tensor) -> NDArray[np.float64]:
        """Undo `targets`."""
        found: NDArray[np.float64] = poses.detach().cpu().double().numpy() * self.unit_m + np.array(self.reference_m)
        return found

    def references(self) -> Tensor:
        """Return the point in each camera's optical frame, in the network's unit, (1, 2, 1, 3)."""
        point = np.array([self.reference_m])
        turned = np.stack([self._from_left(name).apply(point) for name in CAMERAS])
        return torch.from_numpy(turned / self.unit_m).to(torch.float32)[None]

    def projection(self) -> Projection:
        """Return where joints are in the pictures, for references as `references` gives them."""
        cameras = [self.rig.camera(name) for name in CAMERAS]
        return camera_projection(cameras, [self._from_left(name).rotation for name in CAMERAS], self.unit_m)

    def _from_left(self, name: str) -> Transform:
        return self.rig.transform(self.rig.sensor(name).frame, self.rig.sensor(CAMERAS[0]).frame)


@dataclass(frozen=True)
class Photometry:
    """How pictures are varied while learning, both views of a pair alike but for noise; nothing moves.

    Attributes:
        gain, contrast, tint, gamma: largest relative change of brightness, contrast, each colour, and exponent.
        noise: largest deviation of added noise, of 255.
    """

    gain: float = 0.25
    contrast: float = 0.25
    tint: float = 0.1
    gamma: float = 0.2
    noise: float = 4.0

    def apply(self, pair: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """Vary a pair (2, H, W, 3)."""
        table = self._table(random)
        grain = random.standard_normal(pair.shape, np.float32) * np.float32(self.noise * random.random())
        varied: NDArray[np.uint8] = np.clip(table[pair, np.arange(3)] + grain, 0, 255).astype(np.uint8)
        return varied

    def _table(self, random: np.random.Generator) -> NDArray[np.float32]:
        """Return what becomes of each level of each colour, (256, 3)."""
        gamma, contrast, gain = 1 + np.array([self.gamma, self.contrast, self.gain]) * random.uniform(-1, 1, 3)
        level = contrast * ((np.arange(256) / 255.0) ** gamma - 0.5) + 0.5
        colours = gain * (1 + self.tint * random.uniform(-1, 1, 3))
        found: NDArray[np.float32] = (255 * level[:, None] * colours).astype(np.float32)
        return found


__all__ = ["PAIRS", "Headset", "Photometry", "worn_pairs"]
