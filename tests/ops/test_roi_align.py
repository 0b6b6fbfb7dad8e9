"""RoIAlign against the literal loop over bins and samples."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perception.ops.roi_align import roi_align


def literal(feature: Tensor, box: list[float], size: int, samples: int) -> Tensor:
    """One rectangle on one map (C, H, W), as the paper says it, sample by sample."""
    channels, height, width = feature.shape
    x0, y0, x1, y1 = (side - 0.5 for side in box)
    pooled = feature.new_zeros(size, size, channels)
    for row in range(size):
        for column in range(size):
            for i in range(samples):
                for j in range(samples):
                    y = y0 + (row + (i + 0.5) / samples) * (y1 - y0) / size
                    x = x0 + (column + (j + 0.5) / samples) * (x1 - x0) / size
                    if y < -1 or y > height or x < -1 or x > width:
                        continue
                    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
                    top, left = math.floor(y), math.floor(x)
                    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
                    upper = feature[:, top, left] * (1 - (x - left)) + feature[:, top, right] * (x - left)
                    lower = feature[:, bottom, left] * (1 - (x - left)) + feature[:, bottom, right] * (x - left)
                    pooled[row, column] += (upper * (1 - (y - top)) + lower * (y - top)) / samples**2
    return pooled.reshape(size * size, channels)


@given(
    st.lists(st.tuples(*[st.floats(-20, 30)] * 2, *[st.floats(0, 40)] * 2), min_size=1, max_size=4),
    st.sampled_from([(7, 2), (3, 1), (2, 3)]),
)
@settings(max_examples=25, deadline=None)
def test_every_rectangle_equals_the_loop(boxes: list[tuple[float, float, float, float]], grid: tuple[int, int]) -> None:
    features = torch.randn(3, 4, 9, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes], dtype=torch.float64)
    maps = torch.arange(len(boxes)) % 3
    pooled = roi_align(features, corners, maps, *grid)
    for row, (box, number) in enumerate(zip(corners.tolist(), maps.tolist(), strict=True)):
        torch.testing.assert_close(pooled[row], literal(features[number], box, *grid))


def test_compiled_for_the_host_it_is_the_same() -> None:
    random = torch.Generator().manual_seed(0)
    features, maps = torch.randn(3, 20, 9, 13, generator=random), torch.tensor([2, 0, 1, 1, 2])
    boxes = torch.rand(5, 4, generator=random) * 20 - 5
    boxes[0] = torch.tensor([-1e7, -1e7, 1e7, 1e7])
    with torch.enable_grad():  # in tensors
        expected = roi_align(features, boxes, maps, 3)
    with torch.no_grad():
        torch.testing.assert_close(roi_align(features, boxes, maps, 3), expected)


def test_a_bin_over_two_pixels_is_their_mean() -> None:
    feature = torch.tensor([[[[2.0, 4.0, 6.0, 8.0]]]])
    # One bin from x = 1 to 3 covers pixels 1 and 2; its samples lie on their centres, 1.5 and 2.5.
    assert roi_align(feature, torch.tensor([[1.0, 0.0, 3.0, 1.0]]), torch.tensor([0]), size=1).item() == pytest.approx(
        5.0
    )


def test_a_rectangle_far_off_the_map_is_zero() -> None:
    pooled = roi_align(torch.ones(1, 2, 4, 4), torch.tensor([[-1e7, 10.0, -1e6, 1e8]]), torch.tensor([0]))
    assert not pooled.any()


def test_no_rectangles_give_no_bins() -> None:
    assert roi_align(torch.ones(1, 2, 4, 4), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).shape == (0, 49, 2)
