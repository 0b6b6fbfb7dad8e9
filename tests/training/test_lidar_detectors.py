"""DSVT and FlatFormer learn two sweeps by heart in a few dozen steps; steps repeat; cards of other data are refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from perception.errors import WeightsError
from perception.geometry.rig import Rig, load_rig
from perception.networks.card import find_card
from perception.networks.load import build_network
from perception.training.detection_scores import detection_scores
from perception.training.lidar_detectors import (
    DSVT_RECIPE,
    FLATFORMER_RECIPE,
    LidarDetection,
    card_points,
    head_of,
    lidar_task,
    start,
)
from perception.training.loop import train
from perception.training.recipe import Recipe
from perception.training.sweeps import CLASSES, LabelledSweep
from perception.training.tasks import training_of
from tests.threads import threads_of_torch

STEPS = 25
SMALL: dict[str, dict[str, Any]] = {
    "dsvt_compact": {
        "minimum_m": [-25.6, -12.8, -2.0], "voxel_m": [0.8, 0.8, 6.0], "grid": [64, 32, 1],
        "channels": 32, "hidden": 32, "stages": [{"blocks": 1}],
        "backbone": {
            "in_channels": 32, "layers": [0, 0, 0], "channels": [32, 32, 32], "up_channels": [16, 16, 16],
        },
        "center_head": {
            "in_channels": 48, "shared_channels": 16, "num_classes": 5, "iou_power": [0.0] * 5, "nms_iou": [0.2] * 5,
        },
    },
    "flatformer_compact": {
        "minimum_m": [-25.6, -12.8, -2.0], "maximum_m": [25.6, 12.8, 4.0], "grid": [64, 32],
        "vfe_channels": [16, 32], "blocks": 1, "bev_channels": [32, 32], "bev_layers": [1, 1],
        "neck_channels": [16, 16], "head_channels": 16, "iou_power": 0.0,
    },
}  # fmt: skip
"""What makes the compact networks small enough to learn in seconds."""


@pytest.fixture(scope="module")
def rig() -> Rig:
    return load_rig(Path(__file__).parents[2] / "calibration" / "simulated_car")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads_of_torch(1):
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path))


def small_task(name: str, rig: Rig) -> LidarDetection:
    card = find_card(name)
    card = card.model_copy(update={"configuration": card.configuration | SMALL[name]})
    torch.manual_seed(0)
    network: Any = build_network(card, nn.Module)
    start(network)
    recipe = Recipe(name, seed=9, steps=STEPS, batch_size=2, learning_rate=5e-3)
    return LidarDetection(network, card, rig, recipe, torch.device("cpu"))


def near(sweep: LabelledSweep) -> LabelledSweep:
    """What lies within 24 m along the street and 12 m across."""
    kept = (np.abs(sweep.boxes[:, :2]) < (24, 12)).all(axis=1)
    points = (np.abs(sweep.points[:, :2]) < (25, 12.5)).all(axis=1)
    number = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)
    owner = number[sweep.owner[points]].astype(np.int16)
    return LabelledSweep(sweep.points[points], owner, sweep.boxes[kept], sweep.label[kept], sweep.velocity[kept])


@pytest.mark.parametrize("name", sorted(SMALL))
def test_two_sweeps_are_learned_by_heart(name: str, rig: Rig) -> None:
    task = small_task(name, rig)
    sweeps, network = [near(sweep) for sweep in task.batch(0)], task.network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss, _ = task.loss(sweeps)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 5
    network.eval()
    scores = detection_scores(sweeps, [task.detect(sweep) for sweep in sweeps])
    assert scores["AP car"] > 0.5


@pytest.mark.parametrize("recipe", [DSVT_RECIPE, FLATFORMER_RECIPE], ids=["dsvt", "flatformer"])
def test_the_same_recipe_gives_the_same_bytes(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception.training.lidar_detectors.VALIDATED", 1)
    short, files = replace(recipe, steps=1), []
    for name in ("first", "second"):
        task = lidar_task(short, "simulated_car", torch.device("cpu"))
        found = train(task, short, tmp_path / f"{name}.safetensors", provenance={"command": "test"})
        assert set(found.metrics) == {"mAP", "mATE", "mASE", *(f"AP {kind}" for kind in CLASSES)}
        files.append(found.path.read_bytes())
    assert files[0] == files[1]
    assert len(files[0]) <= 6.2e6


def test_a_step_is_a_function_of_its_number_alone(rig: Rig) -> None:
    first, again = small_task("dsvt_compact", rig), small_task("dsvt_compact", rig)
    (one, two), (other, _) = first.batch(3), again.batch(3)
    np.testing.assert_array_equal(one.points, other.points)
    np.testing.assert_array_equal(one.boxes, other.boxes)
    assert len(one.points) != len(two.points)


def test_the_targets_lie_on_the_maps_of_the_head(rig: Rig) -> None:
    for name in SMALL:
        task = small_task(name, rig)
        maps = task.network.eval().maps(task.points(task.batch(0)), 2, task.run)
        assert maps[task.head.heatmap].shape == (2, 5, *task.size)


def test_an_untrained_heatmap_says_one_percent_everywhere(rig: Rig) -> None:
    task = small_task("flatformer_compact", rig)
    head, _, _ = head_of(task.network)
    heat = task.network.eval().maps(task.points(task.batch(0)), 2, task.run)[head.heatmap].sigmoid()
    assert heat.median().item() == pytest.approx(0.01, abs=0.01)


def test_features_are_those_of_the_card() -> None:
    points = np.array([[1, 2, 3, 0.5]], np.float32)
    expected = [[1, 2, 3, np.tanh(0.5), 0]]
    np.testing.assert_allclose(card_points(points, find_card("dsvt_compact").points), expected, rtol=1e-6)
    scaled = card_points(points, find_card("dsvt_nuscenes").points)
    np.testing.assert_allclose(scaled, [[1, 2, 3, 127.5, 0]], rtol=1e-6)


def test_a_card_of_other_classes_is_refused() -> None:
    recipe = Recipe("dsvt_pillar_120", seed=0, steps=1, batch_size=1, learning_rate=1e-3)
    with pytest.raises(WeightsError, match="expected car, truck, bus, pedestrian, cyclist"):
        lidar_task(recipe, "simulated_car", torch.device("cpu"))


def test_both_networks_are_in_the_list_of_trainings() -> None:
    assert training_of("dsvt") == (DSVT_RECIPE, lidar_task)
    assert training_of("flatformer") == (FLATFORMER_RECIPE, lidar_task)
