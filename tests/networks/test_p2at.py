"""P2AT: counts, sizes and names that the published files state, hand-worked blocks, and export in ONNX Runtime."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from perception.engines.cache import EngineCache
from perception.engines.engine import run_on
from perception.engines.onnxruntime_engine import build_onnxruntime
from perception.networks.p2at import (
    P2AT,
    P2AT_COMPACT,
    P2AT_L,
    P2AT_M,
    P2AT_S,
    BilateralFusion,
    GlobalContext,
    P2ATConfig,
    PositionEmbedding,
    enlarged_logits,
)
from perception.networks.weights import fill


@pytest.mark.parametrize(
    ("config", "in_training", "deployed"),
    [(P2AT_S, 12_812_729, 12_736_019), (P2AT_M, 22_920_889, 22_844_179), (P2AT_L, 25_353_145, 25_276_435)],
)
def test_a_variant_has_as_many_parameters_as_the_published_one(
    config: P2ATConfig, in_training: int, deployed: int
) -> None:
    with torch.device("meta"):
        network = P2AT(config)
    heads = [network.aux_seg_head1, network.aux_seg_head2]
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == in_training
    assert count - sum(parameter.numel() for head in heads for parameter in head.parameters()) == deployed


def test_the_compact_configuration_has_at_most_three_million_parameters() -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in P2AT(P2AT_COMPACT).parameters()) <= 3_000_000


@pytest.mark.parametrize(("config", "case"), [(P2AT_S, "s"), (P2AT_M, "m"), (P2AT_L, "l")])
def test_the_state_has_the_published_names_in_the_published_shapes(
    config: P2ATConfig, case: str, golden_folder: Path
) -> None:
    notes = json.loads((golden_folder / "p2at" / f"p2at_{case}_cityscapes19.json").read_text())
    with torch.device("meta"):
        state = P2AT(config).state_dict()
    published = {name.removeprefix("model."): tuple(shape) for name, shape in notes["params"]}
    assert {name: tuple(value.shape) for name, value in state.items()} == published


@pytest.mark.parametrize(("height", "width"), [(8, 8), (33, 70), (96, 64)])
@pytest.mark.parametrize("sub_pixels", [1, 4])
def test_any_size_gives_logits_at_a_quarter_or_that_over_the_sub_pixels(
    height: int, width: int, sub_pixels: int
) -> None:
    network = P2AT(replace(P2AT_COMPACT, sub_pixels=sub_pixels)).eval()
    image = torch.rand(2, 3, height, width)
    with torch.no_grad():
        logits, (final, at8, at4) = network(image), network.with_auxiliary(image)
    rows, columns = -(-height // 4), -(-width // 4)
    assert logits.shape == (2, 19, sub_pixels * rows, sub_pixels * columns)
    assert at8.shape == (2, 19, -(-height // 8), -(-width // 8))
    assert at4.shape == (2, 19, rows, columns)
    torch.testing.assert_close(final, logits)


def test_the_logits_grow_to_the_picture_corner_on_corner() -> None:
    grown = enlarged_logits(torch.tensor([[[[0.0, 6.0]]]]), (1, 4))
    torch.testing.assert_close(grown, torch.tensor([[[[0.0, 2.0, 4.0, 6.0]]]]))


def test_a_position_vector_is_stretched_between_the_centres_of_its_entries() -> None:
    embedding = PositionEmbedding(channels=1, length=2)
    embedding.pos_embed.data = torch.tensor([[[0.0, 4.0]]])
    torch.testing.assert_close(embedding(torch.zeros(1, 1, 4)), torch.tensor([[[0.0, 1.0, 3.0, 4.0]]]))


def test_the_context_of_a_constant_map_is_the_same_for_every_pixel() -> None:
    context = GlobalContext(dim=2, kernel=7).eval()
    x = torch.tensor([3.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 4, 5)
    added = context(x) - x
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added))


def test_the_fusion_squashes_only_the_product_of_shallow_and_deeper() -> None:
    # With the 1x1 convolution at zero what is left is stage * up + sigmoid(stage * down).
    fusion = BilateralFusion(shallow_channels=2, deeper_channels=2, dim=2).eval()
    for parameter in fusion.fuse.parameters():
        torch.nn.init.zeros_(parameter)
    shallow, deeper, decoded = torch.rand(1, 2, 8, 8), torch.rand(1, 2, 4, 4), torch.rand(1, 2, 2, 2)
    with torch.no_grad():
        down = fusion.down_feat(shallow)
        up, stage = (
            torch.nn.functional.interpolate(x, size=(8, 8), mode="bilinear")
            for x in (fusion.up_feat(decoded), fusion.st_feat(deeper))
        )
        torch.testing.assert_close(fusion(shallow, deeper, decoded), stage * up + torch.sigmoid(stage * down))


def test_batches_do_not_mix() -> None:
    network = P2AT(P2AT_COMPACT).eval()
    fill(network)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        both, first = network(images), network(images[:1])
    torch.testing.assert_close(both[:1], first, rtol=1e-3, atol=1e-3 * float(both.std()))
    assert not torch.allclose(both[0], both[1], rtol=1e-2)


def test_onnx_runtime_gives_the_same_logits_at_sizes_it_was_not_exported_with(tmp_path: Path) -> None:
    network = P2AT(P2AT_COMPACT).eval()
    fill(network)
    part = network.parts()["segment"]
    run = run_on({"segment": build_onnxruntime(part, EngineCache(tmp_path), say=lambda _: None, threads=1)})
    for size in ((1, 3, 64, 96), (2, 3, 75, 50)):
        image = torch.randn(size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = network(image)
        torch.testing.assert_close(run("segment", {"image": image})["logits"], expected, rtol=1e-3, atol=1e-3)
