"""Depth completion: the filters against OpenCV's, the whole against the published pipeline's steps, and by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perception.errors import ShapeError
from perception.ops.depth_completion import (
    bilateral,
    complete_depth,
    complete_depth_in_tensors,
    median,
    sparse_depth,
)


def random_sparse(seed: int, share: float, size: tuple[int, int] = (40, 60)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    depth = torch.rand(3, *size, generator=generator) * 75 + 1
    return depth * (torch.rand(3, *size, generator=generator) < share)


def cross(size: int) -> np.ndarray:
    kernel = np.zeros((size, size), np.uint8)
    kernel[size // 2] = kernel[:, size // 2] = 1
    return kernel


def below_top(depth: np.ndarray) -> np.ndarray:
    mask = np.ones(depth.shape, bool)
    for column in range(depth.shape[1]):
        mask[: np.argmax(depth[:, column] > 0.1), column] = False
    return mask


def with_opencv(depth: np.ndarray) -> np.ndarray:
    """The steps of section III of the paper with OpenCV's filters, one map."""
    inverted = np.where(depth > 0.1, 100 - depth, depth).astype(np.float32)
    x = inverted.copy()
    for size, inside in ((3, depth > 30), (5, (depth > 15) & (depth <= 30)), (7, (depth > 0.1) & (depth <= 15))):
        dilated = cv2.dilate(inverted * inside, cross(size))
        x[dilated > 0.1] = dilated[dilated > 0.1]
    x = cv2.morphologyEx(x, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    x = np.where(x > 0.1, cv2.medianBlur(x, 5), x)
    x = np.where(~(x > 0.1) & below_top(x), cv2.dilate(x, np.ones((9, 9), np.uint8)), x)
    mask = below_top(x)
    for _ in range(6):
        x = np.where((x < 0.1) & mask, cv2.dilate(x, np.ones((5, 5), np.uint8)), x)
    known = (x > 0.1) & mask
    x = np.where(known, cv2.medianBlur(x, 5), x)
    x = np.where(known, cv2.bilateralFilter(x, 5, 0.5, 2.0), x)
    return np.asarray(np.where(x > 0.1, 100 - x, x))


@given(st.integers(0, 1000), st.sampled_from([0.002, 0.02, 0.2, 0.7]))
@settings(max_examples=15, deadline=None)
def test_the_compiled_filters_are_those_in_tensors(seed: int, share: float) -> None:
    sparse = random_sparse(seed, share) * 1.4  # some beyond the distance at which depths are inverted
    torch.testing.assert_close(complete_depth(sparse), complete_depth_in_tensors(sparse), rtol=0, atol=1e-4)


@given(st.integers(0, 1000), st.sampled_from([0.002, 0.02, 0.2, 0.7]))
@settings(max_examples=15, deadline=None)
def test_every_view_equals_the_pipeline_on_opencv(seed: int, share: float) -> None:
    sparse = random_sparse(seed, share)
    expected = np.stack([with_opencv(view.numpy()) for view in sparse])
    # OpenCV reads its bilateral weights from a table of 4096 entries; that is where the last digits differ
    np.testing.assert_allclose(complete_depth(sparse).numpy(), expected, atol=2e-3)


def test_the_median_is_opencv_s() -> None:
    image = random_sparse(1, 0.6)
    np.testing.assert_array_equal(median(image, 5)[0].numpy(), cv2.medianBlur(image[0].numpy(), 5))


def test_the_bilateral_filter_is_opencv_s_but_for_its_table() -> None:
    image = torch.rand(1, 30, 40, generator=torch.Generator().manual_seed(2)) * 2
    expected = cv2.bilateralFilter(image[0].numpy(), 5, 0.5, 2.0)
    np.testing.assert_allclose(bilateral(image)[0].numpy(), expected, atol=1e-5)


def test_an_empty_map_stays_empty() -> None:
    assert not complete_depth(torch.zeros(2, 8, 9)).any()


def test_a_lone_depth_is_an_outlier() -> None:
    sparse = torch.zeros(1, 20, 20)
    sparse[0, 10, 10] = 10.0
    # Dilated to a cross of 13 pixels, it fills 9 of the 25 of a median window: less than half, at its own place
    assert complete_depth(sparse)[0, 10, 10] == 0


def test_a_plane_keeps_its_depth_and_the_sky_stays_empty() -> None:
    sparse = torch.zeros(1, 40, 30)
    sparse[0, 20:, ::3] = 10.0
    filled = complete_depth(sparse)[0]
    torch.testing.assert_close(filled[20:], torch.full((20, 30), 10.0))
    assert not filled[:17].any()  # near depths are dilated by 3 pixels; nothing above a column's top is filled


def test_the_last_point_on_a_pixel_stays() -> None:
    pixels = torch.tensor([[[1, 2], [1, 2], [0, 0], [1, 2]]])
    depths = torch.tensor([[5.0, 9.0, 3.0, 7.0]])
    seen = torch.tensor([[True, True, True, False]])
    expected = torch.zeros(1, 2, 3)
    expected[0, 1, 2], expected[0, 0, 0] = 9.0, 3.0
    assert torch.equal(sparse_depth(pixels, depths, seen, 2, 3), expected)


def test_views_do_not_mix() -> None:
    sparse = random_sparse(7, 0.1)
    assert torch.equal(complete_depth(sparse)[1:2], complete_depth(sparse[1:2]))


@pytest.mark.parametrize("shape", [(8, 9), (1, 2, 9)])
def test_maps_that_the_filters_cannot_take_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        complete_depth(torch.zeros(shape))
