"""DSVT's sets against its equation, worked out a window and a slot at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.ops.window_sets import window_sets

Cell = tuple[int, int, int, int]  # batch, z, y, x
Triple = tuple[int, int, int]


def slot_by_slot(cells: list[Cell], window: Triple, shift: Triple, set_size: int) -> list[list[list[int]]]:
    """Return, for both orders, the voxel in each slot of each set (Wang et al., Eq. 3)."""
    windows: dict[tuple[int, ...], list[int]] = {}
    inside = []
    for number, (batch, z, y, x) in enumerate(cells):
        moved = [value + by for value, by in zip((x, y, z), shift, strict=True)]
        windows.setdefault((batch, *(m // w for m, w in zip(moved, window, strict=True))), []).append(number)
        inside.append([m % w for m, w in zip(moved, window, strict=True)])
    orders = []
    for major, minor in ((1, 0), (0, 1)):
        sets = []
        for key in sorted(windows):
            held = sorted(windows[key], key=lambda v: (inside[v][major], inside[v][minor], inside[v][2]))
            count, number = len(held), math.ceil(len(held) / set_size)
            sets += [
                [held[(j * set_size + i) * count // (number * set_size)] for i in range(set_size)]
                for j in range(number)
            ]
        orders.append(sets)
    return orders


@settings(max_examples=40, deadline=None)
@given(
    cells=st.sets(
        st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 17), st.integers(0, 20)),
        min_size=1,
        max_size=150,
    ),
    window=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)),
    set_size=st.integers(1, 12),
)
def test_sets_are_those_of_the_equation(cells: set[Cell], window: Triple, set_size: int) -> None:
    rows = sorted(cells, key=lambda c: (c[0], c[3], c[2], c[1]))
    shift = (window[0] // 2, window[1] // 2, 0)
    sets = window_sets(torch.tensor(rows), (21, 18, 4), window, shift, set_size)
    assert sets.index.tolist() == slot_by_slot(rows, window, shift, set_size)


@settings(max_examples=20, deadline=None)
@given(st.sets(st.tuples(st.just(0), st.just(0), st.integers(0, 17), st.integers(0, 20)), min_size=1, max_size=150))
def test_every_voxel_has_a_slot_and_repeats_only_beside_itself(cells: set[Cell]) -> None:
    coords = torch.tensor(sorted(cells))
    sets = window_sets(coords, (21, 18, 1), (6, 6, 1), (3, 3, 0), 9)
    for index, bias, first in zip(sets.index, sets.bias, sets.first, strict=True):
        voxels = torch.arange(len(coords))
        assert torch.equal(index.flatten()[first], voxels)
        new = torch.ones_like(index, dtype=torch.bool)
        new[:, 1:] = index[:, 1:] != index[:, :-1]
        assert torch.equal(index[new].sort().values, voxels)
        once = torch.bincount(index.flatten(), weights=bias.exp().flatten())
        torch.testing.assert_close(once, torch.ones_like(once), rtol=1e-6, atol=0)


def test_five_voxels_in_sets_of_three_by_hand() -> None:
    # two sets of three slots for five voxels: slot i holds voxel floor(5 i / 6)
    coords = torch.tensor([(0, 0, 0, x) for x in range(5)])
    sets = window_sets(coords, (8, 8, 1), (8, 8, 1), (0, 0, 0), 3)
    assert sets.index[0].tolist() == [[0, 0, 1], [2, 3, 4]]
    assert sets.bias[0].exp().tolist() == [[0.5, 0.5, 1], [1, 1, 1]]
    assert sets.first[0].tolist() == [0, 2, 3, 4, 5]
    assert sets.inside.tolist() == [[0, 0, x] for x in range(5)]


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_and_one_voxel(count: int) -> None:
    sets = window_sets(torch.zeros(count, 4, dtype=torch.int32), (8, 8, 1), (4, 4, 1), (2, 2, 0), 5)
    assert sets.index.tolist() == [[[0] * 5] * count] * 2
    assert sets.first.tolist() == [[0] * count] * 2
