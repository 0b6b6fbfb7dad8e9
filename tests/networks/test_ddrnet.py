"""DDRNet: counts, sizes and names that the published files state, and export of the compact configuration."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from perception.errors import ShapeError
from perception.networks.ddrnet import (
    DDRNET_23,
    DDRNET_23_SLIM,
    DDRNET_39,
    DDRNET_COMPACT,
    DDRNet,
    DDRNetConfig,
    SegmentationHead,
)
from perception.networks.weights import fill

DATA = os.environ.get("PERCEPTION_DATA")


@pytest.mark.parametrize(
    ("config", "with_auxiliary", "without"),
    [(DDRNET_23_SLIM, 5734342, 5695987), (DDRNET_23, 20299366, 20148947), (DDRNET_39, 32660838, 32360275)],
)
def test_a_variant_has_as_many_parameters_as_the_published_one(
    config: DDRNetConfig, with_auxiliary: int, without: int
) -> None:
    with torch.device("meta"):
        network = DDRNet(config)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == with_auxiliary
    assert count - sum(parameter.numel() for parameter in network.seghead_extra.parameters()) == without


def test_23_slim_needs_as_many_multiply_adds_as_counted_for_the_published_one() -> None:
    with torch.device("meta"):
        network, image = DDRNet(DDRNET_23_SLIM).eval(), torch.empty(1, 3, 1024, 2048)
    with FlopCounterMode(display=False) as counter:
        network(image)
    assert counter.get_total_flops() / 2 == pytest.approx(36.28e9, rel=1e-3)


def test_the_compact_configuration_has_at_most_three_million_parameters() -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in DDRNet(DDRNET_COMPACT).parameters()) <= 3_000_000


@pytest.mark.skipif(DATA is None, reason="PERCEPTION_DATA is not set: the published parameter lists are not here")
@pytest.mark.parametrize(("config", "case"), [(DDRNET_23_SLIM, "23_slim_cityscapes"), (DDRNET_39, "39_cityscapes")])
def test_the_state_has_the_published_names_in_the_published_shapes(config: DDRNetConfig, case: str) -> None:
    notes = json.loads((Path(DATA or ".") / "golden" / "ddrnet" / f"ddrnet_{case}.json").read_text())
    with torch.device("meta"):
        state = DDRNet(config).state_dict()
    published = {name.removeprefix("model."): tuple(shape) for name, shape in notes["params"]}
    assert {name: tuple(value.shape) for name, value in state.items()} == published


@pytest.mark.parametrize(("height", "width"), [(8, 8), (136, 72), (100, 94)])
@pytest.mark.parametrize("sub_pixels", [1, 4])
def test_any_size_gives_logits_at_an_eighth_or_that_over_the_sub_pixels(
    height: int, width: int, sub_pixels: int
) -> None:
    network = DDRNet(replace(DDRNET_COMPACT, sub_pixels=sub_pixels, sharpening_planes=0)).eval()
    with torch.no_grad():
        logits, auxiliary = network.with_auxiliary(torch.rand(2, 3, height, width))
    rows, columns = -(-height // 8), -(-width // 8)
    assert auxiliary.shape == (2, 19, rows, columns)
    assert logits.shape == (2, 19, sub_pixels * rows, sub_pixels * columns)


def test_sub_pixels_lie_where_they_belong() -> None:
    # One cell, one class, 2 x 2 sub-pixels: the channels are its rows, left to right.
    head = SegmentationHead(1, 1, 1, sub_pixels=2).eval()
    assert head.conv2.bias is not None
    with torch.no_grad():
        head.conv2.weight.zero_()
        head.conv2.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        torch.testing.assert_close(head(torch.zeros(1, 1, 1, 1)), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))


def test_sharpening_changes_nothing_before_it_learns_and_then_logits_by_the_stem() -> None:
    torch.manual_seed(0)
    network, image = DDRNet(DDRNET_COMPACT).eval(), torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        coarse, _ = network.with_auxiliary(image)
        assert torch.equal(network(image), coarse)
        assert network.sharpening is not None
        nn.init.normal_(network.sharpening.conv3.weight)
        sharp = network(image)
        assert sharp.shape == coarse.shape == (1, 19, 32, 48)
        assert F.l1_loss(sharp, coarse) > 1e-3
        assert torch.equal(network.with_auxiliary(image)[0], coarse)  # which learn without it


def test_sharpened_logits_stop_where_the_image_does() -> None:
    network = DDRNet(DDRNET_COMPACT).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 61, 94)).shape == (1, 19, 31, 47)


def test_sharpening_needs_the_sub_pixels_of_the_stem() -> None:
    with pytest.raises(ShapeError, match="sharpening_planes 16 with sub_pixels 2"):
        replace(DDRNET_COMPACT, sub_pixels=2)


def test_the_pools_count_their_padding() -> None:
    # A 4 x 4 map of ones: the corner of a 5 x 5 window, stride 2, holds 9 ones and 16 zeros.
    pooled = DDRNet(DDRNET_COMPACT).spp.scale1[0](torch.ones(1, 1, 4, 4))
    assert pooled[0, 0, 0, 0] == pytest.approx(9 / 25)


def test_batches_do_not_mix() -> None:
    network = DDRNet(DDRNET_COMPACT).eval()
    fill(network)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        both, first = network(images), network(images[:1])
    torch.testing.assert_close(both[:1], first, rtol=1e-4, atol=1e-4)
    assert F.l1_loss(both[0], both[1]) > 1e-3
