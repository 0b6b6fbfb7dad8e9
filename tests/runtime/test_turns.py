import pytest

from perception.runtime.turns import SLIP_S, Turns

SECOND_NS = 1_000_000_000


def test_stamps_are_given_out_at_their_distance_from_the_first() -> None:
    turns = Turns(rate=2.0)
    assert turns.wait_s(5 * SECOND_NS, now_s=100.0) == 0.0
    assert turns.wait_s(7 * SECOND_NS, now_s=100.25) == pytest.approx(0.75)  # two seconds at double rate
    assert turns.wait_s(7 * SECOND_NS, now_s=101.2) == 0.0  # a little late: no slip, the next turn stays
    assert turns.wait_s(9 * SECOND_NS, now_s=101.2) == pytest.approx(0.8)
    assert turns.slipped_s == 0.0


def test_a_source_that_stalled_goes_on_at_its_pace_and_does_not_catch_up_in_a_burst() -> None:
    turns = Turns(rate=1.0)
    turns.wait_s(0, now_s=10.0)
    assert turns.wait_s(SECOND_NS // 10, now_s=18.0) == 0.0  # eight seconds went by
    assert turns.slipped_s == pytest.approx(7.9)
    assert turns.wait_s(2 * SECOND_NS // 10, now_s=18.0) == pytest.approx(0.1)
    assert turns.wait_s(3 * SECOND_NS // 10, now_s=18.2 + SLIP_S / 2) == 0.0
