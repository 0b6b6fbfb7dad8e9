"""Projections of joints: hand-worked pixels, and our camera models against the published one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perception.errors import ShapeError
from perception.geometry.cameras import Camera
from perception.ops.joint_projection import camera_projection, unrealego_projection

PINHOLE = Camera("plumb_bob", 640, 480, (500.0, 500.0), (319.5, 239.5))
# The calibration file of UnrealEgo: centre, affine, polynomials of the radius and of the angle.
OCAM = Camera(
    "ocam", 1024, 1024, (1.0, 1.0), (511.1183388444314, 510.8730105600536),
    (
        0.999997845608931, -0.00003641214346960503, -0.0000492182252254407,
        7, -516.7691300636768, 0.0, 0.001827567433476, -9.458375642153957e-6, 4.460350926140045e-8,
        -9.434841474792276e-11, 8.099831344095236e-14,
        19, 541.084422, 133.996745, -53.833198, 60.96083, -24.78051, 12.451492, -30.240511, 26.90122, 116.38499,
        -133.991117, -141.904687, 184.05592, 107.45616, -125.552875, -55.66342, 44.209519, 18.234651, -6.410899,
        -2.737066,
    ),
)  # fmt: skip


def test_a_joint_in_the_image_plane_appears_at_the_first_coefficient() -> None:
    # z = 0 is angle 0: the radius is 541.084422 px, to the right of the centre at 511.118: outside of the picture.
    place, seen = unrealego_projection(torch.tensor([[[10.0, 0.0, 0.0]]]), torch.zeros(1, 2, 1, 3))
    assert place.shape == (1, 2, 1, 2)
    assert not seen.any()
    np.testing.assert_allclose(place[0, 0, 0], [1.0, 510.8730105600536 / 1024], rtol=1e-6)


def test_the_reference_point_moves_joints_into_each_camera() -> None:
    joints = torch.tensor([[[0.0, 5.0, 20.0]]])
    references = torch.tensor([[[[3.0, 0.0, 10.0]], [[-3.0, 0.0, 10.0]]]])
    place, seen = unrealego_projection(joints, references)
    assert seen.all()
    left, right = (place[0, :, 0, 0] - 511.1183388444314 / 1024).tolist()
    assert left == pytest.approx(-right, rel=1e-4)
    assert left > 0


def test_on_the_optical_axis_there_is_no_place_as_published() -> None:
    place, seen = unrealego_projection(torch.tensor([[[0.0, 0.0, 30.0]]]), torch.zeros(1, 2, 1, 3))
    assert place.isnan().all()
    assert not seen.any()


def test_one_view_takes_one_reference() -> None:
    place, _ = unrealego_projection(torch.rand(2, 16, 3), torch.rand(2, 1, 1, 3))
    assert place.shape == (2, 1, 16, 2)


def test_our_fisheye_model_agrees_with_the_published_projection() -> None:
    random = np.random.default_rng(0)
    joints = torch.from_numpy(random.uniform((-60, -60, 5), (60, 60, 80), (1, 200, 3)))
    references = torch.zeros(1, 2, 1, 3, dtype=torch.float64)
    published, seen = unrealego_projection(joints, references)
    ours, ours_seen = camera_projection([OCAM, OCAM])(joints, references)
    both = (seen & ours_seen)[..., None]
    assert float((seen == ours_seen).double().mean()) > 0.99
    assert both.sum() > 200
    # Half a pixel of 1024 by convention, and a few hundredths by the affine part, which the published code leaves out.
    assert float(((ours - published).abs() * both).max()) < 0.6 / 1024


def test_a_pinhole_sees_by_hand() -> None:
    # 20 cm right at 1 m: 500 * 0.2 = 100 px right of the centre 319.5, whose coordinate is (419.5 + 0.5) / 640.
    joints, references = torch.tensor([[[0.0, 0.0, 60.0], [0.0, 0.0, -80.0]]]), torch.tensor([[[[20.0, 0.0, 40.0]]]])
    place, seen = camera_projection([PINHOLE])(joints, references)
    np.testing.assert_allclose(place[0, 0, 0], [420 / 640, 0.5], rtol=1e-6)
    assert seen.tolist() == [[[True, False]]]
    assert place[0, 0, 1].tolist() == [0.0, 0.0]


def test_the_axes_of_joints_are_turned_into_the_camera() -> None:
    # Joints along x forward, y left, z up, as in base_link; the camera looks forward: x right is -y, y down is -z.
    rotation = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    project = camera_projection([PINHOLE], [rotation], unit_m=1.0)
    place, seen = project(torch.tensor([[[2.0, -0.4, 0.2]]]), torch.zeros(1, 1, 1, 3))
    assert seen.all()
    np.testing.assert_allclose(place[0, 0, 0], [420 / 640, (239.5 - 50 + 0.5) / 480], rtol=1e-6)


def test_cameras_references_and_rotations_must_be_as_many() -> None:
    with pytest.raises(ShapeError, match="1 rotations for 2 cameras"):
        camera_projection([PINHOLE, PINHOLE], [np.eye(3)])
    with pytest.raises(ShapeError, match="expected"):
        camera_projection([PINHOLE])(torch.zeros(1, 1, 3), torch.zeros(1, 2, 1, 3))
