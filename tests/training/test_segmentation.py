"""Losses by hand, batches, and the bundled weights of DDRNet and P2AT."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from perception.errors import UserError
from perception.geometry.rig import Rig
from perception.networks.card import find_card
from perception.networks.load import load_network
from perception.training import segmentation
from perception.training.loop import train
from perception.training.losses import (
    IGNORED,
    boundaries,
    boundary_cross_entropy,
    hard_cross_entropy,
    rare_class_weights,
    soft_jaccard,
)
from perception.training.pictures import PICTURES, Augmentation, TrainingPictures
from perception.training.segmentation import Lesson, SegmentationTask
from perception.training.tasks import training_of
from perception.training.world import TRAINING_SEEDS, VALIDATION_SEEDS, Sample, Samples, training_seed, world_rig

DRAWN: list[int] = []


def noise_pictures(_: Rig, seed: int) -> Iterator[Sample]:
    """Stands in for `street_pictures`."""
    DRAWN.append(seed)
    random = np.random.default_rng(seed)
    for _number in range(PICTURES):
        yield {
            "rgb": random.integers(0, 256, (48, 80, 3), np.uint8),
            "label": random.integers(0, 5, (48, 80), np.uint8),
        }


def made_up(folder: Path) -> Samples:
    return Samples(world_rig("simulated_car"), "noise", noise_pictures, folder)


def logits_of(probability: list[float]) -> torch.Tensor:
    """Return logits (1, 2, 1, N) under which class 0 has these probabilities."""
    p = torch.tensor(probability)
    return torch.stack((p.log(), (1 - p).log()))[None, :, None]


def test_only_hard_pixels_count() -> None:
    logits, labels = logits_of([0.5, 0.95, 0.25, 0.99, 0.01]), torch.tensor([[[0, 0, 0, 0, IGNORED]]])
    by_hand = (math.log(2) + math.log(4)) / 2  # 0.95 and 0.99 are above 0.9; the last has no class
    assert float(hard_cross_entropy(logits, labels)) == pytest.approx(by_hand)


def test_where_all_is_easy_the_hardest_share_counts() -> None:
    logits, labels = logits_of([0.98, 0.95, 0.97, 0.99]), torch.zeros(1, 1, 4, dtype=torch.int64)
    assert float(hard_cross_entropy(logits, labels, least=0.5)) == pytest.approx(-math.log(0.95 * 0.97) / 2)


def test_a_picture_without_a_class_costs_nothing_and_gives_no_gradient() -> None:
    logits = logits_of([0.5, 0.2]).requires_grad_()
    labels = torch.full((1, 1, 2), IGNORED)
    for loss in (hard_cross_entropy(logits, labels), boundary_cross_entropy(logits, labels)):
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert float(loss.detach()) == 0
        assert not gradient.any()


def test_a_boundary_is_a_strip_on_both_sides() -> None:
    labels = torch.tensor([[[3, 3, 3, 7, 7, 7]]])
    assert boundaries(labels, 1).tolist() == [[[False, False, True, True, False, False]]]
    assert boundaries(labels, 2).tolist() == [[[False, True, True, True, True, False]]]


def test_the_boundary_loss_is_the_mean_over_the_strip() -> None:
    logits, labels = logits_of([0.1, 0.5, 0.75, 0.2]), torch.tensor([[[0, 0, 1, 1]]])
    assert float(boundary_cross_entropy(logits, labels)) == pytest.approx(-math.log(0.5 * 0.25) / 2)


def test_a_batch_is_a_function_of_the_seed_and_the_step(tmp_path: Path) -> None:
    pictures, augmentation = TrainingPictures(made_up(tmp_path), seed=4), Augmentation((32, 48), (16, 24), (1, 2))
    first, other = pictures.batch(5, 4, 3, augmentation), pictures.batch(6, 4, 3, augmentation)
    again = TrainingPictures(made_up(tmp_path / "elsewhere"), 4).batch(5, 4, 3, augmentation)
    assert first.image.shape == (4, 3, 32, 48)
    assert first.labels.shape == (4, 16, 24)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.image, other.image)


def test_lessons_follow_each_other_and_the_last_shows_whole_pictures(tmp_path: Path) -> None:
    whole, crops = Augmentation((96, 160), (48, 80), (2.0, 2.0)), Augmentation((32, 48), (16, 24), (1, 2))
    lessons = [
        Lesson(0, crops, batch_size=3, worlds=2, loss=segmentation.ddrnet_loss),
        Lesson(2, whole, batch_size=2, worlds=2, loss=segmentation.final_loss),
    ]
    samples = made_up(tmp_path)
    task = SegmentationTask(nn.Conv2d(3, 19, 1), segmentation.DDRNET_RECIPE, samples, lessons, torch.device("cpu"))
    batches = [task.batch(step) for step in range(4)]
    assert [tuple(b.example.image.shape) for b in batches] == [(3, 3, 32, 48)] * 2 + [(2, 3, 96, 160)] * 2
    assert [b.loss for b in batches] == [segmentation.ddrnet_loss] * 2 + [segmentation.final_loss] * 2
    pictures = [samples.sample(training_seed(0, k), i)["label"] for k in range(2) for i in range(PICTURES)]
    for label in batches[3].example.labels.numpy():
        assert any(np.array_equal(label, picture) or np.array_equal(label, picture[:, ::-1]) for picture in pictures)


def test_labels_stay_on_what_they_name() -> None:
    # Where the picture is bright the class is 1; cut, enlarged, mirrored and coloured it still is, but for the border.
    label = np.zeros((40, 60), np.uint8)
    label[10:30, 20:45] = 1
    rgb = np.repeat(np.where(label == 1, 220, 30).astype(np.uint8)[..., None], 3, 2)
    augmentation = Augmentation((64, 96), (32, 48), (1.5, 2.5))
    for seed in range(20):
        example = augmentation.apply(rgb, label, np.random.default_rng(seed))
        bright = example.image.mean(0)[1::2, 1::2] > example.image.mean()
        inside = ~boundaries(example.labels[None], 1)[0]
        if 0 < int(example.labels.sum()) < example.labels.numel():
            assert torch.equal(bright[inside], (example.labels == 1)[inside]), seed


def test_training_worlds_are_never_those_of_validation_or_of_users() -> None:
    for seed in (0, 1, 999):
        for number in (0, 999_999):
            assert training_seed(seed, number) in TRAINING_SEEDS
            assert training_seed(seed, number) not in VALIDATION_SEEDS
    assert training_seed(0, 999_999) < training_seed(1, 0)
    assert VALIDATION_SEEDS[0] == 900_000
    assert TRAINING_SEEDS[0] == VALIDATION_SEEDS[-1] + 1 == 1_000_000


def test_a_world_is_drawn_once(tmp_path: Path) -> None:
    samples = made_up(tmp_path)
    DRAWN.clear()
    first = samples.sample(1_000_007, 3)
    assert np.array_equal(first["label"], samples.sample(1_000_007, 3)["label"])
    assert not np.array_equal(first["rgb"], samples.sample(1_000_007, 4)["rgb"])
    made_up(tmp_path).sample(1_000_007, 0)  # by another process, from the same folder
    assert DRAWN == [1_000_007]
    with pytest.raises(UserError, match="no sample 8"):
        samples.sample(1_000_007, 8)


def test_a_world_that_names_no_rig_is_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'simulated_car'"):
        world_rig("simulated_cra")


def test_the_overlap_of_probabilities_worked_by_hand() -> None:
    # two pixels of class 0, given to it with 0.9 and 0.6; one of class 1, given to it with 0.8; one without a class
    shares = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]])
    logits = shares.log().T.reshape(1, 2, 1, 4)
    labels = torch.tensor([[[0, 0, 1, IGNORED]]])
    expected = 1 - (1.5 / (1.7 + 2 - 1.5) + 0.8 / (1.3 + 1 - 0.8)) / 2
    assert float(soft_jaccard(logits, labels)) == pytest.approx(expected, rel=1e-5)
    sure = torch.tensor([[40.0, 40.0, -40.0, 0.0], [-40.0, -40.0, 40.0, 0.0]]).reshape(1, 2, 1, 4)
    assert float(soft_jaccard(sure, labels)) == pytest.approx(0, abs=1e-6)


def test_a_rare_class_weighs_more() -> None:
    # Two hard pixels of weights 1 and 3 by hand: (1 log 2 + 3 log 4) / 4.
    logits, labels = logits_of([0.5, 0.75]), torch.tensor([[[0, 1]]])
    loss = hard_cross_entropy(logits, labels, weight=torch.tensor([1.0, 3.0]))
    assert float(loss) == pytest.approx((math.log(2) + 3 * math.log(4)) / 4)
    weights = rare_class_weights(torch.tensor([75.0, 25.0, 0.0]))
    assert weights.tolist() == pytest.approx([1 / math.log(1.77), 1 / math.log(1.27), 1 / math.log(1.02)])


@pytest.mark.parametrize("network", ["ddrnet", "p2at"])
def test_a_task_goes_from_pictures_to_a_file_that_its_node_can_load(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentation, "street_samples", lambda world: made_up(tmp_path))
    recipe, make_task = training_of(network)
    recipe = replace(recipe, steps=1, batch_size=2, further_steps=1)
    task = make_task(recipe, "simulated_car", torch.device("cpu"))
    assert isinstance(task, SegmentationTask)
    task.validation_worlds = 1
    trained = train(task, recipe, tmp_path / "weights.safetensors", provenance={"command": "a test"})
    assert trained.metrics["classes"] == 4  # of the five labels in the noise, wall and fence have one identity
    assert 0 <= trained.metrics["mIoU"] < 0.3  # on noise nobody is better than chance: a fifth, and less by the union
    loaded = load_network(str(trained.path), nn.Module)
    assert loaded.card == find_card(f"{network}_compact")
    assert not any("aux" in name or "extra" in name for name in loaded.network.state_dict())
    assert trained.path.stat().st_size < 6.2e6
