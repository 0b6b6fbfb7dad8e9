"""Tiles: each pixel comes back once, at its own place, from the tile that sees most around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.errors import ShapeError
from perception.ops.image import Normalization
from perception.ops.tiles import Tiles

PLAIN = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_two_tiles_of_a_wide_picture_overlap_by_what_was_asked() -> None:
    tiles = Tiles.of((64, 120), (64, 64), overlap_px=8)
    assert (tiles.tops, tiles.lefts) == ((0,), (0, 56))


def test_a_third_tile_is_taken_where_two_would_overlap_by_less() -> None:
    assert Tiles.of((64, 121), (64, 64), overlap_px=8).lefts == (0, 28, 57)  # 28.5 rounds to the even


@given(height=st.integers(1, 150), width=st.integers(1, 150), overlap=st.integers(0, 31))
@settings(max_examples=40, deadline=None)
def test_a_network_that_copies_the_picture_gives_it_back_whole(height: int, width: int, overlap: int) -> None:
    tiles = Tiles.of((height, width), (32, 48), overlap)
    picture = np.random.default_rng(height * 151 + width).integers(0, 4, (height, width), dtype=np.uint8)
    inputs = tiles.apply(np.repeat(picture[..., None], 3, axis=2), PLAIN)
    classes = (inputs[:, 0] * 255).round().long()  # the red channel holds the class
    logits = torch.nn.functional.one_hot(classes, 4).permute(0, 3, 1, 2).float().numpy()
    np.testing.assert_array_equal(tiles.segmented(logits).label, picture)


def test_a_seam_lies_in_the_middle_of_the_overlap() -> None:
    tiles = Tiles.of((32, 80), (32, 48), overlap_px=16)
    logits = np.zeros((2, 2, 4, 6), np.float32)
    logits[1, 1] = 1  # the right tile says class 1 everywhere
    label = tiles.segmented(logits).label
    assert (label[:, :40] == 0).all()
    assert (label[:, 40:] == 1).all()


def test_soft_outputs_are_those_of_the_tile_that_gave_the_class() -> None:
    tiles = Tiles.of((32, 80), (32, 48), overlap_px=16)
    logits = np.zeros((2, 2, 4, 6), np.float32)
    logits[1, 1] = 100
    found = tiles.segmented(logits, confidence=True, entropy=True)
    assert found.confidence is not None
    assert found.entropy is not None
    assert set(np.unique(found.confidence[:, :40])) == {128}
    assert set(np.unique(found.confidence[:, 40:])) == {255}
    assert (found.entropy[0, 0], found.entropy[0, 79]) == (255, 0)


def test_an_overlap_as_large_as_a_tile_is_refused() -> None:
    with pytest.raises(ShapeError, match="overlap by 32"):
        Tiles.of((64, 64), (32, 48), 32)


def test_logits_of_another_number_of_tiles_are_refused() -> None:
    with pytest.raises(ShapeError, match="2 tiles"):
        Tiles.of((32, 80), (32, 48), 16).segmented(np.zeros((1, 2, 4, 6), np.float32))
