"""ESTF and EgoPoseFormer through the training loop, on made-up worlds: the file, its bytes, its metrics, its names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from perception.networks.card import find_card
from perception.networks.egoposeformer import EgoPoseFormer
from perception.networks.estf import ESTF
from perception.networks.load import build_network, load_network
from perception.networks.weights import read_weights
from perception.training import egoposeformer as pose_training
from perception.training import estf as action_training
from perception.training.egoposeformer import EGOPOSEFORMER_RECIPE, PoseTask, PoseWithHeatmaps, headset_of
from perception.training.estf import ESTF_RECIPE, ActionTask
from perception.training.event_clips import CLASSES, packed
from perception.training.loop import train
from perception.training.world import Sample

CPU = torch.device("cpu")
PROVENANCE = {"command": "perception train made-up", "world": "none", "world_version": "0"}


class MadeUp:
    """Worlds of noise, equal for equal seeds, in place of simulated ones; it remembers whose were asked for."""

    def __init__(self, draw: Callable[[np.random.Generator], Sample]) -> None:
        self.draw, self.seeds = draw, set[int]()

    def sample(self, seed: int, index: int) -> Sample:
        self.seeds.add(seed)
        return self.draw(np.random.default_rng((seed, index)))


def made_up_events(random: np.random.Generator) -> Sample:
    marks = random.integers(0, 4, (40, 16, 16), np.uint8)
    return {"packed": packed(marks), "action": np.repeat(random.integers(0, len(CLASSES), 2), 20)}


def made_up_pair(random: np.random.Generator) -> Sample:
    images = random.integers(0, 256, (2, 192, 192, 3), np.uint8)
    return {"images": images, "joints_m": np.array([0.06, 0.45, 0.55]) + 0.2 * random.standard_normal((16, 3))}


def action_task(samples: Any) -> ActionTask:
    torch.manual_seed(0)
    recipe = replace(ESTF_RECIPE, steps=2, batch_size=1)
    return ActionTask(build_network(find_card(recipe.card), ESTF), recipe, samples, CPU, worlds=3)


def pose_task(samples: Any) -> PoseTask:
    torch.manual_seed(0)
    recipe = replace(EGOPOSEFORMER_RECIPE, steps=2, batch_size=1)
    card = find_card(recipe.card)
    network = PoseWithHeatmaps(build_network(card, EgoPoseFormer).config)
    return PoseTask(network, recipe, samples, headset_of(card, "simulated_car"), CPU, worlds=3)


def test_actions_are_learned_in_equal_bytes_and_never_on_a_seed_of_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(action_training, "VALIDATION_WORLDS", 2)
    worlds = MadeUp(made_up_events)
    recipe = replace(ESTF_RECIPE, steps=2, further_steps=1)
    first = train(action_task(worlds), recipe, tmp_path / "a.safetensors", provenance=PROVENANCE)
    again = train(action_task(worlds), recipe, tmp_path / "b.safetensors", provenance=PROVENANCE)
    assert first.path.read_bytes() == again.path.read_bytes()
    assert {seed for seed in worlds.seeds if seed < 1_000_000} == {900_000, 900_001}
    assert {seed for seed in worlds.seeds if seed >= 1_000_000} <= {1_000_000, 1_000_001, 1_000_002}
    # 40 steps of 50 ms are 20 images, which end 13 clips of 8
    assert first.metrics["clips"] == 2 * 13
    assert 0.0 <= first.metrics["top1"] <= first.metrics["top5"] <= 1.0
    state, metadata = read_weights(first.path)
    assert metadata["trained"]["command"] == "perception train made-up"
    assert load_network(str(first.path), ESTF).network.state_dict().keys() == state.keys()


def test_poses_are_learned_after_heatmaps_whose_head_stays_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pose_training, "VALIDATION_WORLDS", 1)
    monkeypatch.setattr(pose_training, "HEATMAP_SHARE", 0.5)
    task = pose_task(MadeUp(made_up_pair))
    assert [task.batch(step).heatmaps for step in range(2)] == [True, False]
    trained = train(task, replace(EGOPOSEFORMER_RECIPE, steps=2), tmp_path / "a.safetensors", provenance=PROVENANCE)
    state, _ = read_weights(trained.path)
    assert not any("heatmap" in name for name in state)
    loaded = load_network(str(trained.path), EgoPoseFormer)
    assert loaded.network.state_dict().keys() == state.keys()
    assert loaded.card.skeleton is not None
    assert loaded.card.skeleton.reference_m == (0.06, 0.45, 0.55)
    # Noise teaches nothing: the answer is near the mean pose, so joints drawn with 0.2 m per axis are 0.3 m away.
    assert 200 < trained.metrics["MPJPE_mm"] < 500


def test_the_proposal_begins_at_the_mean_pose() -> None:
    task = pose_task(MadeUp(made_up_pair))
    drawn = task._drawn(np.random.default_rng((0, 52)), 1)[1]
    last = task.network.mlp_pred[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        _, proposal = task.network.propose(torch.zeros(1, 2, 3, 192, 192))
    torch.testing.assert_close(proposal, drawn)
