"""Training EgoPoseFormer: losses and heatmaps by hand, and joints that lie where the cameras show them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from perception.networks.card import find_card
from perception.networks.egoposeformer import EgoPoseFormer, EgoPoseFormerConfig
from perception.networks.layers.resnet import ResNetConfig
from perception.simulation.classes import PERSON
from perception.simulation.world import World
from perception.training.egoposeformer import headset_of, heatmap_loss, heatmaps_of, pose_loss, poses_of
from perception.training.worn_pairs import CAMERAS, Headset, Photometry, worn_pairs

SMALL = EgoPoseFormerConfig(
    resnet=ResNetConfig(depths=(1, 1, 1, 1), widths=(8, 8, 16, 16)), neck_channels=16, image_size=(64, 64), dim=16,
    num_heads=2, num_points=2, spatial_heads=2, ffn_dim=32, num_layers=1, proposal_dim=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def headset() -> Headset:
    return headset_of(find_card("egoposeformer_cabin"), "simulated_car")


def test_a_heatmap_is_a_gaussian_around_its_joint() -> None:
    places = torch.tensor([[[3.5 / 8, 1.5 / 4], [0.5, 0.5]]])  # the centre of column 3 and row 1; and an unseen joint
    maps = heatmaps_of(places, torch.tensor([[True, False]]), (4, 8), sigma_cells=1.0)
    assert maps.shape == (1, 2, 4, 8)
    assert float(maps[0, 0, 1, 3]) == pytest.approx(1.0)
    assert float(maps[0, 0, 1, 4]) == pytest.approx(math.exp(-0.5))
    assert float(maps[0, 0, 3, 2]) == pytest.approx(math.exp(-2.5))  # two rows down, one column left: (4 + 1) / 2
    assert not maps[0, 1].any()


def test_the_losses_are_those_of_the_paper_by_hand() -> None:
    assert float(heatmap_loss(torch.full((2, 3), 0.5), torch.zeros(2, 3))) == pytest.approx(10 * 0.25)
    truth = torch.zeros(1, 2, 3)
    proposal = torch.tensor([[[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]])  # 5 cm and 1 cm: 3 cm on average
    refined = torch.tensor([[[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]])  # 2 cm and none: 1 cm
    poses = torch.stack((proposal, refined), dim=1)
    assert float(pose_loss(poses, truth)) == pytest.approx(0.1 * (3 + 1))


def test_joints_lie_on_the_person_in_both_pictures(headset: Headset) -> None:
    world, t_ns = World(11, action="clap"), 700_000_000
    joints, _ = world.skeleton(headset.rig, "ego_left", t_ns)
    targets = headset.targets(joints[None])
    places, seen = headset.projection()(targets, headset.references())
    assert places.shape == (1, 2, 16, 2)
    assert seen[0].sum() > 16
    for view, name in enumerate(CAMERAS):
        person = world.camera(headset.rig, name, t_ns).semantic == PERSON
        arms = [4, 5, 6, 7]  # in front of the chest nothing hides them
        columns, rows = (places[0, view, arms].numpy() * 192).astype(int).T
        assert person[rows.clip(0, 191), columns.clip(0, 191)][seen[0, view, arms].numpy()].all()


def test_a_joint_at_the_reference_is_zero(headset: Headset) -> None:
    joints = np.tile(np.array(headset.reference_m), (1, 16, 1))
    assert not headset.targets(joints).any()
    offset = headset.targets(joints + np.array([0.0, 0.0, 0.25]))
    torch.testing.assert_close(offset[0, 0], torch.tensor([0.0, 0.0, 25.0]))  # centimetres


def test_equal_seeds_give_equal_pairs(headset: Headset) -> None:
    one, same, other = (next(iter(worn_pairs(headset.rig, seed))) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one["images"], same["images"])
    assert one["images"].shape == (2, 192, 192, 3)
    assert (one["images"] != other["images"]).mean() > 0.5


def test_photometry_moves_nothing() -> None:
    pair = np.full((2, 8, 8, 3), 40, np.uint8)
    pair[:, :, 4:] = 200
    varied = Photometry(noise=0.0).apply(pair, np.random.default_rng(2))
    assert (varied != pair).any()
    assert (varied[:, :, :4] == varied[:, :1, :1]).all()  # what was alike stays alike, in both views
    assert (varied[:, :, 4:] == varied[:, :1, 7:]).all()
    np.testing.assert_array_equal(varied[0], varied[1])
    assert (np.abs(pair.astype(int) - Photometry(0, 0, 0, 0, 0).apply(pair, np.random.default_rng(2))) <= 1).all()


def test_training_runs_the_network_that_the_node_runs(headset: Headset) -> None:
    network = EgoPoseFormer(SMALL).eval()
    image = torch.randn(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    references = headset.references()
    with torch.no_grad():
        expected = network(image, references, headset.projection())
        found = poses_of(network, network.encoder(image.flatten(0, 1)), references, headset.projection())
    torch.testing.assert_close(found, expected)


def test_it_learns_two_poses_by_heart(headset: Headset) -> None:
    torch.manual_seed(0)
    network = EgoPoseFormer(SMALL).train()
    image, truth = torch.randn(2, 2, 3, 64, 64), 20 * torch.randn(2, 16, 3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    references, project, losses = headset.references(), headset.projection(), []
    for _ in range(50):
        poses = poses_of(network, network.encoder(image.flatten(0, 1)), references, project)
        loss = pose_loss(poses, truth)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]
