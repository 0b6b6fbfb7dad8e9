"""The interaction encoder row by row, on a host, against the one of maps that learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from perception.networks.layers import interaction_encoder
from perception.networks.layers.deformable_attention import MultiScaleDeformableAttention, reference_points
from perception.networks.layers.interaction_encoder import InteractionConfig, InteractionEncoder
from perception.networks.layers.interaction_geometry import GeometryConfig
from perception.networks.layers.interaction_parts import Sizes, example_geometry
from perception.ops.host_sampling import as_learned, sampled_on_host
from tests.threads import threads_of_torch

CONFIG = GeometryConfig((-8.0, -12.0, -2.0, 8.0, 12.0, 2.0), (24, 16), 4, (1.0, 6.0, 1.0))
VIEWS, BATCH, WIDTH = 3, 2, 24


def encoder() -> InteractionEncoder:
    made = InteractionEncoder(InteractionConfig(12, 10, WIDTH, layers=2, heads=2, points=3, hidden=48, radii=5)).eval()
    for module in made.modules():
        if isinstance(module, MultiScaleDeformableAttention):
            nn.init.normal_(module.sampling_offsets.bias, std=3.0)  # many fall beyond the border
    return made


def maps() -> tuple[list[Tensor], list[Tensor]]:
    images = [torch.randn(BATCH * VIEWS, 12, 8 >> level, 16 >> level) for level in (0, 1)]
    return images, [torch.randn(BATCH, 10, 24, 16) for _ in range(2)]


@pytest.mark.parametrize("threads", [1, 2])
def test_row_by_row_it_is_the_encoder_that_learns(threads: int) -> None:
    torch.manual_seed(0)
    network, (images, bevs) = encoder(), maps()
    views, frame = example_geometry(Sizes(BATCH, VIEWS, (32, 64), CONFIG))
    expected = network(images, bevs, views, frame)
    assert expected.fused.requires_grad
    with torch.inference_mode(), threads_of_torch(threads):
        found = network(images, bevs, views, frame)
    for name in ("image", "lidar", "fused"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name).detach(), rtol=1e-4, atol=2e-5)


def test_what_a_training_evaluates_keeps_to_the_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    network, (images, bevs) = encoder(), maps()
    views, frame = example_geometry(Sizes(BATCH, VIEWS, (32, 64), CONFIG))
    monkeypatch.delattr(interaction_encoder, "fused_on_host")
    with torch.inference_mode(), as_learned():
        assert network(images, bevs, views, frame).fused.isfinite().all()
    with torch.inference_mode(), pytest.raises(NameError):
        network(images, bevs, views, frame)


@pytest.mark.parametrize("levels", [1, 2])
def test_offsets_and_weights_in_one_product_are_the_two(levels: int) -> None:
    torch.manual_seed(2)
    attention = MultiScaleDeformableAttention(WIDTH, levels, heads=2, points=2)
    nn.init.normal_(attention.sampling_offsets.bias, std=4.0)
    sizes = ((7, 11), (3, 5))[:levels]
    query, maps = torch.randn(1, 77, WIDTH), [torch.randn(1, WIDTH, *size) for size in sizes]
    reference = reference_points(7, 11, query)
    expected = attention(query, reference, maps)
    with torch.inference_mode():
        cells = attention.value_proj(torch.cat([x.flatten(2) for x in maps], 2)[0].T)
        found = query[0] + attention.answers(cells, sizes)(query[0], reference)
    torch.testing.assert_close(found, expected[0].detach(), rtol=1e-4, atol=1e-5)


def test_a_sample_that_lies_nowhere_reads_nothing() -> None:
    cells, reference = torch.ones(6, 12), torch.full((1, 2), 0.5)  # 2 x 3 cells, seen from their middle
    for nowhere in (torch.nan, torch.inf, -torch.inf, 1e30):
        offsets = torch.tensor([[[0.0, nowhere], [0.0, 0.0]]])
        found = sampled_on_host(cells, ((2, 3),), reference, offsets, torch.tensor([[0.25, 0.75]]), 1)
        assert found.tolist() == [[0.25] * 12]
