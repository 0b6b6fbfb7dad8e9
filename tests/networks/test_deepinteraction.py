"""DeepInteraction++: the published results, what a lost sensor changes, and export of the compact configuration."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
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
from perception.networks.card import Card, find_card
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
from perception.networks.import_weights import fit
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
    point_range=(-51.2, -51.2, -5.0, 51.2, 51.2, 3.0),
    keep_box_range=(-60.0, -60.0, -10.0, 60.0, 60.0, 10.0),
    apart_m=(),
    voxel_size=(1.6, 1.6, 0.4),
    pillar_size=(6.4, 6.4, 8.0),
    sparse=replace(DEEPINTERACTION_COMPACT.sparse, grid=(21, 64, 64)),
    decoder=replace(DEEPINTERACTION_COMPACT.decoder, queries=40, origin=(-51.2, -51.2), cell=(6.4, 6.4)),
)
"""The compact network on a coarse grid and small images, for tests."""


@pytest.fixture(scope="module")
def network() -> DeepInteraction:
    network = DeepInteraction(TINY).eval()
    fill(network)
    return network


@dataclass(frozen=True)
class Scene:
    images: Tensor  # (1, 4, 3, H, W)
    points: NDArray[np.float32]
    image_from_lidar: Tensor
    lidar_from_camera: Tensor


@pytest.fixture(scope="module")
def scene() -> Scene:
    rng = np.random.default_rng(0)
    points = rng.uniform((-50, -50, -2, 0, 0), (50, 50, 2, 255, 0.5), (4000, 5)).astype(np.float32)
    images = torch.randn(1, 4, 3, *TINY.image_size, generator=torch.Generator().manual_seed(0))
    return Scene(images, points, *example_rig(Sizes(1, 4, TINY.image_size, TINY.geometry)))


def detect(network: DeepInteraction, scene: Scene, kept: list[int], views: int = 1) -> Detections:
    run = run_in_torch(network.parts(views=max(len(kept), views)))
    with torch.no_grad():
        return network.detect(
            scene.images[:, kept],
            [scene.points],
            scene.image_from_lidar[:, kept],
            scene.lidar_from_camera[:, kept],
            run,
            views,
        )[0]


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


def test_checkpoints_in_the_layout_of_spconv_2_are_read(network: DeepInteraction) -> None:
    state = network.state_dict()
    stored = {name: x.permute(4, 0, 1, 2, 3) if x.dim() == 5 else x for name, x in state.items()}
    fitted, dropped = fit(stored, _card_of(network), "a checkpoint")
    assert not dropped
    assert all(torch.equal(fitted[name], value) for name, value in state.items())


def _card_of(network: DeepInteraction) -> Card:
    settings = dataclasses.asdict(network.config)
    return find_card("deepinteraction_compact").model_copy(update={"configuration": settings})


def test_the_compact_configuration_has_at_most_six_million_parameters() -> None:
    with torch.device("meta"):
        network = DeepInteraction(DEEPINTERACTION_COMPACT)
    assert sum(parameter.numel() for parameter in network.parameters()) <= 6_000_000


@pytest.mark.parametrize(
    ("name", "config", "classes"),
    [
        ("deepinteraction_nuscenes", DEEPINTERACTION_PLUSPLUS, CLASSES),
        ("deepinteraction_compact", DEEPINTERACTION_COMPACT, ("car", "truck", "bus", "pedestrian", "cyclist")),
    ],
)
def test_the_cards_build_their_configurations_and_say_what_they_expect(
    name: str, config: DeepInteractionConfig, classes: tuple[str, ...]
) -> None:
    card = find_card(name)
    with torch.device("meta"):
        assert build_network(card, DeepInteraction).config == config
    assert card.class_names == classes
    assert config.decoder.classes == len(classes)
    assert card.image.size == config.image_size
    np.testing.assert_allclose(np.multiply(card.image.mean, 255), IMAGE_MEAN, atol=1e-3)
    np.testing.assert_allclose(np.multiply(card.image.std, 255), IMAGE_DEVIATION, atol=1e-3)
    assert (*card.points.minimum_m, *card.points.maximum_m) == config.point_range
    assert 3 + len(card.points.features) == config.sparse.in_channels


def test_a_camera_left_out_is_the_same_as_one_that_sees_nothing(network: DeepInteraction, scene: Scene) -> None:
    left_out, blind = detect(network, scene, [0, 2, 3]), detect(network, scene, [0, 2, 3], views=4)
    torch.testing.assert_close(left_out.boxes, blind.boxes, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(left_out.scores, blind.scores)
    with_all = detect(network, scene, [0, 1, 2, 3])
    assert not torch.allclose(with_all.scores, left_out.scores)  # the camera did matter


def test_the_order_of_cameras_matters_only_where_views_overlap(network: DeepInteraction, scene: Scene) -> None:
    # Level cameras at right angles with 80 degrees of view do not overlap, so no query is on two views
    straight, shuffled = detect(network, scene, [0, 1, 2, 3]), detect(network, scene, [2, 0, 3, 1])
    torch.testing.assert_close(straight.boxes, shuffled.boxes, rtol=1e-4, atol=1e-4)


def test_it_runs_on_lidar_alone_and_on_cameras_alone(network: DeepInteraction, scene: Scene) -> None:
    assert detect(network, scene, []).boxes.isfinite().all()
    assert detect(network, replace(scene, points=scene.points[:0]), [0, 1, 2, 3]).boxes.isfinite().all()


def test_what_is_learned_without_images_is_what_it_says_where_no_camera_sees(
    network: DeepInteraction, scene: Scene
) -> None:
    parts = run_in_torch(network.parts())
    none = (scene.images[:, :0], scene.image_from_lidar[:, :0], scene.lidar_from_camera[:, :0])
    with torch.no_grad():
        blind = network.decoded(none[0], [scene.points], *none[1:], parts)
        alone = network.decoded_without_images([scene.points], parts)
    queries = blind.query_labels.shape[1]
    torch.testing.assert_close(alone[:5], blind[:5])
    for ours, theirs in zip(alone.fields, blind.fields, strict=True):
        torch.testing.assert_close(ours[..., :queries], theirs[..., -queries:])  # all fell back to the first layer


def test_a_batch_does_not_mix_its_samples(network: DeepInteraction, scene: Scene) -> None:
    other = scene.points * np.array([-1, 1, 1, 1, 1], np.float32)
    images = torch.cat([scene.images, scene.images.flip(1)])
    rig = [torch.cat([x, x]) for x in (scene.image_from_lidar, scene.lidar_from_camera)]
    with torch.no_grad():
        both = network.detect(images, [scene.points, other], rig[0], rig[1], run_in_torch(network.parts(2, 4)))
    alone = detect(network, scene, [0, 1, 2, 3])
    torch.testing.assert_close(both[0].boxes, alone.boxes, rtol=1e-4, atol=1e-4)


def test_of_boxes_of_one_class_that_lie_together_the_surest_stays(network: DeepInteraction, scene: Scene) -> None:
    classes = network.config.decoder.classes
    every = detect(network, scene, [0, 1, 2, 3])
    together = DeepInteraction(replace(network.config, apart_m=(0.0, *(20.0,) * (classes - 1)))).eval()
    together.load_state_dict(network.state_dict())
    kept = detect(together, scene, [0, 1, 2, 3])
    expected: list[int] = []
    for k in torch.argsort(every.scores, descending=True, stable=True).tolist():  # by the plain definition
        same = [j for j in expected if every.labels[j] == every.labels[k] and every.labels[k] > 0]
        if all((every.boxes[j, :2] - every.boxes[k, :2]).norm() >= 20.0 for j in same):
            expected.append(k)
    assert len(expected) < len(every.scores)
    expected.sort()
    torch.testing.assert_close(kept.boxes, every.boxes[expected], rtol=0, atol=0)
    torch.testing.assert_close(kept.scores, every.scores[expected], rtol=0, atol=0)
    assert kept.labels.tolist() == every.labels[expected].tolist()
    short = DeepInteraction(replace(network.config, apart_m=(1.0,))).eval()
    with pytest.raises(ShapeError, match="one for each class"):
        detect(short, scene, [0, 1, 2, 3])


def test_what_does_not_fit_together_is_refused(network: DeepInteraction, scene: Scene) -> None:
    images, points = scene.images, scene.points
    image_from_lidar, lidar_from_camera = scene.image_from_lidar, scene.lidar_from_camera
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


@pytest.fixture(scope="module")
def engine_of(network: DeepInteraction, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], OnnxRuntimeEngine]:
    folder, parts = tmp_path_factory.mktemp("engines"), network.parts(views=4)

    @lru_cache
    def built(name: str) -> OnnxRuntimeEngine:
        export_onnx(parts[name], folder / f"{name}.onnx")
        return OnnxRuntimeEngine(parts[name], folder / f"{name}.onnx", threads=1)

    return built


@pytest.mark.parametrize("name", ["image", "sparse_encoder", "bev_backbone", "interaction", "decoder"])
def test_every_part_runs_in_onnx_runtime_like_in_torch(
    network: DeepInteraction, engine_of: Callable[[str], OnnxRuntimeEngine], name: str
) -> None:
    confirm_agreement(engine_of(name), network.parts(views=4)[name])


def test_the_engines_take_a_frame_with_other_counts_of_voxels_and_pillars(
    network: DeepInteraction, scene: Scene, engine_of: Callable[[str], OnnxRuntimeEngine]
) -> None:
    parts = network.parts(views=4)
    engines = {name: engine_of(name) for name in ("sparse_encoder", "interaction")}
    in_torch = run_in_torch(parts)

    def run(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if name not in engines:
            return in_torch(name, inputs)
        outputs = engines[name].run({key: value.numpy() for key, value in inputs.items()})
        return {key: torch.from_numpy(np.array(value)) for key, value in outputs.items()}

    with torch.no_grad():
        compiled = network.detect(
            scene.images, [scene.points], scene.image_from_lidar, scene.lidar_from_camera, run, 4
        )[0]
    eager = detect(network, scene, [0, 1, 2, 3])
    torch.testing.assert_close(compiled.boxes, eager.boxes, rtol=1e-3, atol=1e-3)


def test_all_multiply_adds_of_layers_are_inside_parts(network: DeepInteraction, scene: Scene) -> None:
    run, inside = run_in_torch(network.parts(views=4)), 0

    def counted(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        nonlocal inside
        with FlopCounterMode(display=False) as part:
            outputs = run(name, inputs)
        inside += part.get_total_flops()
        return outputs

    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        network.detect(scene.images, [scene.points], scene.image_from_lidar, scene.lidar_from_camera, counted)
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


def test_boxes_of_mmdet3d_0_x_become_ours_with_the_same_corners() -> None:
    published = torch.tensor(
        [[3.0, -4.0, 0.5, 2.0, 4.5, 1.5, 0.3, 5.0, 1.0], [0.0, 9.0, -1.0, 0.6, 0.7, 1.8, -2.9, 0.0, 0.0]]
    )
    boxes = Detections(published, torch.ones(2), torch.zeros(2, dtype=torch.int64)).upright_boxes()
    np.testing.assert_allclose(boxes.size_lwh_m[0], [4.5, 2.0, 1.5])
    theirs, ours = box_corners(published[:, :7]).numpy(), boxes.corners()
    for box in range(2):
        distances = np.linalg.norm(theirs[box][:, None] - ours[box][None], axis=2)
        np.testing.assert_allclose(distances.min(0), 0, atol=1e-5)


def test_odd_image_sizes_are_padded_by_the_backbone() -> None:
    config = replace(TINY, swin=SwinConfig(8, (1, 2), (1, 2)))
    backbone: nn.Module = DeepInteraction(config).img_backbone.eval()
    with torch.no_grad():
        first, second = backbone(torch.randn(1, 3, 37, 50))
    assert first.shape == (1, 8, 10, 13)
    assert second.shape == (1, 16, 5, 7)


def test_the_output_grid_follows_from_the_strides() -> None:
    assert SparseEncoderConfig().out_grid == (2, 180, 180)
