"""DSVT and FlatFormer on clouds of real sensors: no point, one, all in one pillar, on the border, not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perception.engines.choose import EngineSettings, compile_parts
from perception.engines.engine import run_on
from perception.networks.card import find_card
from perception.networks.flatformer import RawBoxes, _in_house_convention
from perception.networks.load import build_network
from perception.networks.part import RunPart, run_in_torch
from perception.networks.weights import fill

COMPACT = ("dsvt_compact", "flatformer_compact")


def network_of(card: str) -> Any:
    network: Any = build_network(find_card(card), nn.Module)
    fill(network)
    return network.eval().requires_grad_(False)


def cloud(count: int, seed: int = 0, reach: float = 25.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    xyz = (torch.rand(count, 3, generator=generator) - 0.5) * torch.tensor([2 * reach, 2 * reach, 4.0])
    return torch.cat((xyz, torch.rand(count, 2, generator=generator)), dim=1)


@pytest.fixture(scope="module", params=COMPACT)
def made(request: pytest.FixtureRequest) -> tuple[Any, RunPart]:
    network = network_of(request.param)
    return network, run_in_torch(network.parts())


def test_the_order_of_points_does_not_matter(made: tuple[Any, RunPart]) -> None:
    network, run = made
    points = cloud(3000)
    turned = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(1))]
    first, second = (network.detect(x, run) for x in (points, turned))
    assert len(first) == len(second)
    torch.testing.assert_close(first.score, second.score, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.center, second.center, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "points",
    [
        cloud(0), cloud(1), cloud(1).repeat(500, 1), cloud(40), torch.full((5, 5), 1e6),
        torch.tensor([[25.6, 25.6, 4.0, 0, 0], [-25.6, -25.6, -2.0, 0, 0], [25.599, 0.0, 1.0, 0, 0]]),
    ],
    ids=["none", "one", "all in one pillar", "few", "all outside", "on the border"],
)  # fmt: skip
def test_edge_clouds_give_finite_boxes(made: tuple[Any, RunPart], points: Tensor) -> None:
    network, run = made
    boxes = network.detect(points, run)
    for values in (boxes.center, boxes.size, boxes.yaw, boxes.score):
        assert torch.isfinite(values).all()
    assert len(boxes.label) == len(boxes)


def test_points_that_are_not_finite_change_nothing(made: tuple[Any, RunPart]) -> None:
    network, run = made
    points = cloud(2000)
    bad = torch.tensor([[torch.nan, 0, 0, 0, 0], [0, torch.inf, 0, 0, 0], [0, 0, -torch.inf, 0, 0]])
    first, second = network.detect(points, run), network.detect(torch.cat((bad, points)), run)
    torch.testing.assert_close(first.center, second.center)
    torch.testing.assert_close(first.score, second.score)


def test_half_a_million_points_run(made: tuple[Any, RunPart]) -> None:
    network, run = made
    boxes = network.detect(cloud(500_000), run)
    assert torch.isfinite(boxes.center).all()


@pytest.mark.parametrize("card", COMPACT)
def test_onnx_runtime_gives_the_maps_of_torch_on_other_clouds(
    card: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path))
    network = network_of(card)
    run = run_on(compile_parts(network.parts(), EngineSettings("onnxruntime", "fp32", 1)))
    reference = run_in_torch(network.parts())
    for count in (200, 4000):
        points = torch.cat((torch.zeros(count, 1), cloud(count, seed=count)), dim=1)
        expected: Mapping[str, Tensor] = {k: v.clone() for k, v in network.maps(points, 1, reference).items()}
        found = network.maps(points, 1, run)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name].numpy(), value.numpy(), rtol=1e-3, atol=2e-3, err_msg=name)


def test_flatformers_boxes_come_in_the_house_convention() -> None:
    # by the published text: clockwise yaw, 0 at -y, the first size along x at yaw 0. At yaw 0 the second size, the
    # length, lies along y, and the heading is -y: counter-clockwise from +x that is -90 degrees.
    raw = RawBoxes(
        center=torch.tensor([[1.0, 2.0, 3.0]] * 2), size=torch.tensor([[2.0, 4.0, 1.5]] * 2),
        yaw=torch.tensor([0.0, -torch.pi / 2]), velocity=torch.zeros(2, 2), score=torch.ones(2), label=torch.zeros(2),
    )  # fmt: skip
    boxes = _in_house_convention(raw)
    np.testing.assert_allclose(boxes.size.numpy(), [[4.0, 2.0, 1.5]] * 2)
    np.testing.assert_allclose(boxes.yaw.numpy(), [-np.pi / 2, 0.0], atol=1e-6)
