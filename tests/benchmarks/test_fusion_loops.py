"""The fusion network against the loops of its published code; and parts filled up to the sizes of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from perception.benchmarks.clouds import spinning_sweep
from perception.benchmarks.gpu_networks import TINY_DSVT, TINY_FUSION, Subject, fusion_subject, lidar_subject
from perception.benchmarks.published_fusion import PublishedFusion, without_blocks
from perception.benchmarks.recorded_parts import RecordedParts
from perception.networks.deepinteraction import DeepInteraction, group_pillars, join_pillars
from perception.networks.dsvt import DSVT
from perception.networks.flatformer import FlatFormer, FlatFormerConfig
from perception.networks.layers.interaction_encoder import Fused
from perception.networks.layers.interaction_geometry import frame_geometry, view_geometry
from perception.networks.layers.interaction_parts import Sizes, example_rig
from perception.networks.weights import fill

CONFIG = replace(TINY_FUSION, interaction=replace(TINY_FUSION.interaction, layers=2))


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("views", [1, 5])
def test_encoder_and_decoder_are_the_published_loops(views: int) -> None:
    network = DeepInteraction(CONFIG).eval()
    fill(network)
    sizes = Sizes(1, views, CONFIG.image_size, CONFIG.geometry)
    projection, poses = example_rig(sizes)
    xyz = spinning_sweep(3000) - np.array((0, 0, 1.84), np.float32)
    cloud = np.column_stack((xyz, np.zeros((len(xyz), 2)))).astype(np.float32)
    pillars = join_pillars(group_pillars([cloud], CONFIG), CONFIG)
    points, (height, width), bev = torch.from_numpy(cloud), sizes.cells, CONFIG.geometry.bev
    seen_by, on_map = CONFIG.interaction.image_channels, CONFIG.interaction.bev_channels
    images = noise(views, seen_by, height, width), noise(views, seen_by, height // 2, width // 2)
    bevs = noise(1, on_map, *bev), noise(1, on_map, *bev).flip(3)
    loops = PublishedFusion(network, points, pillars, projection, poses)
    with torch.no_grad(), without_blocks():
        expected = loops.interaction(images, bevs)
        looped = loops.decoder(expected.image, expected)
    with torch.no_grad():
        seen = view_geometry(projection, poses, CONFIG.image_size, CONFIG.geometry)
        frame = frame_geometry([points], pillars, projection, CONFIG.image_size, CONFIG.geometry)
        found: Fused = network.imgpts_neck(images, bevs, seen, frame)
        decoded = network.pts_bbox_head(expected.lidar, expected.fused, expected.image, projection)
    for name in ("image", "lidar", "fused"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-3, atol=1e-4)
    assert torch.equal(decoded.on_mask, looped.on_mask)
    for ours, theirs in zip(decoded.fields, looped.fields, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def flatformer() -> FlatFormer:
    low, high = (-12.8, -12.8, -2), (12.8, 12.8, 4)
    return FlatFormer(
        FlatFormerConfig(
            minimum_m=low, maximum_m=high, grid=(80, 80), vfe_channels=(16, 32), heads=4, bev_layers=(0, 0)
        )
    )


@pytest.mark.parametrize("name", ["dsvt", "flatformer", "deepinteraction"])
def test_what_fills_a_part_up_to_the_size_of_a_graph_is_never_read(name: str) -> None:
    made: Subject = {
        "dsvt": lambda: lidar_subject("dsvt", DSVT(TINY_DSVT), 2000, "cpu"),
        "flatformer": lambda: lidar_subject("flatformer", flatformer(), 2000, "cpu"),
        "deepinteraction": lambda: fusion_subject("deepinteraction", TINY_FUSION, 2000, "cpu"),
    }[name]()
    filled_up = RecordedParts(made.parts, "cpu", half=False)
    eager = RecordedParts(made.parts, "cpu", half=False, record=False)

    def compared(part: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        expected, found = eager(part, inputs), filled_up(part, inputs)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4, msg=f"{part} {key}")
        return expected

    with torch.inference_mode():
        made.use(compared)
    assert filled_up.graphs == len(made.parts)
