"""What points pull for, and how sure that makes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from perception.calibrate.bump.camera_texture import UNKNOWNS, _told
from perception.calibrate.bump.pulls import told_by_pulls

ASKED = np.ones(2)


def pulls_of_things(things: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(seed).normal(0, 1.0, (things, 2)), np.arange(things)


def test_one_thing_seen_often_is_no_surer_than_seen_once() -> None:
    pulls, thing = pulls_of_things(400)
    once, goal = told_by_pulls(400 * np.eye(2), pulls, thing, np.zeros(2), ASKED)
    often, goals = told_by_pulls(
        4000 * np.eye(2), np.repeat(pulls, 10, axis=0), np.repeat(thing, 10), np.zeros(2), ASKED
    )
    np.testing.assert_allclose(often, once, rtol=1e-9)
    np.testing.assert_allclose(goals, goal, rtol=1e-9)


def test_what_is_told_is_the_curvature_over_how_much_things_disagree() -> None:
    pulls, thing = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0]]), np.arange(4)
    known, goal = told_by_pulls(6.0 * np.eye(2), pulls, thing, np.array([0.5, 0.0]), ASKED)
    # by hand: things disagree by 18, and as much again on the whole: 6 * 6 / 36; the goal is known times `at`
    np.testing.assert_allclose(known, np.eye(2), rtol=1e-6)
    np.testing.assert_allclose(goal, [0.5, 0.0], rtol=1e-6)


def test_a_direction_in_which_the_pull_rises_tells_nothing() -> None:
    pulls, thing = pulls_of_things(50)
    fallen, _ = told_by_pulls(np.diag([50.0, 50.0]), pulls, thing, np.zeros(2), ASKED)
    risen, _ = told_by_pulls(np.diag([50.0, -50.0]), pulls, thing, np.zeros(2), ASKED)
    assert fallen[1, 1] > 1.0
    assert abs(risen[1, 1]) < 1e-12


def test_a_direction_without_curvature_takes_nothing_from_the_others() -> None:
    """As above along the first axis; along the second things pull ten times as hard, for nothing."""
    pulls, thing = np.array([[3.0, 30.0], [-3.0, 30.0], [3.0, -30.0], [-3.0, -30.0]]), np.arange(4)
    known, goal = told_by_pulls(np.diag([6.0, 0.0]), pulls, thing, np.array([0.5, 0.0]), ASKED)
    # by hand: things disagree by 36, which is 6 times the curvature: 6 * 6 / (36 + 36); the goal is that times 0.5
    np.testing.assert_allclose(known, np.diag([0.5, 0.0]), atol=1e-9)
    np.testing.assert_allclose(goal, [0.25, 0.0], atol=1e-9)


def test_each_direction_counts_by_its_own_disagreement_and_by_the_usual_one() -> None:
    """Unknowns in other units and the axes of the curvature aslant: it is the same."""
    turn, asked = np.array([[0.6, -0.8], [0.8, 0.6]]), np.array([0.1, 2.0])
    along = np.array([[30.0, 0.0], [-30.0, 0.0], [0.0, 30.0], [0.0, -30.0]])
    curvature = turn @ np.diag([900.0, 300.0]) @ turn.T / np.outer(asked, asked)
    known, _ = told_by_pulls(curvature, along @ turn.T / asked, np.arange(4), np.zeros(2), asked)
    # by hand: things disagree by 1800, 2 and 6 times the curvatures, 4 times usually
    expected = np.diag([900.0**2 / (1800 + 4 * 900), 300.0**2 / (1800 + 4 * 300)])
    np.testing.assert_allclose(turn.T @ (known * np.outer(asked, asked)) @ turn, expected, rtol=1e-4, atol=1e-3)


def test_of_what_one_thing_alone_tells_things_are_taken_to_disagree_as_usual() -> None:
    pulls, thing = np.array([[30.0, 0.0], [-30.0, 0.0], [0.0, 0.0]]), np.arange(3)
    known, _ = told_by_pulls(np.diag([900.0, 900.0]), pulls, thing, np.zeros(2), ASKED)
    # by hand: things disagree by 1800 and by nothing, 2 and 0 times the curvature, once usually: 900 * 900 / 900
    assert known[1, 1] == pytest.approx(900.0, rel=1e-4)


@pytest.mark.parametrize("rolled_deg", [3.0, -2.0])
def test_a_roll_that_comes_with_a_displacement_that_is_not_to_be_expected_is_none(rolled_deg: float) -> None:
    """A camera beside the vehicle that is rolled by a degree and lifted by 8 cm sees nearly the same."""
    at = np.zeros(UNKNOWNS)
    at[0], at[5] = np.radians(rolled_deg), 0.08 * rolled_deg
    across = np.zeros(UNKNOWNS)
    across[0], across[5] = 1 / np.radians(1.0), -1 / 0.08
    curvature = 1e5 * np.outer(across, across)
    pulls = 30.0 * np.random.default_rng(1).normal(0, 1.0, (200, 1)) * across
    fit: Any = SimpleNamespace(
        curvature=lambda: curvature, pulls=lambda at: pulls - pulls.mean(axis=0),
        pairs=SimpleNamespace(thing=np.arange(200), first=np.arange(200)),
    )  # fmt: skip
    told = _told(fit, at)
    assert abs(told.moved[0]) < 0.5 * np.radians(abs(rolled_deg))
    assert abs(told.moved[0]) < 3 * told.deviation[0]
