"""Representations of events: hand-worked pixels, and streaming forms equal to the references for any packets."""

from __future__ import annotations

from itertools import pairwise
from math import exp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from perception.errors import ShapeError
from perception.ops.event_frames import (
    BACKGROUND,
    BRIGHTER,
    DARKER,
    EventHistogram,
    EventImage,
    TimeSurface,
    VoxelGrid,
    event_histogram,
    event_image,
    time_surface,
    voxel_grid,
    window_images,
)
from perception.ops.events import Events

HEIGHT, WIDTH = 3, 4


def event_lists(most: int = 60) -> st.SearchStrategy[Events]:
    def sorted_events(count: int) -> st.SearchStrategy[Events]:
        return st.builds(
            lambda t, x, y, p: Events.of(np.sort(t), x, y, p),
            arrays.arrays(np.int64, count, elements=st.integers(0, 1000)),
            arrays.arrays(np.uint16, count, elements=st.integers(0, WIDTH - 1)),
            arrays.arrays(np.uint16, count, elements=st.integers(0, HEIGHT - 1)),
            arrays.arrays(np.uint8, count, elements=st.integers(0, 1)),
        )

    return st.integers(0, most).flatmap(sorted_events)


def cut(events: Events, places: list[int]) -> list[Events]:
    borders = sorted({0, len(events), *(place % (len(events) + 1) for place in places)})
    return [events[begin:end] for begin, end in pairwise(borders)]


CUTS = st.lists(st.integers(0, 1000), max_size=6)


def test_brighter_is_red_darker_is_blue_and_wins_on_white() -> None:
    # Pixel (0, 0): brighter. Pixel (1, 0): darker, then brighter: darker wins.
    image = event_image(Events.of([1, 2, 3], [0, 1, 1], [0, 0, 0], [1, 0, 1]), HEIGHT, WIDTH)
    assert tuple(image[0, 0]) == BRIGHTER == (220, 30, 30)
    assert tuple(image[0, 1]) == DARKER == (30, 30, 200)
    assert (image.reshape(-1, 3)[2:] == BACKGROUND).all()


def test_a_window_takes_its_begin_and_not_its_end() -> None:
    events = Events.of([10, 20, 20, 30], [0, 1, 2, 3], [0, 0, 0, 0], [1, 1, 1, 1])
    first, second, empty = window_images(events, [(10, 20), (20, 31), (40, 50)], HEIGHT, WIDTH)
    assert [tuple(pixel) == BRIGHTER for pixel in first[0]] == [True, False, False, False]
    assert [tuple(pixel) == BRIGHTER for pixel in second[0]] == [False, True, True, True]
    assert (empty == 255).all()


def test_windows_refuse_times_that_fall() -> None:
    with pytest.raises(ShapeError, match="times fall"):
        list(window_images(Events.of([2, 1], [0, 0], [0, 0], [1, 1]), [(0, 3)], HEIGHT, WIDTH))


def test_the_histogram_counts_polarities_apart() -> None:
    counts = event_histogram(Events.of([1, 2, 3], [3, 3, 3], [2, 2, 2], [1, 0, 1]), HEIGHT, WIDTH)
    assert counts[:, 2, 3].tolist() == [1, 2]
    assert counts.sum() == 3


def test_an_event_a_quarter_between_two_bins_is_shared_three_to_one() -> None:
    # Three bins at 0, 100 and 200: t = 125 lies at place 1.25. The last instant belongs to the last bin.
    events = Events.of([125, 200, 201], [0, 1, 2], [0, 0, 0], [0, 1, 1])
    grid = voxel_grid(events, (0, 200), 3, HEIGHT, WIDTH)
    assert grid[:, 0, 0].tolist() == [0.0, -0.75, -0.25]
    assert grid[:, 0, 1].tolist() == [0.0, 0.0, 1.0]
    assert not grid[:, 0, 2].any()


def test_the_surface_decays_from_the_last_event() -> None:
    events = Events.of([0, 60, 200], [0, 0, 0], [0, 0, 0], [1, 1, 1])
    surface = time_surface(events, 100, 20.0, HEIGHT, WIDTH)
    assert surface[1, 0, 0] == pytest.approx(exp(-2))
    assert surface.sum() == surface[1, 0, 0]


@settings(max_examples=50, deadline=None)
@given(events=event_lists(), cuts=CUTS)
def test_streaming_forms_do_not_feel_where_packets_are_cut(events: Events, cuts: list[int]) -> None:
    image, histogram = EventImage(HEIGHT, WIDTH), EventHistogram(HEIGHT, WIDTH)
    voxels, surface = VoxelGrid((100, 900), 5, HEIGHT, WIDTH), TimeSurface(300.0, HEIGHT, WIDTH)
    for packet in cut(events, cuts):
        for form in (image, histogram, voxels, surface):
            form.add(packet)
    np.testing.assert_array_equal(image.image(), event_image(events, HEIGHT, WIDTH))
    np.testing.assert_array_equal(histogram.counts(), event_histogram(events, HEIGHT, WIDTH))
    np.testing.assert_array_equal(voxels.grid(), voxel_grid(events, (100, 900), 5, HEIGHT, WIDTH))
    np.testing.assert_array_equal(surface.surface(1000), time_surface(events, 1000, 300.0, HEIGHT, WIDTH))


@settings(max_examples=30, deadline=None)
@given(events=event_lists())
def test_a_voxel_grid_holds_every_sign_of_its_span(events: Events) -> None:
    grid = voxel_grid(events, (0, 1000), 4, HEIGHT, WIDTH)
    assert grid.sum() == pytest.approx(2.0 * (events.polarity > 0).sum() - len(events), abs=1e-9)


def test_a_cleared_picture_begins_anew() -> None:
    image, histogram = EventImage(HEIGHT, WIDTH), EventHistogram(HEIGHT, WIDTH)
    packet = Events.of([1], [0], [0], [1])
    image.add(packet)
    histogram.add(packet)
    image.clear()
    histogram.clear()
    assert (image.image() == 255).all()
    assert not histogram.counts().any()


def test_a_packet_with_an_event_outside_the_sensor_is_refused_whole() -> None:
    packet = Events.of([1, 2], [0, WIDTH], [0, 0], [1, 1])
    forms = (
        EventImage(HEIGHT, WIDTH),
        EventHistogram(HEIGHT, WIDTH),
        VoxelGrid((0, 9), 2, HEIGHT, WIDTH),
        TimeSurface(1.0, HEIGHT, WIDTH),
    )
    for form in forms:
        with pytest.raises(ShapeError, match="4 columns"):
            form.add(packet)
    assert (forms[0].image() == 255).all()


def test_a_surface_of_the_past_is_refused() -> None:
    surface = TimeSurface(1.0, HEIGHT, WIDTH)
    surface.add(Events.of([10], [0], [0], [1]))
    with pytest.raises(ShapeError, match="after an event of 10 ns"):
        surface.surface(9)


@pytest.mark.parametrize(("span", "bins"), [((0, 0), 3), ((5, 1), 3), ((0, 9), 1)])
def test_a_voxel_grid_needs_a_span_and_two_bins(span: tuple[int, int], bins: int) -> None:
    with pytest.raises(ShapeError, match="voxel grid"):
        voxel_grid(Events.none(), span, bins, HEIGHT, WIDTH)


def test_arrays_of_different_length_are_no_events() -> None:
    with pytest.raises(ShapeError, match=r"\[1, 2, 1, 1\]"):
        Events.of([1], [1, 2], [0], [1])


def test_a_negative_column_is_refused_instead_of_wrapped() -> None:
    with pytest.raises(ShapeError, match="event x from -1"):
        Events.of([1], [-1], [0], [1])
