"""Tuples of different lengths out of one row of their items."""

from __future__ import annotations

from itertools import accumulate, chain

from hypothesis import given
from hypothesis import strategies as st

from perception.messages.grouping import grouped

ANY = st.lists(st.lists(st.integers()).map(tuple))
OF_ONE_LENGTH = st.integers(0, 3).flatmap(lambda n: st.lists(st.tuples(*[st.integers()] * n)))


@given(ANY | OF_ONE_LENGTH)
def test_items_come_back_in_the_tuples_that_they_were_in(tuples: list[tuple[int, ...]]) -> None:
    assert grouped(chain.from_iterable(tuples), [*accumulate(map(len, tuples))]) == tuples
