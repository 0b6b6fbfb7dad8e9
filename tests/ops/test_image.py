"""Into the network and back: letterbox, normalisation, JPEG, and the mask at the size of the image."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.errors import ShapeError
from perception.ops.image import IMAGENET, Letterbox, Normalization, decoded_jpeg, normalised

DATA = os.environ.get("PERCEPTION_DATA")
PLAIN = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.skipif(DATA is None, reason="PERCEPTION_DATA is not set: the recorded preprocessing is not here")
def test_normalisation_equals_the_published_one() -> None:
    with np.load(Path(DATA or ".") / "golden" / "ddrnet" / "ddrnet_23_slim_oddgrid_b2.npz") as case:
        image, expected = case["in_image"], case["in_x"]
    ours = normalised(image[..., ::-1], IMAGENET)  # the case holds BGR
    torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


def test_white_is_one_minus_the_mean_over_the_deviation() -> None:
    white = np.full((1, 1, 1, 3), 255, np.uint8)
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(normalised(white, IMAGENET)[0, :, 0, 0], torch.tensor(expected))


def test_a_wide_image_in_a_square_input_has_bars_above_and_below() -> None:
    box = Letterbox.of((100, 200), (64, 64))
    assert (box.inner_size, box.offset) == ((32, 64), (16, 0))
    tensor = box.apply(np.full((100, 200, 3), 255, np.uint8), PLAIN)
    assert tensor.shape == (1, 3, 64, 64)
    assert (tensor[0, :, 16:48] == 1).all()
    assert (tensor[0, :, :16] == 0).all()
    assert (tensor[0, :, 48:] == 0).all()


@pytest.mark.parametrize(("align_corners", "stride"), [(False, 8), (True, 4)])
def test_at_the_inputs_own_size_the_mask_is_that_of_plain_interpolation(align_corners: bool, stride: int) -> None:
    logits = torch.randn(1, 5, 64 // stride, 96 // stride, generator=torch.Generator().manual_seed(0))
    full = F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=align_corners)
    box = Letterbox.of((64, 96), (64, 96))
    found = box.segmented(logits[0].numpy(), align_corners, confidence=True, entropy=True)
    top = full[0].topk(2, dim=0).values
    decided = (top[0] - top[1] > 1e-5).numpy()  # where rounding cannot turn the choice
    np.testing.assert_array_equal(found.label[decided], full[0].argmax(0).numpy()[decided])
    assert found.confidence is not None
    assert found.entropy is not None
    shares = full[0].softmax(0)
    np.testing.assert_allclose(found.confidence / 255, shares.amax(0).numpy(), atol=0.6 / 255)
    entropy = -(shares * shares.log()).sum(0) / np.log(5)
    np.testing.assert_allclose(found.entropy / 255, entropy.numpy(), atol=0.6 / 255)


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    cells=st.sampled_from([(8, 12), (9, 9), (1, 1)]),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_a_mask_comes_back_where_the_image_was(
    height: int, width: int, cells: tuple[int, int], data: st.DataObject
) -> None:
    box = Letterbox.of((height, width), (64, 96))
    logits = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(3, *cells)).astype(np.float32)
    labels = box.segmented(logits).label
    full = F.interpolate(torch.from_numpy(logits)[None], size=(64, 96), mode="bilinear", align_corners=False)[0]
    (top, left), (inner_height, inner_width) = box.offset, box.inner_size
    inner = full[:, top : top + inner_height, left : left + inner_width]
    if (height, width) == box.inner_size:
        margin = inner.topk(2, dim=0).values
        decided = (margin[0] - margin[1] > 1e-5).numpy()
        np.testing.assert_array_equal(labels[decided], inner.argmax(0).numpy()[decided])
    assert labels.shape == (height, width)
    assert np.isin(labels, [0, 1, 2]).all()


def test_an_edge_between_two_classes_lands_on_the_pixel_where_it_is() -> None:
    # Half the field of view is class 1: in an image of 30 columns in an input of 60, the edge is before column 15.
    box = Letterbox.of((20, 30), (40, 60))
    slope = np.linspace(-1, 1, 60, dtype=np.float32)  # crosses zero between columns 29 and 30 of the input
    logits = np.stack([np.zeros((40, 60), np.float32), np.tile(slope, (40, 1))])
    labels = box.segmented(logits).label
    assert (labels[:, :15] == 0).all()
    assert (labels[:, 15:] == 1).all()


def test_a_jpeg_decoded_at_reduced_size_stands_for_the_same_view() -> None:
    ramp = np.tile(np.linspace(0, 255, 512, dtype=np.uint8)[None, :, None], (256, 1, 3))
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(ramp), quality=95, colorspace="RGB")
    small = decoded_jpeg(data, at_least=(60, 120))
    assert small.shape == (64, 128, 3)
    box = Letterbox.of((256, 512), (64, 128))
    difference = box.apply(small, PLAIN) - box.apply(decoded_jpeg(data), PLAIN)
    assert difference.abs().max() < 0.02


def test_read_only_and_flipped_images_are_taken() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    frozen = image.copy()
    frozen.flags.writeable = False
    for box in (Letterbox.of((20, 30), (20, 30)), Letterbox.of((20, 30), (16, 16))):
        torch.testing.assert_close(box.apply(frozen, IMAGENET), box.apply(image, IMAGENET))
        flipped = box.apply(image[..., ::-1], PLAIN)
        torch.testing.assert_close(flipped, box.apply(image, PLAIN).flip(1), rtol=0, atol=1 / 255)


@pytest.mark.parametrize("data", [b"", b"not a jpeg", b"\xff\xd8\xff"])
def test_bytes_that_are_no_jpeg_are_a_shape_error(data: bytes) -> None:
    with pytest.raises(ShapeError, match="JPEG"):
        decoded_jpeg(data)


def test_a_cut_jpeg_is_a_shape_error() -> None:
    data = simplejpeg.encode_jpeg(np.zeros((64, 64, 3), np.uint8), colorspace="RGB")
    with pytest.raises(ShapeError, match="JPEG"):
        decoded_jpeg(data[: len(data) // 2])


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3)])
def test_an_array_that_is_no_rgb_image_is_a_shape_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        Letterbox.of((4, 4), (8, 8)).apply(np.zeros(shape, np.uint8), PLAIN)
