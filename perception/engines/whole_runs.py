"""Each network once as a whole, on a made-up input: what its parts do, and what stays around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from perception.networks.part import RunPart

AROUND = {
    "ddrnet": ("letterbox and normalisation", "enlarging of the logits, argmax"),
    "p2at": ("letterbox and normalisation", "enlarging of the logits, argmax"),
    "dsvt": ("voxelisation and its reductions", "partition into sets", "decoding of boxes, NMS"),
    "flatformer": ("pillars and their reductions", "sort into flat windows", "decoding of boxes, NMS"),
    "deepinteraction": (
        "voxelisation", "tables of the sparse convolutions", "depth completion and sampling positions",
        "decoding of boxes",
    ),
    "egoposeformer": ("normalisation", "projection of the proposed joints into the views"),
    "estf": ("event frames, resizing and mean", "softmax"),
}  # fmt: skip
"""What stays in Python, by network."""

POINTS = 20_000


def whole_run(
    network_name: str, network: Any, image_size: tuple[int, int] = (256, 512), views: int = 6
) -> Callable[[RunPart], Any]:
    """Return a function that runs the whole network on one input, its parts by the runner that it is given.

    Images are of the sizes that the network is configured for, those of segmentation of `image_size` (height, width),
    clouds are random points. A network of several cameras gets as many pictures as there are `views`, of noise.
    """
    random = torch.Generator().manual_seed(0)
    runs: dict[str, Callable[[RunPart], Any]] = {
        "ddrnet": lambda run: _segmented(network, image_size, run),
        "p2at": lambda run: _segmented(network, image_size, run),
        "dsvt": lambda run: network.detect(_cloud(network.config, random), run),
        "flatformer": lambda run: network.detect(_cloud(network.config, random), run),
        "deepinteraction": lambda run: _fused(network, views, run),
        "egoposeformer": lambda run: _posed(network, run),
        "estf": lambda run: _recognised(network, run),
    }
    return runs[network_name]


def _segmented(network: Any, size: tuple[int, int], run: RunPart) -> object:
    from perception.ops.image import IMAGENET, Letterbox

    letterbox = Letterbox.of(size, size)
    image = letterbox.apply(np.zeros((*size, 3), np.uint8), IMAGENET)
    logits = run("segment", {"image": image})["logits"]
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=network.align_corners).argmax(1)


def _cloud(config: Any, random: torch.Generator) -> torch.Tensor:
    """Return (POINTS, features): positions in the network's range, further features zero."""
    low = torch.tensor(config.minimum_m)
    if hasattr(config, "maximum_m"):
        high = torch.tensor(config.maximum_m)
    else:
        high = low + torch.tensor(config.voxel_m) * torch.tensor(config.grid)
    xyz = low + torch.rand(POINTS, 3, generator=random) * (high - low)
    return torch.cat((xyz, torch.zeros(POINTS, config.point_features - 3)), dim=1)


def _fused(network: Any, views: int, run: RunPart) -> object:
    from perception.networks.layers.interaction_parts import Sizes, example_rig

    config = network.config
    sizes = Sizes(1, views, config.image_size, config.geometry)
    image_from_lidar, lidar_from_camera = example_rig(sizes)
    low, high = np.array(config.geometry.point_range[:3]), np.array(config.geometry.point_range[3:])
    xyz = low + np.random.default_rng(0).random((POINTS, 3)) * (high - low)
    cloud = np.zeros((POINTS, config.sparse.in_channels), np.float32)
    cloud[:, :3] = xyz
    images = torch.randn(1, views, 3, *config.image_size, generator=torch.Generator().manual_seed(0))
    return network.detect(images, [cloud], image_from_lidar, lidar_from_camera, run, views=views)


def _posed(network: Any, run: RunPart) -> object:
    from perception.ops.joint_projection import unrealego_projection

    config = network.config
    if "heatmaps" in network.parts():
        return run("heatmaps", {"image": torch.zeros(2, 3, *config.image_size)})
    image = torch.zeros(1, config.num_views, 3, *config.image_size)
    reference = torch.zeros(1, config.num_views, 1, 3)
    return network.estimate(image, reference, unrealego_projection, run)


def _recognised(network: Any, run: RunPart) -> object:
    config = network.config
    return network.recognise(torch.zeros(1, 3, config.clip_len, config.image_size, config.image_size), run)
