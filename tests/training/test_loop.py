"""The training loop, on a network small enough for any machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from perception.errors import PerceptionError, UserError
from perception.networks.card import find_card
from perception.networks.ddrnet import DDRNet
from perception.networks.load import build_network, load_network
from perception.networks.weights import read_weights
from perception.training.loop import train
from perception.training.recipe import Recipe

RECIPE = Recipe(card="ddrnet_compact", seed=3, steps=4, batch_size=2, learning_rate=1e-3, average_decay=0.9)
PROVENANCE = {"command": "perception train toy", "world": "none", "world_version": "0"}


class CutError(Exception):
    """What ends a run in the middle."""


class Toy:
    """A segmentation network on noise; `cut_at` ends the process, so to speak, before a step."""

    def __init__(self, cut_at: int | None = None, scale: float = 1.0) -> None:
        torch.manual_seed(RECIPE.seed)
        self.network: nn.Module = build_network(find_card(RECIPE.card), DDRNet)
        self.cut_at, self.scale = cut_at, scale

    def batch(self, step: int) -> Tensor:
        if step == self.cut_at:
            raise CutError
        if step == RECIPE.steps:  # the second cycle begins
            self.began_again_from = {name: value.clone() for name, value in self.network.state_dict().items()}
        return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(step))

    def loss(self, batch: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss = self.scale * self.network(batch).square().mean()
        return loss, {"square": loss}

    def evaluate(self) -> dict[str, float]:
        assert not self.network.training
        return {"answer": float(self.network(torch.ones(1, 3, 64, 64)).detach().mean())}


@pytest.mark.parametrize(
    ("cut_at", "further", "still"), [(3, 0, 0), (3, 2, 0), (4, 2, 0), (5, 2, 2), (6, 2, 2), (7, 2, 2), (5, 0, 2)]
)  # at step 4 another cycle begins, with further steps at step 6, too
def test_a_run_that_was_cut_off_and_resumed_ends_in_the_same_bytes(
    tmp_path: Path, cut_at: int, further: int, still: int
) -> None:
    recipe = replace(RECIPE, further_steps=further, further_rate=5e-4, still_steps=still, still_rate=3e-4)
    whole = train(Toy(), recipe, tmp_path / "whole.safetensors", provenance=PROVENANCE)
    cut = tmp_path / "cut.safetensors"
    with pytest.raises(CutError):
        train(Toy(cut_at=cut_at), recipe, cut, provenance=PROVENANCE, checkpoint_every=2)
    assert not cut.exists()
    train(Toy(), recipe, cut, provenance=PROVENANCE, resume=True)
    assert cut.read_bytes() == whole.path.read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["cut.safetensors", "whole.safetensors"]


def test_a_second_cycle_begins_with_the_weights_that_the_file_of_the_first_holds(tmp_path: Path) -> None:
    first = train(Toy(), RECIPE, tmp_path / "first.safetensors", provenance=PROVENANCE)
    toy = Toy()
    train(
        toy, replace(RECIPE, further_steps=1, further_rate=5e-4), tmp_path / "both.safetensors", provenance=PROVENANCE
    )
    held, _ = read_weights(first.path)
    assert held
    for name, value in held.items():
        assert torch.equal(toy.began_again_from[name], value.to(toy.began_again_from[name].dtype)), name


@pytest.mark.parametrize("still", [False, True])
def test_norms_keep_their_statistics_in_the_last_cycle_alone(tmp_path: Path, still: bool) -> None:
    moving = replace(RECIPE, further_steps=2, further_rate=5e-4)
    toy, recipe = Toy(), replace(RECIPE, still_steps=2, still_rate=5e-4) if still else moving
    train(toy, recipe, tmp_path / "both.safetensors", provenance=PROVENANCE)
    after = toy.network.state_dict()
    same = {
        kind: [torch.equal(value, after[name]) for name, value in toy.began_again_from.items() if name.endswith(kind)]
        for kind in ("running_mean", "running_var", ".weight")
    }
    assert all(same["running_mean"]) is all(same["running_var"]) is still
    assert sum(same[".weight"]) < len(same[".weight"]) / 2  # heads that nothing is asked of stay as they were


def test_the_rate_of_each_cycle_rises_and_falls_for_itself() -> None:
    recipe = replace(RECIPE, steps=10, learning_rate=1.0, warm_up=0.3)
    three = replace(recipe, further_steps=20, further_rate=0.5, still_steps=30, still_rate=0.2)
    rates = [three.rate(step) for step in range(three.all_steps)]
    assert len(rates) == 60
    parts = (rates[:10], 10, 1.0), (rates[10:30], 20, 0.5), (rates[30:], 30, 0.2)
    for part, steps, highest in parts:
        alone = replace(recipe, steps=steps, learning_rate=highest)
        assert part == [alone.rate(step) for step in range(steps)]


def test_fewer_steps_are_shared_by_the_cycles_as_the_recipe_shares_them() -> None:
    recipe = replace(RECIPE, steps=600, further_steps=300, further_rate=0.5, still_steps=100, still_rate=0.2)
    short = recipe.of_steps(11)
    assert (short.steps, short.further_steps, short.still_steps) == (7, 3, 1)
    assert recipe.of_steps(1).all_steps == recipe.of_steps(1).steps == 1
    assert recipe.of_steps(recipe.all_steps) == recipe


def test_the_file_holds_half_floats_its_card_and_where_it_came_from(tmp_path: Path) -> None:
    trained = train(Toy(), replace(RECIPE, steps=1), tmp_path / "weights.safetensors", provenance=PROVENANCE)
    state, metadata = read_weights(trained.path)
    assert {value.dtype for value in state.values()} == {torch.float16, torch.int64}
    assert metadata["trained"]["command"] == "perception train toy"
    assert metadata["trained"]["metrics"] == trained.metrics
    loaded = load_network(str(trained.path), DDRNet)
    assert not loaded.untrained
    assert {value.dtype for value in loaded.network.parameters()} == {torch.float32}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the training: another number changes the last bits
    try:
        with torch.no_grad():  # the metrics are those of the stored weights, not of what was rounded away
            assert float(loaded.network(torch.ones(1, 3, 64, 64)).mean()) == trained.metrics["answer"]
    finally:
        torch.set_num_threads(threads)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    with pytest.raises(CutError):
        train(Toy(cut_at=2), RECIPE, out, provenance=PROVENANCE, checkpoint_every=1)
    with pytest.raises(UserError, match="of another recipe"):
        train(Toy(), replace(RECIPE, learning_rate=2e-3), out, provenance=PROVENANCE, resume=True)


def test_a_loss_that_is_no_number_ends_the_training_with_its_step_and_parts(tmp_path: Path) -> None:
    with pytest.raises(PerceptionError, match=r"step 0 has no finite loss \(loss inf, square inf\)"):
        train(Toy(scale=float("inf")), RECIPE, tmp_path / "weights.safetensors", provenance=PROVENANCE)


def test_weights_larger_than_the_recipe_allows_are_not_written(tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    with pytest.raises(PerceptionError, match="the recipe allows 1"):
        train(Toy(), replace(RECIPE, steps=1, limit_mb=1), out, provenance=PROVENANCE)
    assert not out.exists()


def test_one_cycle_rises_for_its_share_and_falls_to_nothing() -> None:
    recipe = replace(RECIPE, steps=10, learning_rate=1.0, warm_up=0.3)
    rates = [recipe.rate(step) for step in range(10)]
    # Half cosines by hand: 0.04 + 0.96 (1 - cos(pi (step + 0.5) / 3)) / 2, then (1 + cos(pi (step - 2.5) / 7)) / 2.
    assert rates[0] == pytest.approx(0.04 + 0.96 * (1 - 3**0.5 / 2) / 2)
    assert rates[1] == pytest.approx(0.52)
    assert rates[3] == pytest.approx(0.98746, abs=1e-5)
    assert rates[9] == pytest.approx(0.01254, abs=1e-5)
    assert max(rates) == rates[3]
