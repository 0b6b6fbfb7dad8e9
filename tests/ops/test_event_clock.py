"""The clock of an event camera: hand-worked conversions, and estimates that find seeded offsets and drifts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.errors import ShapeError
from perception.ops.event_clock import ClockEstimator, ClockModel, fitted

S, US = 1_000_000_000, 1000
EPOCH = 1_700_000_000 * S


def test_host_time_is_camera_time_plus_offset_and_drift() -> None:
    clock = ClockModel(offset_ns=EPOCH, drift_ppm=10.0, at_ns=5 * S)
    assert clock.one_to_host(5 * S) == EPOCH + 5 * S
    assert clock.one_to_host(7 * S) == EPOCH + 7 * S + 20 * US  # two seconds at 10 ppm
    assert "drift +10.000 ppm, as given" in clock.line("ec")


def times(drift_ppm: float, count: int = 60, seed: int = 0, noise_us: float = 2.0) -> tuple[list[int], list[int]]:
    """Return edges in camera time, irregular like a camera's exposures, and their host times."""
    random = np.random.default_rng(seed)
    camera = np.cumsum(random.integers(80, 120, count)) * (S // 1000) + 3 * S
    noise = np.rint(random.normal(0, noise_us * US, count)).astype(np.int64)
    host = EPOCH + camera + np.rint((camera - camera[0]) * drift_ppm * 1e-6).astype(np.int64) + noise
    return camera.tolist(), host.tolist()


def check(estimator: ClockEstimator, camera: list[int], host: list[int], within_us: float) -> None:
    assert estimator.clock is not None
    assert abs(estimator.clock.one_to_host(camera[-1]) - host[-1]) < within_us * US


@settings(max_examples=25, deadline=None)
@given(drift=st.floats(-100, 100), seed=st.integers(0, 100))
def test_a_seeded_offset_and_drift_are_found(drift: float, seed: int) -> None:
    camera, host = times(drift, seed=seed)
    estimator = ClockEstimator()
    for edge, reference in zip(camera, host, strict=True):
        estimator.edge(edge)
        estimator.reference(reference)
    check(estimator, camera, host, within_us=10)
    assert estimator.clock is not None
    assert estimator.clock.drift_ppm == pytest.approx(drift, abs=2.0)
    assert 0.5 * US < estimator.clock.residual_ns < 5 * US


@pytest.mark.parametrize(("lost_edges", "lost_references"), [(2, 0), (0, 2), (1, 0)])
def test_pulses_that_one_side_missed_at_the_beginning_do_not_shift_the_clock(
    lost_edges: int, lost_references: int
) -> None:
    camera, host = times(20.0)
    estimator = ClockEstimator()
    for edge in camera[lost_edges:12]:
        estimator.edge(edge)
    for reference in host[lost_references:12]:
        estimator.reference(reference)
    for edge, reference in zip(camera[12:], host[12:], strict=True):
        estimator.edge(edge)
        estimator.reference(reference)
    check(estimator, camera, host, within_us=10)


def test_edges_and_references_that_go_missing_later_are_passed_over_and_counted() -> None:
    camera, host = times(20.0)
    estimator = ClockEstimator()
    for place, (edge, reference) in enumerate(zip(camera, host, strict=True)):
        if place % 7 != 3 or place < 10:
            estimator.edge(edge)
        if place % 5 != 2 or place < 10:
            estimator.reference(reference)
    check(estimator, camera, host, within_us=10)
    assert estimator.unmatched > 0


def test_a_pair_far_from_the_others_does_not_move_the_estimate() -> None:
    camera, host = times(0.0, noise_us=1.0)
    host[20] += 5_000 * US
    clock = fitted(np.array(camera), np.array(host))
    assert clock.pairs == len(camera) - 1
    assert abs(clock.one_to_host(camera[-1]) - host[-1]) < 10 * US


def test_a_pulse_per_second_corrects_an_offset_that_is_right_to_half_a_second() -> None:
    estimator = ClockEstimator(ClockModel(EPOCH - 400_000_000), period_ns=S)
    for second in range(20):
        estimator.edge(second * S + 250_000_000 - second * 30 * US)  # the camera's clock is 30 ppm slow
    assert estimator.clock is not None
    assert abs(estimator.clock.one_to_host(19 * S + 250_000_000 - 19 * 30 * US) - (EPOCH + 19 * S)) < 5 * US
    assert estimator.clock.drift_ppm == pytest.approx(30, abs=1)


def test_over_less_than_two_seconds_a_drift_is_not_told_from_noise() -> None:
    camera, host = times(0.0, count=10)
    clock = fitted(np.array(camera), np.array(host), drift_ppm=7.0)
    assert clock.drift_ppm == 7.0


def test_a_pulse_per_second_without_an_offset_and_pairs_that_are_none_are_refused() -> None:
    with pytest.raises(ShapeError, match="right to half of it"):
        ClockEstimator(period_ns=S)
    with pytest.raises(ShapeError, match="expected pairs"):
        fitted(np.array([1]), np.array([1, 2]))
