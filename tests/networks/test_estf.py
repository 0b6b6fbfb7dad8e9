"""ESTF: published names, counts and sampling, the streaming form against the whole clip, and export."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from perception.engines.cache import EngineCache
from perception.engines.engine import run_on
from perception.engines.onnxruntime_engine import build_onnxruntime
from perception.errors import ShapeError
from perception.networks.card import find_card
from perception.networks.estf import (
    ESTF,
    ESTF_COMPACT,
    ESTF_HARDVS,
    RGB_MEAN,
    ESTFConfig,
    clip_indices,
    normalised,
)
from perception.networks.estf_stream import PUBLISHED_STRIDE, ClipStream
from perception.networks.load import build_network
from perception.networks.part import run_in_torch
from perception.networks.weights import fill


@pytest.fixture(scope="module")
def network() -> ESTF:
    """The compact network with filled weights, its attention branches awake."""
    compact = ESTF(ESTF_COMPACT).eval()
    fill(compact)
    return compact


def images(count: int, side: int = 128) -> Tensor:
    """Event images that differ, mean subtracted."""
    random = torch.Generator().manual_seed(7)
    colours = torch.tensor([[255, 255, 255], [220, 30, 30], [30, 30, 200]], dtype=torch.uint8)
    return normalised(colours[torch.randint(0, 3, (count, side, side), generator=random)])


def test_the_published_network_has_the_published_names_and_count(golden_folder: Path) -> None:
    notes = json.loads((golden_folder / "estf" / "estf_tensor_240_b2.json").read_text())
    with torch.device("meta"):
        estf = ESTF(ESTF_HARDVS)
    assert {name: tuple(value.shape) for name, value in estf.state_dict().items()} == {
        name: tuple(shape) for name, shape in notes["params"]
    }
    assert sum(parameter.numel() for parameter in estf.parameters()) == 47_111_540


def test_the_compact_configuration_has_at_most_three_million_parameters() -> None:
    with torch.device("meta"):
        estf = ESTF(ESTF_COMPACT)
    assert sum(parameter.numel() for parameter in estf.parameters()) <= 3_000_000
    assert not any(name.endswith("norm4.weight") or ".fc." in name for name in estf.state_dict())


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (1, [0] * 8),
        (3, [0, 1, 2, 0, 1, 2, 0, 1]),
        (8, list(range(8))),
        (9, list(range(1, 9))),
        (60, list(range(26, 34))),
    ],
)
def test_a_recording_gives_its_middle_or_starts_again(total: int, expected: list[int]) -> None:
    assert clip_indices(total) == expected


def test_an_empty_recording_is_an_error() -> None:
    with pytest.raises(ShapeError, match="at least one"):
        clip_indices(0)


def test_white_becomes_what_training_saw() -> None:
    # 255 minus 104, 117 and 128, from red, green and blue in this order.
    white = torch.full((1, 1, 3), 255, dtype=torch.uint8)
    assert normalised(white).flatten().tolist() == [151.0, 138.0, 127.0]


def test_eight_images_are_resized_one_by_one_as_by_the_published_resize_in_three_dimensions(network: ESTF) -> None:
    clip = images(8, side=90).transpose(0, 1).unsqueeze(0)
    published = F.interpolate(clip, size=(8, 128, 128), mode="trilinear", align_corners=False)
    torch.testing.assert_close(network.prepared(clip), published[0].transpose(0, 1), rtol=1e-5, atol=1e-3)


def test_a_clip_of_another_length_is_blended_in_time(network: ESTF) -> None:
    clip = images(5).transpose(0, 1).unsqueeze(0)
    published = F.interpolate(clip, size=(8, 128, 128), mode="trilinear", align_corners=False)
    torch.testing.assert_close(network.prepared(clip), published[0].transpose(0, 1))


@pytest.mark.parametrize("stride", [1, 5])
def test_a_stream_says_what_the_whole_clip_says_and_embeds_each_image_once(network: ESTF, stride: int) -> None:
    runs: Counter[str] = Counter()
    run_part = run_in_torch(network.parts())

    def run(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        runs[name] += 1
        return run_part(name, inputs)

    stream = ClipStream(network, run, stride)
    span = 7 * stride + 1
    seen = images(span + 2)
    with torch.no_grad():
        for count, image in enumerate(seen, start=1):
            stream.add(image)
            if count < span - 1:
                continue
            taken = seen[list(range(count - 1, -1, -stride))[:8][::-1]]
            whole = taken[[step % len(taken) for step in range(8)]].transpose(0, 1).unsqueeze(0)
            expected = network(whole)[0]
            torch.testing.assert_close(stream.logits(), expected, rtol=1e-3, atol=1e-4 * float(expected.std()))
    assert runs["image_tokens"] == len(seen)
    assert stream.full
    assert len(stream) == span


def test_a_stream_is_not_full_before_its_clip_is_and_forgets_on_demand(network: ESTF) -> None:
    stream = ClipStream(network, run_in_torch(network.parts()), stride=1)
    with pytest.raises(ShapeError, match="no image yet"):
        stream.logits()
    with torch.no_grad():
        for image in images(7):
            stream.add(image)
    assert not stream.full
    stream.clear()
    assert len(stream) == 0


def test_the_order_of_the_images_matters(network: ESTF) -> None:
    clip = images(8).transpose(0, 1).unsqueeze(0)
    with torch.no_grad():
        forwards, backwards = network(clip), network(clip.flip(2))
    assert not torch.allclose(forwards, backwards, rtol=1e-2, atol=1e-2)


def test_clips_of_a_batch_do_not_mix(network: ESTF) -> None:
    clips = images(16).reshape(2, 8, 3, 128, 128).transpose(1, 2)
    with torch.no_grad():
        both, first = network(clips), network(clips[:1])
    torch.testing.assert_close(both[:1], first, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 8, 3, 64, 64), (3, 8, 64, 64), (1, 3, 0, 64, 64)])
def test_a_clip_of_another_layout_is_refused(network: ESTF, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="expected"):
        network(torch.zeros(shape))


def test_a_width_that_does_not_divide_into_cells_is_refused() -> None:
    with pytest.raises(ShapeError, match="multiple of 16"):
        ESTFConfig(dim=100)


@pytest.mark.parametrize(("name", "config"), [("estf_hardvs", ESTF_HARDVS), ("estf_compact", ESTF_COMPACT)])
def test_a_card_builds_its_configuration_and_states_its_input(name: str, config: ESTFConfig) -> None:
    card = find_card(name)
    with torch.device("meta"):
        assert build_network(card, ESTF).config == config
    assert card.events.size == (config.image_size, config.image_size)
    assert (card.events.clip_len, card.events.stride, card.events.mean) == (8, PUBLISHED_STRIDE, RGB_MEAN)
    assert (card.class_names[0], card.class_names[292]) == ("L type clamp back", "riding a bicycle")


def test_onnx_runtime_gives_the_same_scores_for_a_clip_and_for_a_stream(network: ESTF, tmp_path: Path) -> None:
    parts, cache = network.parts(), EngineCache(tmp_path)
    run = run_on({name: build_onnxruntime(part, cache, say=lambda _: None, threads=1) for name, part in parts.items()})
    seen = images(8)
    clip = seen.transpose(0, 1).unsqueeze(0)
    stream = ClipStream(network, run, stride=1)
    for image in seen:
        stream.add(image)
    with torch.no_grad():
        expected = network(clip)
        _, scores = network.recognise(clip, run)
    tolerance = 1e-3 * float(expected.std())
    np.testing.assert_allclose(scores.numpy(), expected.numpy(), rtol=1e-3, atol=tolerance)
    np.testing.assert_allclose(stream.logits().numpy(), expected[0].numpy(), rtol=1e-3, atol=tolerance)
