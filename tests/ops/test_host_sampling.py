"""What is compiled for the host against torch's own operators, and by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.ops.host_sampling import bilinear_on_host, sampled_on_host, softmax_on_host


def test_samples_of_several_maps_add_up_to_those_of_torch() -> None:
    random = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 7, 9, 5, generator=random)
    places = torch.rand(3, 200, 2, generator=random) * 2.6 - 1.3  # some beyond the border
    shares = torch.rand(3, 200, generator=random)
    each = F.grid_sample(maps.permute(0, 3, 1, 2), places[:, :, None], align_corners=False)[..., 0]
    torch.testing.assert_close(bilinear_on_host(maps, places, shares), (each * shares[:, None]).sum(0).T)
    torch.testing.assert_close(bilinear_on_host(maps, places), each.sum(0).T)


def test_a_place_between_four_cells_is_their_mean_and_one_without_a_share_is_not_read() -> None:
    maps = torch.tensor([[[[1.0], [2.0]], [[3.0], [6.0]]], [[[torch.nan]] * 2] * 2])
    assert bilinear_on_host(maps, torch.zeros(2, 1, 2), torch.tensor([[0.5], [0.0]])).tolist() == [[1.5]]


@given(st.lists(st.floats(-80, 80, width=32), min_size=12, max_size=12))
@settings(max_examples=50, deadline=None)
def test_the_softmax_of_every_head_is_torch_s(logits: list[float]) -> None:
    rows = torch.tensor([logits])
    expected = rows.reshape(1, 3, 4).softmax(-1).reshape(1, 12)
    torch.testing.assert_close(softmax_on_host(rows, 3), expected, rtol=1e-5, atol=1e-30)
    assert rows.tolist() == [logits]  # what is given stays


def test_samples_of_bfloat16_are_those_of_the_same_numbers_in_float32() -> None:
    random = torch.Generator().manual_seed(0)
    values, reference = torch.randn(35, 24, generator=random).bfloat16(), torch.rand(50, 2, generator=random)
    offsets, weights = torch.randn(50, 2, 8, generator=random) * 3, torch.rand(50, 8, generator=random)
    found, expected = (sampled_on_host(x, ((5, 7),), reference, offsets, weights, 2) for x in (values, values.float()))
    assert torch.equal(found, expected)
