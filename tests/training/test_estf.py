"""Training ESTF: images as the node draws them, clips as the network takes them, and a loss by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.geometry.rig import Rig, load_rig
from perception.networks.card import find_card
from perception.networks.estf import ESTF, ESTFConfig, normalised
from perception.networks.layers.resnet import ResNetConfig
from perception.networks.weights import fill
from perception.ops.event_frames import window_images
from perception.ops.events import Events
from perception.simulation.world import World
from perception.training.estf import RUN, clip_loss, run_begin, run_logits
from perception.training.event_clips import (
    CLASSES,
    STEPS,
    WINDOW_MS,
    ActionRecording,
    EventAugmentation,
    images_of,
    packed,
    recorded,
    run_of,
    unpacked,
)
from perception.training.world import Sample

SMALL = ESTFConfig(
    stem=ResNetConfig(depths=(1, 1, 1, 1), widths=(8, 8, 16, 16)), num_classes=3, clip_len=4, image_size=64, dim=16,
    hidden=(32, 32), unused_entries=False,
)  # fmt: skip


def rig() -> Rig:
    return load_rig(Path(__file__).parents[2] / "calibration" / "simulated_car")


def sample_of(recording: ActionRecording) -> Sample:
    return {"packed": packed(recording.marks), "action": recording.action}


def test_images_of_a_recording_are_those_that_the_node_draws() -> None:
    recording = recorded(rig(), seed=3, seconds=0.4)
    run = run_of(sample_of(recording), begin=1, images=3)  # 0.05 to 0.15 s and so on
    found = World(3).events(rig(), "event_cabin", 0, 400_000_000)
    events = Events(found.t_ns, found.x, found.y, found.polarity)
    begins = [50_000_000 + k * WINDOW_MS * 1_000_000 for k in range(3)]
    drawn = window_images(events, [(t, t + WINDOW_MS * 1_000_000) for t in begins], 180, 240)
    expected = normalised(torch.from_numpy(np.stack(list(drawn))))
    torch.testing.assert_close(images_of(run.marks), expected, rtol=0, atol=0)
    assert (run.marks > 0).any()
    assert [CLASSES[k] for k in run.action] == [World(3).wearer(t + WINDOW_MS * 1_000_000).action for t in begins]


def test_an_image_of_two_steps_is_the_union_of_their_marks() -> None:
    marks = np.zeros((6, 1, 4), np.uint8)
    marks[:, 0, 2] = [0, 1, 1, 2, 0, 0]  # steps 1 and 2: brighter; step 3: darker
    run = run_of(sample_of(ActionRecording(marks, np.arange(6))), begin=0, images=3)
    assert run.marks[:, 0, 2].tolist() == [1, 3, 0]
    assert not run.marks[:, 0, [0, 1, 3]].any()
    assert run.action.tolist() == [1, 3, 5]  # at the end of each image


def test_packed_marks_come_back() -> None:
    marks = np.random.default_rng(0).integers(0, 4, (2, 3, 8), np.uint8)
    assert packed(marks).shape == (2, 3, 2)
    np.testing.assert_array_equal(unpacked(packed(marks)), marks)


def test_runs_give_the_logits_that_whole_clips_give() -> None:
    network = ESTF(SMALL).eval()
    fill(network)
    images = 50 * torch.randn(2, 6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        runs = run_logits(network, images)  # 6 images hold 3 clips of 4
        clips = torch.stack([network(images[:, k : k + 4].transpose(1, 2)) for k in range(3)], dim=1)
    torch.testing.assert_close(runs, clips, rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_cross_entropy() -> None:
    unsure = clip_loss(torch.zeros(2, 5, 12), torch.zeros(2, 5, dtype=torch.int64))
    assert math.isclose(float(unsure), math.log(12), rel_tol=1e-6)
    sure = torch.tensor([[[math.log(3.0), 0.0]]])  # three to one for the first class
    assert math.isclose(float(clip_loss(sure, torch.tensor([[0]]))), math.log(4 / 3), rel_tol=1e-6)
    assert math.isclose(float(clip_loss(sure, torch.tensor([[1]]))), math.log(4), rel_tol=1e-6)


def test_augmentation_cuts_borders_and_keeps_most_marks() -> None:
    marks = np.zeros((3, 100, 100), np.uint8)
    marks[:, 20:80, 20:80] = 1
    random = np.random.default_rng(0)
    varied = EventAugmentation(shift=0.1, lost=0.3, noise=0.0).apply(marks, random)
    assert varied.shape[0] == 3
    assert all(80 <= side <= 100 for side in varied.shape[1:])
    assert 0.65 < (varied > 0).sum() / (marks > 0).sum() <= 1.0
    still = EventAugmentation(0.0, 0.0, 0.0).apply(marks, random)
    np.testing.assert_array_equal(still, marks)


def test_it_learns_three_runs_by_heart() -> None:
    torch.manual_seed(0)
    network = ESTF(replace(SMALL, clip_len=2)).train()
    images = 60 * torch.randn(3, 3, 3, 64, 64)
    action = torch.tensor([[0, 0], [1, 1], [2, 2]])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(40):
        loss = clip_loss(run_logits(network, images), action)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        assert bool((run_logits(network, images).argmax(-1) == action).all())


def test_the_card_names_the_actions_of_the_world_in_the_order_of_the_logits() -> None:
    card = find_card("estf_cabin")
    assert tuple(card.class_names) == CLASSES
    assert card.events.window_ms == WINDOW_MS
    assert card.events.stride == 1


def test_a_run_that_shall_change_changes_where_clips_end() -> None:
    action, random = np.repeat([3, 1, 4, 2, 0], 64), np.random.default_rng(0)
    for _ in range(50):
        begin = run_begin(action, 8, random, changing=1.0)
        assert 0 <= begin <= len(action) - RUN * STEPS
        assert len(set(action[begin + 7 * STEPS - 1 : begin + RUN * STEPS].tolist())) == 2
    anywhere = [run_begin(action, 8, random, changing=0.0) for _ in range(200)]
    assert (min(anywhere), max(anywhere)) == pytest.approx((0, len(action) - RUN * STEPS), abs=15)
