"""Masks in runs: the same labels, and nothing that a hostile message could make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from perception.errors import MessageError
from perception.messages import Header, SegmentationMask, mask_labels, runs_of

HEADER = Header(frame_id="cam_optical", t_sensor_ns=0)


def in_runs(label: Any, length: Any, height: int, width: int) -> SegmentationMask:
    return SegmentationMask(
        header=HEADER, classes=("road",), label=np.array(label, np.uint8), run_length=np.array(length, np.uint32),
        height_px=height, width_px=width,
    )  # fmt: skip


def test_runs_go_on_from_row_to_row() -> None:
    label, length = runs_of(np.array([[1, 1, 2], [2, 2, 0]], np.uint8))
    assert (label.tolist(), length.tolist()) == ([1, 2, 0], [2, 3, 1])


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(0, 3)))
def test_labels_come_back_from_runs(label: Any) -> None:
    values, length = runs_of(label)
    np.testing.assert_array_equal(mask_labels(in_runs(values, length, *label.shape)), label)


@pytest.mark.parametrize(
    ("label", "length", "size"),
    [
        ([1, 2], [3], (1, 3)),
        ([1], [4], (1, 3)),
        ([1], [2**32 - 1], (2**16, 2**16)),
        ([1], [4], (-2, -2)),
        ([1], [2**32 - 1], (1, 2**32 - 1)),
    ],
)
def test_runs_that_do_not_add_up_are_a_message_error(label: Any, length: Any, size: tuple[int, int]) -> None:
    with pytest.raises(MessageError, match="pixels"):
        mask_labels(in_runs(label, length, *size))


def test_labels_in_one_row_without_lengths_are_a_message_error() -> None:
    mask = SegmentationMask(header=HEADER, classes=("road",), label=np.zeros(4, np.uint8))
    with pytest.raises(MessageError, match="run_length"):
        mask_labels(mask)
