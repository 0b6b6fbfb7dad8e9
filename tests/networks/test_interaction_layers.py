"""Layers of DeepInteraction++ against torch's own, against literal loops, and by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.networks.layers.attention import Attention, TransformerDecoderLayer
from perception.networks.layers.deformable_attention import (
    MultiScaleDeformableAttention,
    deformable_sampling,
    reference_points,
)
from perception.networks.layers.interaction_encoder import (
    InteractionConfig,
    PillarAlignment,
    SingleHead,
    sine_encoding,
)
from perception.networks.layers.interaction_geometry import (
    FrameGeometry,
    GeometryConfig,
    Pillars,
    cells_in_tensors,
    depths_in_tensors,
    frame_geometry,
    project,
    samples_in_tensors,
    view_geometry,
)
from perception.networks.layers.interaction_on_host import Rows, aligned
from perception.networks.layers.swin import relative_position_index
from perception.ops.host_views import depth_maps, samples_of_pillars
from tests.threads import threads_of_torch

IMAGE = (32, 64)
CONFIG = GeometryConfig((-8.0, -8.0, -2.0, 8.0, 8.0, 2.0), (16, 16), 4, (1.0, 5.0, 1.0))


def camera(position: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """A camera looking along +y of the LiDAR frame (x right, z up), focal length 32 px: image_from_lidar and pose."""
    pose = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    pose[:3, 3] = torch.tensor(position)
    intrinsics = torch.tensor([[32.0, 0, 32, 0], [0, 32, 16, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return (intrinsics @ torch.linalg.inv(pose))[None, None], pose[None, None]


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_sampled_on_a_host_is_what_is_learned_in_tensors(threads: int) -> None:
    attention = MultiScaleDeformableAttention(24, levels=2, heads=4, points=3)
    nn.init.normal_(attention.sampling_offsets.bias, std=4.0)  # many fall beyond the border
    query, levels = torch.randn(2, 7 * 11, 24), [torch.randn(2, 24, 7, 11), torch.randn(2, 24, 3, 5)]
    reference = reference_points(7, 11, query)
    expected = attention(query, reference, levels)
    assert expected.requires_grad
    with torch.no_grad(), threads_of_torch(threads):
        found = attention(query, reference, levels)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_pillars_aligned_on_a_host_are_those_that_are_learned_in_tensors(threads: int) -> None:
    alignment = PillarAlignment(InteractionConfig(channels=24))
    bev, image = torch.randn(1, 24, 4, 5), torch.randn(2, 24, 3, 7)
    random = torch.Generator().manual_seed(0)
    samples, pillars = 30, 6
    pillar_samples = torch.randperm(samples, generator=random).reshape(pillars, -1)
    pillar_samples[2, 1:], pillar_samples[4, 3:] = samples, samples  # fewer samples than others
    cell_pillar = torch.full((20,), pillars)
    cell_pillar[torch.arange(pillars) * 3] = torch.arange(pillars)
    none = torch.zeros(0)
    frame = FrameGeometry(
        none, none, none, torch.randint(0, 42, (samples, 4), generator=random), torch.rand(samples, 4),
        pillar_samples, torch.arange(pillars) * 3, cell_pillar,
    )  # fmt: skip
    expected = alignment(bev, image, frame)
    assert expected.requires_grad
    with torch.no_grad(), threads_of_torch(threads):
        cells, pixels = (Rows(x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])) for x in (bev, image))
        found = bev + Rows(aligned(alignment, cells, pixels, frame), cells.size).as_map()
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)


def test_attention_is_torch_s() -> None:
    ours, theirs = Attention(32, 4), nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    query, key, value = torch.randn(2, 5, 32), torch.randn(2, 9, 32), torch.randn(2, 9, 32)
    torch.testing.assert_close(ours(query, key, value), theirs(query, key, value)[0], rtol=1e-4, atol=1e-5)
    mask = torch.where(torch.rand(2, 5, 9) < 0.3, -torch.inf, 0.0)
    mask[..., 0] = 0
    expected = theirs(query, key, value, attn_mask=mask.repeat_interleave(4, 0))[0]
    torch.testing.assert_close(ours(query, key, value, mask), expected, rtol=1e-4, atol=1e-5)


def test_the_decoder_layer_is_torch_s_with_post_norm() -> None:
    ours = TransformerDecoderLayer(32, 4, 64).eval()
    theirs = nn.TransformerDecoderLayer(32, 4, 64, dropout=0.0, batch_first=True).eval()
    theirs.load_state_dict(ours.state_dict())
    query, memory = torch.randn(2, 5, 32), torch.randn(2, 9, 32)
    torch.testing.assert_close(ours(query, memory), theirs(query, memory), rtol=1e-4, atol=1e-5)


def test_the_folded_single_head_is_torch_s_masked_attention() -> None:
    ours, theirs = SingleHead(16), nn.MultiheadAttention(16, 1, batch_first=True)
    nn.init.normal_(ours.in_proj_bias)
    theirs.load_state_dict(ours.state_dict())
    query, keys = torch.randn(6, 16), torch.randn(6, 4, 16)
    absent = torch.tensor([[False, False, i % 2 == 0, i % 3 == 0] for i in range(6)])
    expected = theirs(query[:, None], keys, keys, key_padding_mask=absent)[0][:, 0]
    torch.testing.assert_close(ours(query, keys, absent), expected, rtol=1e-4, atol=1e-5)


def bilinear(value: Tensor, x: float, y: float) -> Tensor:
    """One sample of a map (C, H, W) at pixel coordinates, zeros outside."""
    total = torch.zeros(value.shape[0], dtype=value.dtype)
    column, row = int(x // 1), int(y // 1)
    for i, wy in ((row, 1 - (y - row)), (row + 1, y - row)):
        for j, wx in ((column, 1 - (x - column)), (column + 1, x - column)):
            if 0 <= i < value.shape[1] and 0 <= j < value.shape[2]:
                total += value[:, i, j] * wy * wx
    return total


def test_deformable_sampling_is_the_sum_over_heads_levels_and_points() -> None:
    torch.manual_seed(0)
    levels = [torch.randn(2, 6, 5, 7, dtype=torch.float64), torch.randn(2, 6, 3, 4, dtype=torch.float64)]
    locations = torch.rand(2, 3, 2, 2, 4, 2, dtype=torch.float64) * 1.4 - 0.2  # some outside
    weights = torch.rand(2, 3, 2, 2, 4, dtype=torch.float64)
    ours = deformable_sampling(levels, locations, weights)
    for b in range(2):
        for q in range(3):
            for head in range(2):
                expected = torch.zeros(3, dtype=torch.float64)
                for level, value in enumerate(levels):
                    share = value[b, 3 * head : 3 * head + 3]
                    for point in range(4):
                        x, y = locations[b, q, head, level, point].tolist()
                        sample = bilinear(share, x * share.shape[2] - 0.5, y * share.shape[1] - 0.5)
                        expected += weights[b, q, head, level, point] * sample
                torch.testing.assert_close(ours[b, q, 3 * head : 3 * head + 3], expected)


def test_reference_points_are_cell_centres_row_by_row() -> None:
    expected = [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert reference_points(2, 2, torch.zeros(1)).tolist() == expected


def test_the_sine_encoding_puts_rows_before_columns() -> None:
    encoding = sine_encoding(3, 4, 8, torch.zeros(1))  # 4 channels for the row, 4 for the column
    angle = torch.tensor(2.0)
    torch.testing.assert_close(encoding[2, 0, :2], torch.stack([angle.sin(), angle.cos()]))
    torch.testing.assert_close(encoding[0, 2, 4:6], torch.stack([angle.sin(), angle.cos()]))
    torch.testing.assert_close(encoding[2, 3, 2:4], torch.stack([(angle / 100).sin(), (angle / 100).cos()]))


def test_the_relative_position_of_a_pair_is_its_row_in_the_bias_table() -> None:
    index = relative_position_index(7)  # 13 x 13 offsets; the middle one is row 84
    assert set(index.diagonal().tolist()) == {84}
    assert index[0, 48] == 0  # six rows and six columns back
    assert index[48, 0] == 168
    assert index[1, 0] == 85  # one column on


def test_a_point_straight_ahead_falls_on_the_middle_of_the_image() -> None:
    image_from_lidar, _ = camera((0.0, 0.0, 0.0))
    points = torch.tensor([[0.0, 4.0, 0.0], [2.0, 4.0, 1.0], [0.0, -4.0, 0.0], [4.0, 4.0, 0.0]])
    where, depth, seen = project(points, image_from_lidar[0], *IMAGE)
    torch.testing.assert_close(where[0, :2], torch.tensor([[0.5, 0.5], [0.75, 0.25]]))  # 32 * 2 / 4 = 16 px right, 8 up
    assert depth[0].tolist() == [4, 4, -4, 4]
    assert seen[0].tolist() == [True, True, False, False]  # behind; and exactly on the border, which is outside


def test_the_rays_of_columns_start_at_the_lidar_wherever_the_camera_is() -> None:
    straight = view_geometry(*camera((0.0, 0.0, 0.0)), IMAGE, CONFIG).polar_grid
    moved = view_geometry(*camera((1.0, 2.0, 0.5)), IMAGE, CONFIG).polar_grid
    assert straight.shape == (1, 1, 4, 16, 2)
    torch.testing.assert_close(straight, moved)  # as published: radius times direction
    # Column 8 of 16 is at pixel 34, two right of the middle: direction (2 / 32, 1); the first radius is 1.5 m.
    direction = F.normalize(torch.tensor([2 / 32, 1.0]), dim=0)
    torch.testing.assert_close(straight[0, 0, 0, 8], 1.5 * direction / 8)


def test_a_cell_finds_its_radius_and_column() -> None:
    views = view_geometry(*camera((0.0, 0.0, 0.0)), IMAGE, CONFIG)
    # Cell (row 11, column 8) is centred at x 0.5, y 3.5: column 32 + 32 * 0.5 / 3.5 px, radius sqrt(12.5) m of 1 to 5.
    column, radius = views.cell_grid[0, 0, 11, 8].tolist()
    assert column == pytest.approx(2 * (32 + 32 * 0.5 / 3.5) / 64 - 1)
    assert radius == pytest.approx(2 * (12.5**0.5 - 1) / 4 - 1)
    assert views.cell_seen[0, 0, 0, 11, 8] == 1
    assert not views.cell_seen[0, 0, 0, :8].any()  # behind the camera


def test_a_pillar_samples_each_view_that_sees_its_points() -> None:
    image_from_lidar, _ = camera((0.0, 0.0, 0.0))
    two_views = torch.cat([image_from_lidar, image_from_lidar], 1)  # the same camera twice
    points = torch.zeros(2, 3, 5)
    points[0, 0, :3] = torch.tensor([0.0, 4.0, 0.0])  # at the corner of four image cells
    points[0, 1, :3] = torch.tensor([0.0, -4.0, 0.0])  # behind
    points[1, :, :3] = torch.tensor([0.25, 4.0, 0.25])  # on the centre of an image cell, but the last slot is empty
    pillars = Pillars(points, torch.tensor([2, 2]), torch.tensor([200, 7]))
    frame = frame_geometry([points.flatten(0, 1)], pillars, two_views, IMAGE, CONFIG)
    assert frame.pillar_cells.tolist() == [200, 7]
    present = frame.pillar_samples < len(frame.sample_cells)
    assert present.sum(1).tolist() == [2, 4]  # one point in two views; two points in two views
    assert frame.cell_pillar[200] == 0
    assert frame.cell_pillar[7] == 1
    assert (frame.cell_pillar == 2).sum() == 16 * 16 - 2
    first = frame.pillar_samples[0, 0]
    torch.testing.assert_close(frame.sample_weights[first], torch.full((4,), 0.25))
    assert frame.sample_cells[first].tolist() == [3 * 16 + 7, 3 * 16 + 8, 4 * 16 + 7, 4 * 16 + 8]
    second = frame.pillar_samples[1, 0]
    cells = dict(zip(frame.sample_cells[second].tolist(), frame.sample_weights[second].tolist(), strict=True))
    assert cells[3 * 16 + 8] == pytest.approx(1.0)


def test_a_pixel_without_depth_reads_the_cell_at_the_camera() -> None:
    image_from_lidar, _ = camera((1.0, 2.0, 0.5))
    pillars = Pillars(torch.zeros(0, 3, 5), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    frame = frame_geometry([torch.zeros(0, 5)], pillars, image_from_lidar, IMAGE, CONFIG)
    assert not frame.depth.any()
    torch.testing.assert_close(frame.warp_grid[0, 0, 3, 5], torch.tensor([1.0, 2.0]) / 8)
    assert frame.warp_inside.all()


def test_the_compiled_projections_are_those_of_tensors_to_the_last_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    rig = [camera(place) for place in ((0.0, -6.0, 1.0), (2.0, 1.0, 0.3), (-1.0, 3.0, 0.0))]
    projection, pose = (torch.cat([one[part][0] for one in rig]) for part in (0, 1))
    points = torch.rand(20, 50, 4, generator=generator) * torch.tensor([16.0, 16, 4, 1]) - torch.tensor([8.0, 8, 2, 0])
    size = (IMAGE[0] // 4, IMAGE[1] // 4)
    flat = points.flatten(0, 1)
    maps = depth_maps(flat.numpy(), projection.numpy(), IMAGE, size)
    assert torch.equal(torch.from_numpy(maps), depths_in_tensors(flat, projection, IMAGE, size))

    cells = torch.randperm(2 * 16 * 16, generator=generator)[:20].sort().values  # of two samples, with one rig each
    pillars = Pillars(points, torch.randint(0, 51, (20,), generator=generator), cells)
    rigs = torch.stack([projection, projection.flip(0)])
    expected = samples_in_tensors(pillars, rigs, IMAGE, CONFIG)
    given = (points.numpy(), pillars.counts.numpy(), (cells // 256).numpy(), rigs.numpy())
    corners, weights, found = (torch.from_numpy(x) for x in samples_of_pillars(*given, IMAGE, size))
    assert len(corners) > 100
    assert torch.equal(corners, expected[0])
    assert torch.equal(weights, expected[1])
    assert torch.equal(torch.arange(20).repeat_interleave(found), expected[2])

    views = view_geometry(projection[None], pose[None], IMAGE, CONFIG)
    places, sees = cells_in_tensors(projection, pose, IMAGE, CONFIG)
    assert torch.equal(views.cell_seen[0, :, 0] > 0, sees)
    torch.testing.assert_close(views.cell_grid[0], places, rtol=1e-5, atol=1e-5)
