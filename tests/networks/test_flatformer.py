"""FlatFormer: published names, counts and cards; its faults on request only; samples on their own; what is read out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perception.engines.coverage import macs_of
from perception.networks.card import find_card
from perception.networks.flatformer import BasicLayer, FlatFormer, FlatFormerConfig, Second
from perception.networks.import_weights import import_weights
from perception.networks.load import build_network, load_network
from perception.networks.parity import flatformer as adapter
from perception.networks.parity.case import read_case
from perception.networks.parity.verify import verify_case
from perception.networks.part import run_in_torch
from perception.networks.weights import fill

PUBLISHED = ("flatformer_waymo_1f", "flatformer_waymo_2f", "flatformer_waymo_3f")
SMALL = FlatFormerConfig(
    minimum_m=(-6.4, -6.4, -2.0), maximum_m=(6.4, 6.4, 4.0), grid=(40, 40), vfe_channels=(8, 16), heads=2, blocks=1,
    group=24, bev_channels=(16, 16), bev_layers=(1, 1), neck_channels=(8, 8), head_channels=8,
    coder_limit_m=(-6.4, -6.4, -10, 6.4, 6.4, 10),
)  # fmt: skip


def filled(network: FlatFormer) -> FlatFormer:
    fill(network)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def small() -> FlatFormer:
    return filled(FlatFormer(SMALL))


def cloud(count: int, sample: int = 0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    xyz = (torch.rand(count, 3, generator=generator) - 0.5) * torch.tensor([12.7, 12.7, 3.0])
    features = torch.rand(count, 2, generator=generator)
    return torch.cat((torch.full((count, 1), float(sample)), xyz, features), dim=1)


@pytest.mark.parametrize("card", PUBLISHED)
def test_a_published_card_describes_the_published_network(card: str, golden_folder: Path) -> None:
    read = read_case(golden_folder / "flatformer" / "full.json")
    with torch.device("meta"):
        network = build_network(find_card(card), FlatFormer)
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == dict(read.notes["params"])
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_268_110
    assert replace(network.config, published_faults=True) == adapter.build(read).config


@pytest.mark.parametrize(("card", "sweeps"), list(zip(PUBLISHED, (1, 2, 3), strict=True)))
def test_several_sweeps_take_the_place_of_elongation(card: str, sweeps: int) -> None:
    wanted = find_card(card).points
    assert wanted.sweeps == sweeps
    assert [feature.name for feature in wanted.features] == [
        "intensity",
        "elongation" if sweeps == 1 else "sweep_index",
    ]


def test_it_passes_a_published_case(golden_folder: Path) -> None:
    verdict, _ = verify_case(read_case(golden_folder / "flatformer" / "a.json"))
    assert verdict.passed, verdict


def test_a_case_gives_every_inner_stage_that_it_holds(golden_folder: Path) -> None:
    read = read_case(golden_folder / "flatformer" / "b.json")
    verdict, found = verify_case(read)
    assert set(found) == set(read.expected)
    assert all(row.passed for row in verdict.rows)


def test_a_layer_attends_as_torch_does() -> None:
    torch.manual_seed(0)
    layer = BasicLayer(16, 2).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    published = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    published.load_state_dict(layer.attn.attn.state_dict())
    x, position, index = torch.randn(9, 16), torch.randn(9, 16), torch.randint(0, 9, (3, 5))
    with torch.no_grad():
        key = (x + position)[index]
        mixed = layer.norm1(x[index] + published(key, key, x[index])[0])
        expected = layer.norm2(mixed + layer.fc2(nn.functional.gelu(layer.fc1(mixed))))
        torch.testing.assert_close(layer(x, position, index), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("channels", "kept"), [(16, 1.0), (8, 0.0)])
def test_a_convolution_that_keeps_the_shape_adds_its_input(channels: int, kept: float) -> None:
    second = Second(replace(SMALL, vfe_channels=(8, channels))).eval()
    for module in second.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)  # every convolution gives nothing
    first, halved = second(torch.ones(1, channels, 6, 6))
    assert first.shape == (1, 16, 6, 6)
    assert (first == kept).all()
    assert (halved == 0).all()


def test_points_outside_land_in_the_border_pillars_and_pillars_are_ordered_by_y() -> None:
    points = torch.tensor([[0, 6.4, -9, 0], [0, -7, -6.3, 0], [0, 0.1, -6.3, 0], [0, -6.4, 7, 0], [1, 0.1, 0.1, 0]])
    pillars = FlatFormer(SMALL).pillars(torch.cat((points, torch.zeros(5, 2)), dim=1))
    assert pillars.coords.tolist() == [[0, 0, 0, 0], [0, 0, 0, 20], [0, 0, 0, 39], [0, 0, 39, 0], [1, 0, 20, 20]]
    assert pillars.pillar.tolist() == [2, 0, 1, 3, 4]


def test_the_first_pillar_of_each_sample_is_lost_only_on_request() -> None:
    points = torch.cat((cloud(60, 0), cloud(50, 1, 1)))
    whole = FlatFormer(SMALL).pillars(points)
    lacking = FlatFormer(replace(SMALL, published_faults=True)).pillars(points)
    first = [0, int((whole.coords[:, 0] == 0).sum())]
    kept = [number for number in range(len(whole.coords)) if number not in first]
    assert torch.equal(lacking.coords, whole.coords[kept])
    assert torch.equal(lacking.points, whole.points[~torch.isin(whole.pillar, torch.tensor(first))])
    assert torch.equal(lacking.coords[lacking.pillar, 3], ((lacking.points[:, 1] + 6.4) / 0.32).floor().int())


def test_the_range_is_open_and_a_millimetre_smaller_in_height() -> None:
    border = torch.tensor([[6.4, 0, 0], [0, -6.4, 0], [0, 0, -1.999], [0, 0, 3.9995], [torch.nan, 0, 0],
                           [0, torch.inf, 0], [6.399, -6.399, 3.998]])  # fmt: skip
    assert FlatFormer(SMALL).in_range(border).tolist() == border[-1:].tolist()


def test_the_position_embedding_by_hand() -> None:
    found = FlatFormer(SMALL).position(torch.tensor([[0, 0, 3, 2]]))[0]  # y 3, x 2; 8 channels each
    half = [f(p / 10000 ** (k / 4)) for p in (2, 3) for k in range(4) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(found.numpy(), half, atol=1e-6)


def test_a_sample_does_not_see_its_neighbours_in_the_batch(small: FlatFormer) -> None:
    run = run_in_torch(small.parts())
    samples = [cloud(500, 0, 1), cloud(0), cloud(1, 2, 2), cloud(10, 3, 3), cloud(300, 4, 4)]
    together = {name: value.clone() for name, value in small.maps(torch.cat(samples), 5, run).items()}
    for number, sample in enumerate(samples):
        alone = torch.cat((torch.zeros(len(sample), 1), sample[:, 1:]), dim=1)
        for name, value in small.maps(alone, 1, run).items():
            torch.testing.assert_close(together[name][number : number + 1], value, rtol=1e-4, atol=1e-4)


def empty_maps() -> dict[str, Tensor]:
    channels = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "iou": 1}
    maps = {name: torch.zeros(1, count, 40, 40) for name, count in channels.items()}
    return maps | {"heatmap": torch.full((1, 3, 40, 40), -20.0), "iou": torch.full((1, 1, 40, 40), 0.8)}


def put(maps: dict[str, Tensor], place: tuple[int, int, int], logit: float) -> None:
    """Put a box, 4 m long, 2 m wide and 1.5 m high, heading along -y."""
    label, row, column = place
    maps["heatmap"][0, label, row, column] = logit
    maps["reg"][0, :, row, column] = torch.tensor([0.25, 0.5])
    maps["height"][0, 0, row, column] = 0.7
    maps["dim"][0, :, row, column] = torch.tensor([2.0, 4.0, 1.5]).log()
    maps["rot"][0, :, row, column] = torch.tensor([0.0, 1.0])  # sine, cosine


def test_a_box_is_read_out_of_its_cell() -> None:
    maps = empty_maps()
    put(maps, (1, 10, 30), 0.0)
    (boxes,) = FlatFormer(SMALL).boxes(maps)
    torch.testing.assert_close(boxes.center, torch.tensor([[30.25 * 0.32 - 6.4, 10.5 * 0.32 - 6.4, 0.7]]))
    torch.testing.assert_close(boxes.size, torch.tensor([[4.0, 2.0, 1.5]]))
    torch.testing.assert_close(boxes.yaw, torch.tensor([-torch.pi / 2]))
    torch.testing.assert_close(boxes.score, torch.tensor([0.5 * 0.8**2]))
    assert boxes.label.tolist() == [1]


def test_suppression_is_by_class_with_its_own_threshold_and_best_first() -> None:
    # one cell apart along x, boxes 2 m wide overlap by 0.84 / 1.16 = 0.72: too much for pedestrians, not for cars
    maps = empty_maps()
    for label in (0, 1):
        put(maps, (label, 20, 20), 1.0)
        put(maps, (label, 20, 21), 2.0)
    (boxes,) = FlatFormer(SMALL).boxes(maps)
    assert boxes.label.tolist() == [0, 0, 1]
    torch.testing.assert_close(boxes.score, torch.sigmoid(torch.tensor([2.0, 1.0, 2.0])) * 0.64)


def test_scores_at_or_below_the_least_are_left_out() -> None:
    maps = empty_maps()
    put(maps, (0, 5, 5), 3.0)
    maps["iou"][0, 0, 5, 5] = 0.3  # 0.953 * 0.09 is below 0.1
    put(maps, (0, 30, 30), 3.0)
    maps["iou"][0, 0, 30, 30] = 7.0  # clamped to 1
    (boxes,) = FlatFormer(SMALL).boxes(maps)
    torch.testing.assert_close(boxes.score, torch.sigmoid(torch.tensor([3.0])))


def test_nearly_all_multiply_adds_of_the_compact_network_are_in_parts() -> None:
    network = filled(build_network(find_card("flatformer_compact"), FlatFormer))
    points = (torch.rand(20_000, 5, generator=torch.Generator().manual_seed(1)) - 0.5) * torch.tensor([51, 51, 4, 1, 1])
    assert macs_of(network.parts(), lambda run: network.detect(points, run)).share >= 0.95


def test_trained_weights_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path / "cache"))
    network = filled(build_network(find_card("flatformer_waymo_3f"), FlatFormer))
    path = tmp_path / "epoch_24.pth"
    torch.save({"meta": {}, "state_dict": network.state_dict(), "optimizer": {}}, path)
    loaded = load_network(import_weights(path, "flatformer_waymo_3f").address, FlatFormer)
    assert not loaded.untrained
    assert loaded.card == find_card("flatformer_waymo_3f")
    state = loaded.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
