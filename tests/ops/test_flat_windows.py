"""Flattened windows: by hand on small grids, and what must hold for every set of pillars."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.ops.flat_windows import ORDERS, flat_groups, flat_orders


def coords(cells: list[tuple[int, int, int]]) -> torch.Tensor:
    """Return (V, 4) of (batch, y, x) in the order of the network: batch, y, x."""
    rows = sorted(cells)
    return torch.tensor([(b, 0, y, x) for b, y, x in rows], dtype=torch.int32).reshape(-1, 4)


def test_a_snake_runs_through_two_windows_of_two_by_two() -> None:
    # pillars of a 4 x 2 grid, window 2 x 2: in the first window the columns go up and down, then the second window
    found = flat_orders(coords([(0, y, x) for y in range(2) for x in range(4)]), (4, 2), (2, 2), (1, 1))
    order_x = found[ORDERS.index("x")].tolist()
    visited = [(index % 4, index // 4) for index in order_x]  # x, y
    assert visited[:4] == [(0, 0), (0, 1), (1, 1), (1, 0)]
    assert set(visited[4:]) == {(2, 0), (2, 1), (3, 0), (3, 1)}


def test_the_last_group_of_a_sample_repeats_the_group_before() -> None:
    grouped = flat_groups(torch.tensor([5]), 3)
    assert grouped.padded.tolist() == [0, 1, 2, 3, 4, 2]  # slot 5 repeats slot 2
    assert grouped.first.tolist() == [0, 1, 2, 3, 4]


def test_a_sample_of_less_than_a_group_repeats_its_own_pillars() -> None:
    grouped = flat_groups(torch.tensor([4, 2]), 3)
    assert grouped.padded.tolist() == [0, 1, 2, 3, 1, 2, 4, 5, 4]
    assert grouped.first.tolist() == [0, 1, 2, 3, 6, 7]


def test_the_published_rule_for_a_small_sample_reads_the_sample_before() -> None:
    # with 200 and 100 pillars in groups of 144, the last slots of the second sample hold pillars 12 to 55 of the first
    grouped = flat_groups(torch.tensor([200, 100]), 144, beyond=True)
    assert grouped.padded[388:].tolist() == list(range(12, 56))
    assert grouped.padded[288:388].tolist() == list(range(200, 300))
    assert grouped.padded[:288].tolist() == [*range(200), *range(56, 144)]


def test_the_published_step_between_samples_mixes_them_on_a_small_grid() -> None:
    rows = coords([(b, y, x) for b in range(2) for y in range(32) for x in range(32)])
    safe, published = (flat_orders(rows, (32, 32), (13, 13), (6, 6), step) for step in (None, 10 * 32 * 32))
    assert (rows[safe[0], 0].diff() >= 0).all()
    assert (rows[published[0], 0].diff() < 0).any()


def test_where_the_published_step_is_large_enough_the_order_is_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    cells = torch.unique(torch.randint(0, 120, (3000, 2), generator=generator), dim=0)
    rows = torch.cat([torch.cat((torch.tensor([[b, 0]]).expand(len(cells), 2), cells), dim=1) for b in range(2)])
    own, published = (flat_orders(rows, (120, 120), (13, 13), (6, 6), step) for step in (None, 10 * 120 * 120))
    assert (own == published).all()


def published_key(x: int, y: int, grid: int, window: int, shift: int) -> int:
    """Return key_x of the published code, letter by letter; key_y is the same with x and y exchanged."""
    n1 = 2 * (math.ceil(grid / window) + 1)
    n2 = m2 = 2 * window
    (x1, x2), (y1, y2) = divmod(x + shift, window), divmod(y + shift, window)

    def sign(number: int) -> int:
        return -1 if number % 2 else 1

    return (n1 * y1 + sign(y1) * x1) * n2 * m2 + sign(y1) * (m2 * x2 + sign(x2) * y2)


@settings(max_examples=20, deadline=None)
@given(st.sets(st.tuples(st.just(0), st.integers(0, 59), st.integers(0, 99)), min_size=1, max_size=200))
def test_orders_are_those_of_the_published_keys(cells: set[tuple[int, int, int]]) -> None:
    rows = coords(sorted(cells))
    places = [(x, y) for _, _, y, x in rows.tolist()]
    keys = (
        [published_key(x, y, side, 13, shift) for x, y in (places if axis == "x" else [p[::-1] for p in places])]
        for axis, side, shift in (("x", 100, 0), ("x", 100, 6), ("y", 60, 0), ("y", 60, 6))
    )
    found = flat_orders(rows, (100, 60), (13, 13), (6, 6)).tolist()
    assert found == [sorted(range(len(rows)), key=key.__getitem__) for key in keys]


@settings(max_examples=40, deadline=None)
@given(
    cells=st.sets(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 40)), min_size=1, max_size=120),
    group=st.integers(1, 20),
)
def test_every_order_visits_every_pillar_once_and_samples_do_not_mix(
    cells: set[tuple[int, int, int]], group: int
) -> None:
    rows = coords(sorted(cells))
    orders = flat_orders(rows, (41, 31), (5, 7), (2, 3))
    grouped = flat_groups(torch.bincount(rows[:, 0].long()), group)
    batch = rows[:, 0].numpy()
    for order in orders.numpy():
        assert sorted(order) == list(range(len(rows)))
        assert (np.diff(batch[order]) >= 0).all()
        slots = batch[order[grouped.padded.numpy()]].reshape(-1, group)
        assert (slots == slots[:, :1]).all()  # a group is of one sample
    assert (grouped.padded[grouped.first] == torch.arange(len(rows))).all()


def test_nothing_gives_nothing() -> None:
    empty = torch.zeros(0, 4, dtype=torch.int32)
    assert flat_orders(empty, (4, 4), (2, 2), (1, 1)).shape == (4, 0)
    assert len(flat_groups(torch.bincount(empty[:, 0].long()), 3).padded) == 0
