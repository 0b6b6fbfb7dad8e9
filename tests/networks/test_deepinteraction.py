"""DeepInteraction++: the published results, what a lost sensor changes, and export of the compact configuration."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from perception.engines.agreement import confirm_agreement
from perception.engines.export import export_onnx
from perception.engines.onnxruntime_engine import OnnxRuntimeEngine
from perception.errors import ShapeError
from perception.networks.card import find_card
from perception.networks.deepinteraction import (
    CLASSES,
    DEEPINTERACTION_COMPACT,
    DEEPINTERACTION_PLUSPLUS,
    IMAGE_DEVIATION,
    IMAGE_MEAN,
    DeepInteraction,
    DeepInteractionConfig,
    Detections,
    fill_views,
    prepare_lidar,
)
from perception.networks.layers.interaction_decoder import box_corners
from perception.networks.layers.interaction_parts import Sizes, example_rig
from perception.networks.layers.sparse_encoder import SparseEncoderConfig
from perception.networks.layers.swin import SwinConfig
from perception.networks.load import build_network
from perception.networks.parity.case import read_case
from perception.networks.parity.verify import verify_case
from perception.networks.part import run_in_torch
from perception.networks.weights import fill

GOLDEN = Path(__file__).parent.parent / "golden" / "deepinteraction"
STAGES = ("image_encoder", "lidar_encoder", "fusion_encoder", "head", "end_to_end")

TINY = replace(
    DEEPINTERACTION_COMPACT,
    image_size=(64, 96),
    voxel_size=(0.8, 0.8, 0.2),
    pillar_size=(6.4, 6.4, 8.0),
    sparse=replace(DEEPINTERACTION_COMPACT.sparse, grid=(41, 128, 128)),
    decoder=replace(DEEPINTERACTION_COMPACT.decoder, queries=40, cell=(6.4, 6.4)),
)
"""The compact network on a coarse grid and small images, for tests."""


@pytest.fixture(scope="module")
def network() -> DeepInteraction:
    network = DeepInteraction(TINY).eval()
    fill(network)
    return network


@pytest.fixture(scope="module")
def scene() -> tuple[Tensor, NDArray[np.float32], Tensor, Tensor]:
    """Four images, a cloud, and the rig's two transforms."""
    rng = np.random.default_rng(0)
    points = rng.uniform((-50, -50, -2, 0, 0), (50, 50, 2, 255, 0.5), (4000, 5)).astype(np.float32)
    images = torch.randn(1, 4, 3, *TINY.image_size, generator=torch.Generator().manual_seed(0))
    return images, points, *example_rig(Sizes(1, 4, TINY.image_size, TINY.geometry))


def detect(
    network: DeepInteraction, scene: tuple[Tensor, NDArray[np.float32], Tensor, Tensor], kept: list[int], views: int = 1
) -> Detections:
    images, points, image_from_lidar, lidar_from_camera = scene
    run = run_in_torch(network.parts(views=max(len(kept), views)))
    rig = (image_from_lidar[:, kept], lidar_from_camera[:, kept])
    with torch.no_grad():
        return network.detect(images[:, kept], [points], *rig, run, views)[0]


def test_the_whole_network_equals_the_published_one() -> None:
    verdict, _ = verify_case(read_case(GOLDEN / "end_to_end.json"))  # origin and commit: in the json
    assert verdict.passed, [(row.name, row.worst) for row in verdict.rows if not row.passed]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_equals_the_published_one(golden_folder: Path, stage: str) -> None:
    verdict, _ = verify_case(read_case(golden_folder / "deepinteraction" / f"{stage}.json"))
    assert verdict.passed, [(row.name, row.worst) for row in verdict.rows if not row.passed]


def test_the_published_configuration_has_the_published_parameters_under_their_names() -> None:
    notes = json.loads((GOLDEN / "end_to_end.json").read_text())  # its grid is coarser, which no shape depends on
    with torch.device("meta"):
        network = DeepInteraction(DEEPINTERACTION_PLUSPLUS)
    ours = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert ours == dict(notes["params"])
    assert sum(parameter.numel() for parameter in network.parameters()) == 62_734_670


def test_the_compact_configuration_has_at_most_six_million_parameters() -> None:
    with torch.device("meta"):
        network = DeepInteraction(DEEPINTERACTION_COMPACT)
    assert sum(parameter.numel() for parameter in network.parameters()) <= 6_000_000


@pytest.mark.parametrize(
    ("name", "config"),
    [("deepinteraction_nuscenes", DEEPINTERACTION_PLUSPLUS), ("deepinteraction_compact", DEEPINTERACTION_COMPACT)],
)
def test_the_cards_build_their_configurations_and_say_what_they_expect(name: str, config: DeepInteractionConfig) -> None:
    card = find_card(name)
    with torch.device("meta"):
        assert build_network(card, DeepInteraction).config == config
    assert card.class_names == CLASSES
    assert card.image.size == config.image_size
    np.testing.assert_allclose(np.multiply(card.image.mean, 255), IMAGE_MEAN, atol=1e-3)
    np.testing.assert_allclose(np.multiply(card.image.std, 255), IMAGE_DEVIATION, atol=1e-3)
    assert (*card.points.minimum_m, *card.points.maximum_m) == config.point_range
    assert 3 + len(card.points.features) == config.sparse.in_channels


def test_a_camera_left_out_is_the_same_as_one_that_sees_nothing(
    network: DeepInteraction, scene: tuple[Tensor, NDArray[np.float32], Tensor, Tensor]
) -> None:
    left_out, blind = detect(network, scene, [0, 2, 3]), detect(network, scene, [0, 2, 3], views=4)
    torch.testing.assert_close(left_out.boxes, blind.boxes, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(left_out.scores, blind.scores)
    with_all = detect(network, scene, [0, 1, 2, 3])
    assert not torch.allclose(with_all.scores, left_out.scores)  # the camera did matter


def test_the_order_of_cameras_matters_only_where_views_overlap(
    network: DeepInteraction, scene: tuple[Tensor, NDArray[np.float32], Tensor, Tensor]
) -> None:
    # Level cameras at right angles with 80 degrees of view do not overlap, so no query is on two views
    straight, shuffled = detect(network, scene, [0, 1, 2, 3]), detect(network, scene, [2, 0, 3, 1])
    torch.testing.assert_close(straight.boxes, shuffled.boxes, rtol=1e-4, atol=1e-4)


def test_it_runs_on_lidar_alone_and_on_cameras_alone(
    network: DeepInteraction, scene: tuple[Tensor, NDArray[np.float32], Tensor, Tensor]
) -> None:
    images, points, image_from_lidar, lidar_from_camera = scene
    assert detect(network, scene, []).boxes.isfinite().all()
    no_points = (images, points[:0], image_from_lidar, lidar_from_camera)
    assert detect(network, no_points, [0, 1, 2, 3]).boxes.isfinite().all()


def test_a_batch_does_not_mix_its_samples(
    network: DeepInteraction, scene: tuple[Tensor, NDArray[np.float32], Tensor, Tensor]
) -> None:
    images, points, *rig = scene
    other = points * np.array([-1, 1, 1, 1, 1], np.float32)
    pair = (torch.cat([images, images.flip(1)]), [points, other], *(torch.cat([x, x]) for x in rig))
    with torch.no_grad():
        both = network.detect(*pair, run_in_torch(network.parts(2, 4)))
    alone = detect(network, scene, [0, 1, 2, 3])
    torch.testing.assert_close(both[0].boxes, alone.boxes, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_together_is_refused(
    network: DeepInteraction, scene: tuple[Tensor, NDArray[np.float32], Tensor, Tensor]
) -> None:
    images, points, image_from_lidar, lidar_from_camera = scene
    run = run_in_torch(network.parts(views=4))
    with pytest.raises(ShapeError, match="clouds"):
        network.detect(images, [points, points], image_from_lidar, lidar_from_camera, run)
    with pytest.raises(ShapeError, match="image_from_lidar"):
        network.detect(images, [points], image_from_lidar[:, :3], lidar_from_camera, run)
    with pytest.raises(ShapeError, match="cloud"):
        network.detect(images, [points[:, :4]], image_from_lidar, lidar_from_camera, run)
    with pytest.raises(ShapeError, match="images"):
        network.detect(images[..., :32], [points], image_from_lidar, lidar_from_camera, run)
    with pytest.raises(ShapeError, match="compiled for 3"):
        fill_views(images, image_from_lidar, lidar_from_camera, 3)


@pytest.mark.parametrize("name", ["image", "sparse_encoder", "bev_backbone", "interaction", "decoder"])
def test_every_part_runs_in_onnx_runtime_like_in_torch(network: DeepInteraction, name: str, tmp_path: Path) -> None:
    part = network.parts(views=3)[name]
    export_onnx(part, tmp_path / "graph.onnx")
    confirm_agreement(OnnxRuntimeEngine(part, tmp_path / "graph.onnx", threads=1), part)


def test_the_engines_take_a_frame_with_other_counts_of_voxels_and_pillars(
    network: DeepInteraction, scene: tuple[Tensor, NDArray[np.float32], Tensor, Tensor], tmp_path: Path
) -> None:
    images, points, *rig = scene
    parts = network.parts(views=4)
    engines = {}
    for name in ("sparse_encoder", "interaction"):
        export_onnx(parts[name], tmp_path / f"{name}.onnx")
        engines[name] = OnnxRuntimeEngine(parts[name], tmp_path / f"{name}.onnx", threads=1)
    in_torch = run_in_torch(parts)

    def run(name: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if name not in engines:
            return dict(in_torch(name, inputs))
        outputs = engines[name].run({key: value.numpy() for key, value in inputs.items()})
        return {key: torch.from_numpy(np.array(value)) for key, value in outputs.items()}

    with torch.no_grad():
        compiled = network.detect(images, [points], *rig, run, 4)[0]  # type: ignore[arg-type]
    eager = detect(network, scene, [0, 1, 2, 3])
    torch.testing.assert_close(compiled.boxes, eager.boxes, rtol=1e-3, atol=1e-3)


def test_all_multiply_adds_of_layers_are_inside_parts(
    network: DeepInteraction, scene: tuple[Tensor, NDArray[np.float32], Tensor, Tensor]
) -> None:
    images, points, *rig = scene
    run, inside = run_in_torch(network.parts(views=4)), 0

    def counted(name: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        nonlocal inside
        with FlopCounterMode(display=False) as part:
            outputs = run(name, inputs)
        inside += part.get_total_flops()
        return dict(outputs)

    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        network.detect(images, [points], *rig, counted)  # type: ignore[arg-type]
    assert inside >= 0.95 * whole.get_total_flops()


def test_voxels_at_the_border_of_the_range_are_kept_as_published() -> None:
    points = np.array([[-51.2, -51.2, -5, 1, 0], [51.19, 51.19, 2.99, 2, 0], [51.2, 0, 0, 3, 0]], np.float32)
    lidar = prepare_lidar([points], TINY)
    assert sorted(lidar.voxels[:, 3].tolist()) == [1.0, 2.0]  # the upper border is outside


def test_box_corners_turn_clockwise_as_in_mmdet3d_before_1_0() -> None:
    # A box of 4 x 2 x 1 at the origin, turned by +90 degrees: its front (+x) points to -y in that convention.
    corners = box_corners(torch.tensor([0.0, 0.0, 0.0, 4.0, 2.0, 1.0, torch.pi / 2]))
    front = corners[4:].mean(0)  # the corners at +x before turning
    torch.testing.assert_close(front, torch.tensor([0.0, -2.0, 0.5]), atol=1e-6, rtol=0)


def test_odd_image_sizes_are_padded_by_the_backbone() -> None:
    config = replace(TINY, swin=SwinConfig(8, (1, 2), (1, 2)))
    backbone: nn.Module = DeepInteraction(config).img_backbone.eval()
    with torch.no_grad():
        first, second = backbone(torch.randn(1, 3, 37, 50))
    assert first.shape == (1, 8, 10, 13)
    assert second.shape == (1, 16, 5, 7)


def test_the_output_grid_follows_from_the_strides() -> None:
    assert SparseEncoderConfig().out_grid == (2, 180, 180)
