"""EgoPoseFormer: published names and counts, the way of a joint through the network, and export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from perception.engines.cache import EngineCache
from perception.engines.engine import run_on
from perception.engines.onnxruntime_engine import build_onnxruntime
from perception.errors import ShapeError
from perception.geometry.cameras import Camera
from perception.networks.card import find_card
from perception.networks.egoposeformer import (
    EGOPOSEFORMER_COMPACT,
    EGOPOSEFORMER_MONO,
    EGOPOSEFORMER_STEREO,
    EgoPoseFormer,
    EgoPoseFormerConfig,
    HeatmapNetwork,
)
from perception.networks.load import build_network
from perception.networks.weights import fill
from perception.ops.joint_projection import camera_projection, unrealego_projection

REFERENCES = torch.tensor([[[[-3.0, 2.0, 45.0]], [[3.0, 2.0, 45.0]]]])


@pytest.fixture
def network() -> EgoPoseFormer:
    """The compact network with filled weights, its proposal spread over centimetres."""
    compact = EgoPoseFormer(EGOPOSEFORMER_COMPACT).eval()
    fill(compact)
    for parameter in compact.mlp_pred[-1].parameters():
        parameter.data *= 200
    return compact


def pictures(batch: int = 1, views: int = 2) -> torch.Tensor:
    return torch.randn(batch, views, 3, 192, 192, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("kind", "case", "count"),
    [(EgoPoseFormer, "pose3d_stereo", 14_172_601), (HeatmapNetwork, "heatmap_mono_b2", 11_843_279)],
)
def test_a_published_network_has_the_published_names_and_count(
    kind: type[EgoPoseFormer] | type[HeatmapNetwork], case: str, count: int, golden_folder: Path
) -> None:
    notes = json.loads((golden_folder / "egoposeformer" / f"{case}.json").read_text())
    with torch.device("meta"):
        published = kind(EGOPOSEFORMER_STEREO)
    assert {f"model.{name}": tuple(value.shape) for name, value in published.state_dict().items()} == {
        name: tuple(shape) for name, shape in notes["params"]
    }
    assert sum(parameter.numel() for parameter in published.parameters()) == count


@pytest.mark.parametrize("kind", [EgoPoseFormer, HeatmapNetwork])
def test_the_compact_configuration_has_at_most_three_million_parameters(
    kind: type[EgoPoseFormer] | type[HeatmapNetwork],
) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in kind(EGOPOSEFORMER_COMPACT).parameters()) <= 3_000_000


def test_the_one_view_form_runs_with_its_own_camera() -> None:
    mono = EgoPoseFormer(EGOPOSEFORMER_MONO).eval()
    fill(mono)
    with torch.no_grad():
        poses = mono(torch.randn(1, 1, 3, 256, 256), REFERENCES[:, :1], unrealego_projection)
    assert poses.shape == (1, 4, 16, 3)
    assert poses.isfinite().all()


def test_every_layer_offsets_the_proposal(network: EgoPoseFormer) -> None:
    with torch.no_grad():
        poses = network(pictures(), REFERENCES, unrealego_projection)
        for parameter in network.reg_mlp.parameters():
            torch.nn.init.zeros_(parameter)
        still = network(pictures(), REFERENCES, unrealego_projection)
    assert poses.shape == (1, 3, 16, 3)
    assert (poses[:, 1:] - poses[:, :1]).abs().max() > 1e-2
    torch.testing.assert_close(still, still[:, :1].expand_as(still))


def test_a_joint_out_of_view_takes_nothing_from_that_view(network: EgoPoseFormer) -> None:
    config = network.config
    features = torch.randn(1, 2, config.dim, *config.feature_size)
    proposal, anchors = 20 * torch.randn(1, 16, 3), torch.rand(1, 2, 16, 2)
    in_view = torch.ones(1, 2, 16, dtype=torch.bool)
    in_view[:, 1] = False
    with torch.no_grad():
        poses = network.refine(features, proposal, anchors, in_view)
        features[:, 1] = torch.randn_like(features[:, 1])
        anchors[:, 1] = torch.rand(1, 16, 2)
        torch.testing.assert_close(network.refine(features, proposal, anchors, in_view), poses)
        in_view[:, 1, 0] = True
        assert not torch.allclose(network.refine(features, proposal, anchors, in_view), poses)


def test_a_joint_without_a_place_is_masked_and_leaves_the_others_finite(network: EgoPoseFormer) -> None:
    anchors, in_view = torch.full((1, 2, 16, 2), float("nan")), torch.zeros(1, 2, 16, dtype=torch.bool)
    with torch.no_grad():
        poses = network(pictures(), REFERENCES, lambda joints, references: (anchors, in_view))
    assert poses.isfinite().all()


def test_any_camera_model_may_project(network: EgoPoseFormer) -> None:
    camera = Camera("double_sphere", 640, 480, (300.0, 300.0), (319.5, 239.5), (-0.2, 0.59))
    with torch.no_grad():
        poses = network(pictures(), REFERENCES, camera_projection([camera, camera]))
    assert poses.isfinite().all()


def test_grey_pictures_are_pictures_of_three_equal_colours(network: EgoPoseFormer) -> None:
    grey = pictures()[:, :, 0]
    with torch.no_grad():
        torch.testing.assert_close(
            network(grey, REFERENCES, unrealego_projection),
            network(grey[:, :, None].repeat(1, 1, 3, 1, 1), REFERENCES, unrealego_projection),
        )


def test_pictures_of_another_size_are_refused(network: EgoPoseFormer) -> None:
    with pytest.raises(ShapeError, match="this network takes"):
        network(torch.rand(1, 2, 3, 256, 256), REFERENCES, unrealego_projection)
    with pytest.raises(ShapeError, match="multiples of 32"):
        EgoPoseFormerConfig(image_size=(250, 256))


def test_bodies_of_a_batch_do_not_mix(network: EgoPoseFormer) -> None:
    both = pictures(batch=2)
    with torch.no_grad():
        together = network(both, REFERENCES.expand(2, -1, -1, -1), unrealego_projection)
        first = network(both[:1], REFERENCES, unrealego_projection)
    torch.testing.assert_close(together[:1], first, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_the_neck_may_end_at_any_stride(stride: int) -> None:
    config = EgoPoseFormerConfig(image_size=(64, 96), out_stride=stride)  # type: ignore[arg-type]
    with torch.no_grad():
        heatmaps = HeatmapNetwork(config).eval()(torch.rand(2, 3, 64, 96))
    assert heatmaps.shape == (2, 15, 64 // stride, 96 // stride)


@pytest.mark.parametrize("name", ["egoposeformer_unrealego", "egoposeformer_mono", "egoposeformer_compact"])
def test_the_limbs_of_a_card_reach_every_joint_once(name: str) -> None:
    card = find_card(name)
    assert card.skeleton is not None
    assert [child for _, child in card.skeleton.limbs] == list(range(1, len(card.skeleton.joints)))
    assert all(parent < child for parent, child in card.skeleton.limbs)
    with torch.device("meta"):
        config = build_network(card, EgoPoseFormer).config
    assert (config.num_joints, config.num_views) == (len(card.skeleton.joints), card.image.views)
    assert config.image_size == card.image.size


def test_the_compact_card_is_the_compact_configuration() -> None:
    with torch.device("meta"):
        assert build_network(find_card("egoposeformer_compact"), EgoPoseFormer).config == EGOPOSEFORMER_COMPACT
        assert build_network(find_card("egoposeformer_mono"), EgoPoseFormer).config == EGOPOSEFORMER_MONO


def test_onnx_runtime_gives_the_same_poses_and_heatmaps(network: EgoPoseFormer, tmp_path: Path) -> None:
    heatmaps = HeatmapNetwork(EGOPOSEFORMER_COMPACT).eval()
    fill(heatmaps)
    parts = {**network.parts(), **heatmaps.parts()}
    cache = EngineCache(tmp_path)
    run = run_on({name: build_onnxruntime(part, cache, say=lambda _: None, threads=1) for name, part in parts.items()})
    image = pictures()
    with torch.no_grad():
        expected = network(image, REFERENCES, unrealego_projection)
        poses, _, _ = network.estimate(image, REFERENCES, unrealego_projection, run)
        expected_maps = heatmaps(image[0])
    torch.testing.assert_close(poses, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(run("heatmaps", {"image": image[0]})["heatmaps"], expected_maps, rtol=1e-3, atol=1e-3)
