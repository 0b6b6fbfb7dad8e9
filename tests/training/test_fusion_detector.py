"""DeepInteraction++ learns: a sample by heart in a few dozen steps, with and without cameras; frames agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from perception.errors import WeightsError
from perception.geometry.rig import Rig, load_rig
from perception.geometry.transforms import Transform
from perception.networks.card import find_card
from perception.networks.deepinteraction import DEEPINTERACTION_COMPACT, DeepInteraction
from perception.training.fusion_detector import (
    DEEPINTERACTION_RECIPE,
    LIDAR_FIRST,
    SurroundDetection,
    SurroundSample,
    fusion_task,
    in_frame,
    start,
)
from perception.training.recipe import Recipe
from perception.training.sweeps import LabelledSweep, upright
from perception.training.tasks import training_of
from tests.threads import threads_of_torch

STEPS = 25
TINY = replace(
    DEEPINTERACTION_COMPACT,
    image_size=(32, 64),
    point_range=(-19.2, -19.2, -5.0, 19.2, 19.2, 3.0),
    voxel_size=(0.8, 0.8, 0.4),
    pillar_size=(3.2, 3.2, 8.0),
    sparse=replace(DEEPINTERACTION_COMPACT.sparse, grid=(21, 48, 48)),
    decoder=replace(DEEPINTERACTION_COMPACT.decoder, queries=20, origin=(-19.2, -19.2), cell=(3.2, 3.2)),
)
"""The compact network on a coarse grid of the near field and small images."""


@pytest.fixture(scope="module")
def rig() -> Rig:
    return load_rig(Path(__file__).parents[2] / "calibration" / "simulated_car")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    with threads_of_torch(1):
        yield


@pytest.fixture(scope="module")
def task(rig: Rig, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SurroundDetection]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERCEPTION_CACHE", str(tmp_path_factory.mktemp("cache")))
        torch.manual_seed(0)
        network = DeepInteraction(TINY)
        start(network)
        recipe = Recipe("deepinteraction_compact", seed=8, steps=STEPS, batch_size=1, learning_rate=2e-3)
        yield SurroundDetection(network, find_card("deepinteraction_compact"), rig, recipe)


@pytest.fixture(scope="module")
def sample(task: SurroundDetection) -> SurroundSample:
    return task.sample(8_000_000)


def test_what_lies_ahead_lies_along_y_of_the_card_and_in_the_middle_of_the_front_camera(
    task: SurroundDetection, sample: SurroundSample
) -> None:
    front = task.cameras.index("cam_front")
    ahead = torch.tensor([0.0, 30.0, 0.0, 1.0])  # of the LiDAR, which is 1.9 m above the ground
    u, v, depth, _ = (sample.image_from_lidar[front] @ ahead).tolist()
    assert depth == pytest.approx(30.0, abs=1.5)  # the camera is a little ahead of the LiDAR
    assert u / depth == pytest.approx(32, abs=2)
    assert 8 < v / depth < 24
    assert sample.lidar_from_camera[front, 1, 3] == pytest.approx(0.7, abs=0.01)  # 1.9 - 1.2 m


def test_boxes_hold_their_points_in_the_frame_of_the_card(sample: SurroundSample) -> None:
    truth = sample.truth
    parked = np.append(np.abs(truth.velocity).max(axis=1) < 1e-3, False)[truth.owner]  # deskewed
    inside = upright(truth.boxes).contain(truth.points[parked, :3], 0.1)
    assert inside[truth.owner[parked], np.arange(parked.sum())].mean() > 0.99
    np.testing.assert_array_equal(sample.cloud[:, :3], truth.points[:, :3])
    assert sample.cloud[:, 3].max() > 1  # bytes


def test_a_sweep_is_moved_into_another_frame_worked_by_hand() -> None:
    # the new frame stands 1 m ahead and 2 m up and looks to the right, as that of nuScenes does along x
    target_from_base_link = Transform.from_yaw((1.0, 0.0, 2.0), -np.pi / 2).inverse()
    points, box = np.array([[11, 0, 2, 0.5]], np.float32), np.array([[11, -3, 3, 4, 2, 1.5, 0]], np.float32)
    sweep = LabelledSweep(points, np.zeros(1, np.int16), box, np.array([0]), np.array([[5, 0]], np.float32))
    moved = in_frame(sweep, target_from_base_link)
    np.testing.assert_allclose(moved.points, [[0, 10, 0, 0.5]], atol=1e-6)
    np.testing.assert_allclose(moved.boxes, [[3, 10, 1, 4, 2, 1.5, np.pi / 2]], atol=1e-6)
    np.testing.assert_allclose(moved.velocity, [[0, 5]], atol=1e-6)


def test_a_sample_is_learned_by_heart(task: SurroundDetection) -> None:
    sample = task.sample(8_000_000, np.array([camera == "cam_front" for camera in task.cameras]))
    near = np.abs(sample.truth.boxes[:, :2]).max(axis=1) < 15  # the outermost cells have no peaks
    truth = replace(
        sample.truth, boxes=sample.truth.boxes[near], label=sample.truth.label[near],
        velocity=sample.truth.velocity[near],
    )  # fmt: skip
    sample, network = replace(sample, truth=truth), task.network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss, _ = task.loss([sample])
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 3
    assert len(truth.label) > 1
    network.eval()
    found = task.detect(sample)
    apart = np.linalg.norm(found.center.numpy()[:, None, :2] - truth.boxes[None, :, :2], axis=2)
    apart[found.label.numpy()[:, None] != truth.label[None]] = np.inf
    told = apart[found.score.numpy() > 0.05].min(axis=0, initial=np.inf) < 2.0
    assert told.mean() > 0.5, (losses[::6], len(truth.label), float(told.mean()))


def test_a_norm_that_was_set_still_stays_so_while_others_learn(task: SurroundDetection) -> None:
    norms = [m for m in task.network.train().modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms[0].eval()
    before = [norm.state_dict()["running_mean"].clone() for norm in norms]
    task.loss([task.sample(8_000_000)])
    still = [torch.equal(old, norm.state_dict()["running_mean"]) for old, norm in zip(before, norms, strict=True)]
    assert still[0]
    assert not all(still[1:])


def test_the_lidar_branch_learns_first_and_alone(task: SurroundDetection) -> None:
    last = int(LIDAR_FIRST * STEPS) - 1
    (sample,) = task.batch(last)
    assert len(sample.images) == 0 < len(sample.cloud)
    task.network.train().zero_grad()
    loss, _ = task.loss([sample])
    loss.backward()  # type: ignore[no-untyped-call]
    learning = {name.split(".")[0] for name, value in task.network.named_parameters() if value.grad is not None}
    assert learning == {"pts_middle_encoder", "pts_backbone", "pts_neck", "imgpts_neck", "pts_bbox_head"}
    task.network.zero_grad()


def test_cameras_are_left_out_by_chance_and_none_is_needed(task: SurroundDetection) -> None:
    counts = [len(task.batch(step)[0].images) for step in range(STEPS, STEPS + 12)]
    assert min(counts) < 4 == max(counts)
    blind = task.sample(8_000_000, np.zeros(4, bool))
    assert blind.images.shape == (0, 3, 32, 64)
    loss, _ = task.loss([blind])
    assert torch.isfinite(loss)


def test_a_card_of_other_classes_is_refused(rig: Rig) -> None:
    recipe = replace(DEEPINTERACTION_RECIPE, card="deepinteraction_nuscenes")
    with pytest.raises(WeightsError, match="other classes"):
        SurroundDetection(DeepInteraction(TINY), find_card(recipe.card), rig, recipe)


def test_it_is_in_the_list_of_trainings() -> None:
    assert training_of("deepinteraction") == (DEEPINTERACTION_RECIPE, fusion_task)
