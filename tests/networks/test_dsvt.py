"""DSVT: published names, counts and cards; samples on their own; pooling; what is read out; all variants exported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perception.engines.choose import EngineSettings, compile_parts
from perception.engines.coverage import macs_of
from perception.engines.engine import run_on
from perception.networks.card import find_card
from perception.networks.dsvt import DSVT, Attention, DSVTConfig, StageConfig
from perception.networks.layers.bev_backbone import BevBackboneConfig
from perception.networks.layers.boxes import Boxes3D
from perception.networks.layers.center_head import BevCells, CenterHeadConfig, read_out, suppress
from perception.networks.layers.transfusion_head import TransFusionConfig, TransFusionHead
from perception.networks.load import build_network
from perception.networks.parity import dsvt as adapter
from perception.networks.parity.case import read_case
from perception.networks.parity.verify import verify_case
from perception.networks.part import run_in_torch
from perception.networks.weights import fill
from perception.ops.window_sets import window_sets

PUBLISHED = [("dsvt_pillar_waymo", "pillar_full"), ("dsvt_voxel_waymo", "voxel_b"), ("dsvt_nuscenes", "nusc_b")]

SMALL_VOXEL = DSVTConfig(
    minimum_m=(-6.4, -6.4, -2.0),
    voxel_m=(0.32, 0.32, 0.75),
    grid=(40, 40, 8),
    channels=16,
    heads=2,
    hidden=32,
    stages=(
        StageConfig(((12, 12, 8), (24, 24, 8)), (6, 6, 0), 12, blocks=1, pool_z=4),
        StageConfig(((12, 12, 2), (24, 24, 2)), (6, 6, 0), 12, blocks=1, pool_z=2),
        StageConfig(((12, 12, 1), (24, 24, 1)), (6, 6, 0), 12, blocks=2),
    ),
    backbone=BevBackboneConfig(16, (0, 0), (1, 2), (16, 16), (1, 2), (16, 16)),
    center_head=CenterHeadConfig(in_channels=32, shared_channels=16),
)
"""The shape of the voxel variant: three stages, pooled along z from eight layers to two to one."""


def filled(network: DSVT) -> DSVT:
    fill(network)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def voxel() -> DSVT:
    return filled(DSVT(SMALL_VOXEL))


def cloud(count: int, sample: int = 0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    xyz = (torch.rand(count, 3, generator=generator) - 0.5) * torch.tensor([13.0, 13.0, 8.0])
    features = torch.rand(count, 2, generator=generator)
    return torch.cat((torch.full((count, 1), float(sample)), xyz, features), dim=1)


@pytest.mark.parametrize(("card", "case"), PUBLISHED)
def test_a_published_card_describes_the_published_network(card: str, case: str, golden_folder: Path) -> None:
    read = read_case(golden_folder / "dsvt" / f"{case}.json")
    with torch.device("meta"):
        network = build_network(find_card(card), DSVT)
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == dict(read.notes["params"])
    config = adapter.build(read).config
    same = replace(network.config, minimum_m=config.minimum_m, grid=config.grid)  # cases are crops
    if config.head == "center":  # the head that is not there does not count
        same = replace(same, transfusion_head=config.transfusion_head)
    else:
        same = replace(same, center_head=config.center_head)
    assert same == config


@pytest.mark.parametrize("case", ["pillar_a", "voxel_b", "nusc_a"])
def test_a_variant_passes_a_published_case(case: str, golden_folder: Path) -> None:
    verdict, _ = verify_case(read_case(golden_folder / "dsvt" / f"{case}.json"))
    assert verdict.passed, verdict


def test_a_sample_does_not_see_its_neighbours_in_the_batch(voxel: DSVT) -> None:
    run = run_in_torch(voxel.parts())
    samples = [cloud(400, 0, 1), cloud(0), cloud(1, 2, 2), cloud(300, 3, 3)]
    together = {name: value.clone() for name, value in voxel.maps(torch.cat(samples), 4, run).items()}
    for number, sample in enumerate(samples):
        alone = torch.cat((torch.zeros(len(sample), 1), sample[:, 1:]), dim=1)
        for name, value in voxel.maps(alone, 1, run).items():
            torch.testing.assert_close(together[name][number : number + 1], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", [0, 1], ids=["by y", "by x"])
def test_attention_within_sets_is_torchs_without_the_slots_that_repeat_a_voxel(order: int) -> None:
    generator = torch.Generator().manual_seed(0)
    cells = torch.unique((torch.rand(300, 2, generator=generator) * 30).long(), dim=0)
    coords = torch.cat((torch.zeros(len(cells), 2, dtype=torch.long), cells), dim=1).int()
    sets = window_sets(coords, (30, 30, 1), (12, 12, 1), (6, 6, 0), 36)
    index, first = sets.index[order], sets.first[order]
    x, position = torch.randn(2, len(coords), 16, generator=generator)
    ours, theirs = Attention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    nn.init.normal_(ours.in_proj_bias, generator=generator)
    theirs.load_state_dict(ours.state_dict())
    repeated = torch.zeros_like(index, dtype=torch.bool)
    repeated[:, 1:] = index[:, 1:] == index[:, :-1]
    assert repeated.float().mean() > 0.2
    key = (x + position)[index]
    expected = theirs(key, key, x[index], repeated)[0].flatten(0, 1)[first]
    torch.testing.assert_close(ours.within_sets(x + position, x, index, sets.bias[order], first), expected)


def test_pooling_puts_each_voxel_into_the_slot_of_its_height(voxel: DSVT) -> None:
    coords = torch.tensor([(0, 0, 3, 2), (0, 3, 3, 2), (0, 5, 3, 2), (0, 1, 0, 5), (1, 7, 3, 2)], dtype=torch.int32)
    x = torch.arange(5.0).add(1).unsqueeze(1).expand(5, 16)
    seen: list[Tensor] = []

    def run(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        seen.append(inputs["slots"][:, :, 0])
        return {"pooled": inputs["slots"].sum(dim=1)}

    pooled, found = voxel.pooled(x, coords, 0, run)
    # ordered by batch, x, y, z; four layers become one
    assert found.tolist() == [[0, 0, 3, 2], [0, 1, 3, 2], [0, 0, 0, 5], [1, 1, 3, 2]]
    assert seen[0].tolist() == [[1, 0, 0, 2], [0, 3, 0, 0], [0, 4, 0, 0], [0, 0, 0, 5]]
    assert pooled[:, 0].tolist() == [3, 3, 4, 5]


def test_an_odd_number_of_layers_is_pooled_to_the_ceiling() -> None:
    # 20 layers over 4, 4 and 2: 5, 2 (the ceiling of 1.25) and 1; the position is of x, y, z while there are layers
    stages = tuple(StageConfig(((12, 12, z), (24, 24, z)), (6, 6, 0), 12, blocks=1, pool_z=pool)
                   for z, pool in ((20, 4), (5, 4), (2, 2), (1, 1)))  # fmt: skip
    network = filled(DSVT(replace(SMALL_VOXEL, voxel_m=(0.32, 0.32, 0.3), grid=(40, 40, 20), stages=stages)))
    numbers = [
        network.backbone_3d.input_layer.posembed_layers[stage][0][0].position_embedding_head[0].in_features  # type: ignore[index]
        for stage in range(4)
    ]
    assert numbers == [3, 3, 3, 2]
    maps = network.maps(cloud(500), 1, run_in_torch(network.parts()))
    assert maps["hm"].shape == (1, 3, 40, 40)


def test_the_window_of_a_query_is_around_its_cell_on_a_map_that_is_not_square() -> None:
    head = TransFusionHead(TransFusionConfig(in_channels=16, channels=16, heads=2, hidden=16, proposals=6)).eval()
    fill(head)
    x, y = 70, 50
    maps = {"shared": torch.randn(1, 16, x, y), "dense_heatmap": torch.full((1, 10, x, y), -9.0)}
    maps["dense_heatmap"][0, 3, 30, 24] = 2.0  # a car at cell x 30, y 24
    seen: dict[str, Tensor] = {}

    def run(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        seen.update(inputs)
        return run_in_torch(head.parts())(name, inputs)

    with torch.no_grad():
        numbers = head.decoded(maps, run)
    assert numbers["query_labels"][0, 0] == 3
    assert seen["place"][0, 0].tolist() == [30.5, 24.5]
    around = [[30 + dx + 0.5, 24 + dy + 0.5] for dx in range(-20, 21) for dy in range(-20, 21)]
    assert seen["places"][seen["index"][0, 0]].tolist() == around
    assert not seen["left_out"][0, 0].any()


def test_onnx_runtime_gives_the_maps_of_torch_for_the_voxel_variant(
    voxel: DSVT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path))
    run = run_on(compile_parts(voxel.parts(), EngineSettings("onnxruntime", "fp32", 1)))
    for points in (cloud(1), cloud(900, seed=9)):
        expected = {name: x.clone() for name, x in voxel.maps(points, 1, run_in_torch(voxel.parts())).items()}
        for name, value in voxel.maps(points, 1, run).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-3)


def test_nearly_all_multiply_adds_of_the_compact_network_are_in_parts() -> None:
    network = filled(build_network(find_card("dsvt_compact"), DSVT))
    points = (torch.rand(20_000, 5, generator=torch.Generator().manual_seed(1)) - 0.5) * torch.tensor([51, 51, 4, 1, 1])
    assert macs_of(network.parts(), lambda run: network.detect(points, run)).share >= 0.95


def test_a_box_is_read_out_of_its_cell() -> None:
    config = CenterHeadConfig(num_classes=3, iou_power=(0.5, 0.5, 0.5))
    maps = {"center": torch.zeros(1, 2, 4, 6), "center_z": torch.full((1, 1, 4, 6), 0.7),
            "dim": torch.zeros(1, 3, 4, 6), "rot": torch.zeros(1, 2, 4, 6), "iou": torch.zeros(1, 1, 4, 6),
            "hm": torch.full((1, 3, 4, 6), -20.0)}  # fmt: skip
    maps["hm"][0, 1, 2, 5] = 0.0  # pedestrian, score 0.5, row 2, column 5
    maps["center"][0, :, 2, 5] = torch.tensor([0.25, 0.5])
    maps["dim"][0, :, 2, 5] = torch.tensor([4.0, 2.0, 1.5]).log()
    maps["rot"][0, :, 2, 5] = torch.tensor([0.0, 1.0])  # cosine, sine
    (boxes,) = read_out(maps, config, BevCells((-10.0, -20.0), (2.0, 4.0)))
    torch.testing.assert_close(boxes.center, torch.tensor([[0.5, -10.0, 0.7]]))
    torch.testing.assert_close(boxes.size, torch.tensor([[4.0, 2.0, 1.5]]))
    torch.testing.assert_close(boxes.yaw, torch.tensor([torch.pi / 2]))
    torch.testing.assert_close(boxes.score, torch.tensor([0.5]))  # sqrt(0.5) times the root of (0 + 1) / 2
    assert boxes.label.tolist() == [1]


def test_suppression_is_by_class_and_best_first() -> None:
    at = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0.1, 0, 0], [9.0, 0, 0]])
    boxes = Boxes3D(at, torch.tensor([[4.0, 2, 1.5]]).repeat(4, 1), torch.zeros(4), torch.tensor([0.5, 0.9, 0.8, 0.3]),
                    torch.tensor([0, 0, 1, 0]))  # fmt: skip
    kept = suppress(boxes, CenterHeadConfig())
    assert kept.label.tolist() == [0, 0, 1]
    torch.testing.assert_close(kept.score, torch.tensor([0.9, 0.3, 0.8]))


def test_published_weights_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from perception.networks.import_weights import import_weights
    from perception.networks.load import load_network

    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path / "cache"))
    network = filled(build_network(find_card("dsvt_compact"), DSVT))
    path = tmp_path / "checkpoint_epoch_24.pth"
    torch.save({"model_state": network.state_dict(), "epoch": 24}, path)
    loaded = load_network(import_weights(path, "dsvt_compact").address, nn.Module)
    state: Any = loaded.network.state_dict()
    assert not loaded.untrained
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


def test_every_required_name_of_the_small_case_is_ours() -> None:
    notes = json.loads((Path(__file__).parents[1] / "golden" / "dsvt" / "nusc_b.json").read_text())
    with torch.device("meta"):
        own = build_network(find_card("dsvt_nuscenes"), DSVT).state_dict()
    assert set(own) == {name for name, _ in notes["params"]}
