"""DeepInteraction++ learns to detect with surround cameras and a LiDAR in the synthetic world.

Paper      Yang et al., "DeepInteraction++", TPAMI 2025; its losses are TransFusion's: query_losses.py
Differs    cameras are left out by chance, so that the network also learns to do without one
Frames     the card's: origin in the LiDAR, x right, y forward, z up
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.errors import WeightsError
from perception.geometry.boxes import Boxes
from perception.geometry.rig import Rig
from perception.geometry.transforms import Transform
from perception.networks.card import Card
from perception.networks.deepinteraction import DeepInteraction, Detections
from perception.networks.part import run_in_torch
from perception.ops.image import Normalization, normalised
from perception.ops.pinhole import pinhole_view
from perception.simulation.world import is_in_cabin
from perception.training.query_losses import query_losses
from perception.training.sweeps import CLASSES, LabelledSweep, instant_of, lidar_of, swept
from perception.training.world import world_of

LEFT_OUT = 0.1
"""Share of the pictures that a sample goes without."""


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


class SurroundDetection:
    """What the network learns: from which samples, by which losses.

    Args:
        network: to be trained.
        card: of the network; its classes are those of the world's objects.
        rig: with a LiDAR; its cameras in the street are taken.

    Raises:
        WeightsError: a card of another frame or of other classes.
    """

    def __init__(self, network: DeepInteraction, card: Card, rig: Rig) -> None:
        if card.class_names != CLASSES:
            raise WeightsError(f"card '{card.name}' has other classes than the world: {', '.join(CLASSES)}")
        if card.points.origin != "sensor" or card.points.axes != "x right, y forward, z up":
            raise WeightsError(f"card '{card.name}': its frame is not the LiDAR's of nuScenes, x right, y forward")
        self.network, self.card, self.rig = network, card, rig
        street = [s for s in rig.sensors.values() if s.kind == "camera" and not is_in_cabin(rig, s)]
        self.cameras = [sensor.name for sensor in street]
        self._views = {name: pinhole_view(rig.camera(name), *network.config.image_size) for name in self.cameras}
        mount = rig.base_link_from(lidar_of(rig).frame).translation_m
        self._card_from_base_link = Transform.from_yaw(mount, -np.pi / 2).inverse()

    def sample(self, seed: int, *, all_cameras: bool = False) -> SurroundSample:
        """Return the sample of a seed, cameras left out by chance."""
        world, t_ns = world_of(seed), instant_of(seed)
        truth = in_frame(swept(self.rig, world, t_ns), self._card_from_base_link)
        random = np.random.default_rng((seed, 14))
        used = [name for name in self.cameras if random.random() >= LEFT_OUT or all_cameras]
        contract = self.card.image
        images, projections, poses = [], [], []
        for name in used:
            rgb, view = world.camera(self.rig, name, t_ns).rgb, self._views[name]
            optical = self.rig.sensor(name).frame + "_optical"
            card_from_optical = self._card_from_base_link @ self.rig.base_link_from(optical)
            images.append(view.apply(normalised(rgb[None], Normalization(contract.mean, contract.std)))[0])
            projections.append(view.image_from_optical @ card_from_optical.inverse().matrix)
            poses.append(card_from_optical.matrix)
        height, width = self.network.config.image_size
        cloud = np.column_stack((truth.points[:, :3], truth.points[:, 3] * 255, np.zeros(len(truth.points))))
        return SurroundSample(
            cloud.astype(np.float32), torch.stack(images) if images else torch.zeros(0, 3, height, width),
            _matrices(projections), _matrices(poses), truth,
        )  # fmt: skip

    def losses(self, samples: Sequence[SurroundSample]) -> dict[str, Tensor]:
        """Return the mean losses of samples by name; each is run alone, since each has its own cameras."""
        total: dict[str, Tensor] = {}
        training = self.network.training
        for sample in samples:
            run = run_in_torch(self.network.parts(views=len(sample.images)))  # whose modules are set to evaluation
            self.network.train(training)
            decoded = self.network.decoded(
                sample.images[None], [sample.cloud], sample.image_from_lidar[None], sample.lidar_from_camera[None], run
            )
            for name, value in query_losses(decoded, [sample.truth], self.network.config.decoder).items():
                total[name] = total.get(name, 0) + value / len(samples)
        return total

    def detect(self, sample: SurroundSample) -> Detections:
        """Return what the network, in evaluation mode, finds."""
        run = run_in_torch(self.network.parts(views=len(sample.images)))
        with torch.inference_mode():
            return self.network.detect(
                sample.images[None], [sample.cloud], sample.image_from_lidar[None], sample.lidar_from_camera[None], run
            )[0]


def in_frame(sweep: LabelledSweep, target_from_base_link: Transform) -> LabelledSweep:
    """Return a sweep in another upright frame."""
    moved = Boxes(*(sweep.boxes[:, part].astype(np.float64) for part in (slice(3), slice(3, 6), 6)))
    moved = moved.transformed(target_from_base_link)
    points = sweep.points.copy()
    points[:, :3] = target_from_base_link.apply(points[:, :3].astype(np.float64))
    flat = np.column_stack((sweep.velocity, np.zeros(len(sweep.velocity)))).astype(np.float64)
    return replace(
        sweep, points=points, velocity=target_from_base_link.rotate(flat)[:, :2].astype(np.float32),
        boxes=np.column_stack((moved.center_m, moved.size_lwh_m, moved.yaw_rad)).astype(np.float32),
    )  # fmt: skip


def _matrices(rows: Sequence[NDArray[np.float64]]) -> Tensor:
    return torch.from_numpy(np.array(rows, np.float32).reshape(len(rows), 4, 4))


__all__ = ["SurroundDetection", "SurroundSample", "in_frame"]
