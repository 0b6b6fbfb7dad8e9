"""Words by hand: what each bit means, times over wraps, time words that nothing confirms, and edges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.logs.events.address_words import Dat, Dat1, DatTriggers, Davis, Dvs128, Dvs128Short, Nmnist
from perception.logs.events.decoder import BACKWARDS, CONTRADICTED, Decoded, Decoder, Triggers
from perception.logs.events.event_stream import AFTER_FAULT, AtisStream, EventStream
from perception.logs.events.prophesee_words import Evt2, Evt3, Evt21, Evt21Legacy
from perception.logs.events.time_order import TimeOrder
from perception.ops.events import Events

Row = tuple[int, int, int, int]


def decoded(decoder: Decoder, data: bytes, pieces: int = 1) -> Decoded:
    """Feed data in so many pieces, and finish."""
    size = max(1, -(-len(data) // pieces))
    parts = [decoder.feed(data[begin : begin + size]) for begin in range(0, len(data), size)]
    parts.append(decoder.finish())
    return Decoded(Events.joined(part.events for part in parts), Triggers.joined(part.triggers for part in parts))


def rows(found: Decoded) -> list[Row]:
    """Return (microseconds, x, y, polarity) of all events."""
    events = found.events
    columns = (events.t_ns // 1000, events.x, events.y, events.polarity)
    return [(int(t), int(x), int(y), int(p)) for t, x, y, p in zip(*columns, strict=True)]


def words(kind: str, values: Sequence[int]) -> bytes:
    return np.array(values, kind).tobytes()


def evt2_time(high: int) -> int:
    return 0x8 << 28 | high


def evt2_event(low: int, x: int = 7, y: int = 9, on: int = 1) -> int:
    return on << 28 | low << 22 | x << 11 | y


def test_evt3_vectors_go_on_from_their_base_with_its_polarity() -> None:
    data = words("<u2", [0x8001, 0x6002, 0x0005, 0x3000 | 1 << 11 | 100, 0x4801, 0x5081, 0x2000 | 3])
    assert rows(decoded(Evt3(720, 1280), data)) == [
        (4098, 100, 5, 1), (4098, 111, 5, 1), (4098, 112, 5, 1), (4098, 119, 5, 1), (4098, 3, 5, 0),
    ]  # fmt: skip


def test_evt21_has_a_column_for_each_bit_and_the_legacy_form_swaps_halves() -> None:
    time, event = evt2_time(2) << 32, (1 << 28 | 5 << 22 | 64 << 11 | 9) << 32 | 0x80000001
    normal = decoded(Evt21(480, 640), words("<u8", [time, event]))
    swapped = [(word >> 32) | (word & 0xFFFFFFFF) << 32 for word in (time, event)]
    assert rows(normal) == [(133, 64, 9, 1), (133, 95, 9, 1)]
    assert rows(decoded(Evt21Legacy(480, 640), words("<u8", swapped))) == rows(normal)


def test_evt2_edges_have_channel_and_direction() -> None:
    data = words("<u4", [evt2_time(1), 0xA << 28 | 3 << 22 | 1 << 8 | 1, 0xA << 28 | 9 << 22 | 1 << 8])
    triggers = decoded(Evt2(480, 640), data).triggers
    assert triggers.t_ns.tolist() == [67_000, 73_000]
    assert triggers.channel.tolist() == [1, 1]
    assert triggers.rising.tolist() == [True, False]


@pytest.mark.parametrize("wraps", [1, 3])
def test_evt3_times_go_on_over_wraps_of_24_bits(wraps: int) -> None:
    data = [0x0005]
    for _ in range(wraps):
        for high in range(0, 1 << 12, 64):
            data += [0x8000 | high, 0x6000, 0x2003]
    found = np.array([row[0] for row in rows(decoded(Evt3(720, 1280), words("<u2", data), pieces=7))])
    np.testing.assert_array_equal(found, np.arange(64 * wraps) * (64 << 12))


def test_a_gap_over_the_wrap_is_the_shorter_way_around() -> None:
    first, second = 0xFFF, 0x100  # 257 time words later, none of them received
    data = words("<u2", [0x0005, 0x8000 | first, 0x2003, 0x8000 | second, 0x2004, 0x8000 | second + 1])
    assert [row[0] for row in rows(decoded(Evt3(720, 1280), data))] == [first << 12, (1 << 24) + (second << 12)]


def test_a_late_time_word_after_the_wrap_is_not_a_second_wrap() -> None:
    highs = [0xFFE, 0xFFF, 0x000, 0xFFF, 0x000, 0x001]
    data = [0x0005] + [word for high in highs for word in (0x8000 | high, 0x6000 | 5, 0x2003)]
    decoder = Evt3(720, 1280)
    times = [row[0] for row in rows(decoded(decoder, words("<u2", data)))]
    assert times == [(0xFFE << 12) + 5, (0xFFF << 12) + 5, (1 << 24) + 5, (1 << 24) + 5, (1 << 24) + 4101]
    assert dict(decoder.skipped) == {CONTRADICTED: 1}


def test_evt2_times_go_on_after_the_wrap_of_34_bits() -> None:
    data = words("<u4", [evt2_time((1 << 28) - 1), evt2_event(63), evt2_time(0), evt2_event(63)])
    assert [row[0] for row in rows(decoded(Evt2(480, 640), data))] == [(1 << 34) - 1, (1 << 34) + 63]


@pytest.mark.parametrize("wrong", [500, 90, 3, (1 << 28) - 1])
def test_events_under_a_time_word_that_the_next_one_contradicts_are_skipped_and_no_others(wrong: int) -> None:
    data = [w for high in (100, 101, wrong, 103, 104) for w in (evt2_time(high), evt2_event(1))]
    decoder = Evt2(480, 640)
    times = [row[0] for row in rows(decoded(decoder, words("<u4", data)))]
    assert times == [high * 64 + 1 for high in (100, 101, 103, 104)]
    assert dict(decoder.skipped) == {CONTRADICTED: 1}


def test_a_wrong_first_time_word_costs_only_its_own_events() -> None:
    data = [w for high in (1 << 20, 101, 102) for w in (evt2_time(high), evt2_event(1))]
    assert [row[0] for row in rows(decoded(Evt2(480, 640), words("<u4", data)))] == [101 * 64 + 1, 102 * 64 + 1]


def test_a_long_silence_is_believed() -> None:
    data = [w for high in (100, 1 << 20, 1 << 26) for w in (evt2_time(high), evt2_event(1))]
    assert len(rows(decoded(Evt2(480, 640), words("<u4", data)))) == 3


def test_dat_in_both_versions() -> None:
    new = decoded(Dat(480, 640), words("<u4", [5, 1 << 28 | 300 << 14 | 500, 6, 2 << 14 | 1]))
    assert rows(new) == [(5, 500, 300, 1), (6, 1, 2, 0)]
    old = decoded(Dat1(240, 304), words("<u4", [5, 1 << 17 | 200 << 9 | 300]))
    assert rows(old) == [(5, 300, 200, 1)]


def test_dat_goes_on_after_71_minutes_and_survives_one_wrong_time() -> None:
    times = [0xFFFFFFFE, 0xFFFFFFFF, 2, 3, 0x70000003, 4, 5]
    decoder = Dat(480, 640)
    found = rows(decoded(decoder, words("<u4", [word for t in times for word in (t, 0)]), pieces=3))
    assert [row[0] for row in found] == [0xFFFFFFFE, 0xFFFFFFFF, *((1 << 32) + t for t in (2, 3, 4, 5))]
    assert dict(decoder.skipped) == {CONTRADICTED: 1}


def test_dat_triggers() -> None:
    triggers = decoded(DatTriggers(480, 640), words("<u4", [7, 3 << 26 | 1, 9, 3 << 26])).triggers
    assert triggers.t_ns.tolist() == [7000, 9000]
    assert triggers.channel.tolist() == [3, 3]
    assert triggers.rising.tolist() == [True, False]


def test_davis_addresses_with_other_words_between() -> None:
    event, frame, edge = 9 << 22 | 30 << 12 | 1 << 11, 1 << 31, 1 << 10
    decoder = Davis(180, 240)
    found = decoded(decoder, words(">u4", [event, 10, frame, 4, edge, 4, event, 12]), pieces=2)
    assert rows(found) == [(10, 30, 9, 1), (12, 30, 9, 1)]
    assert sum(decoder.other_words.values()) == 2
    assert not decoder.skipped


def test_dvs128_is_brighter_where_its_bit_is_not_set() -> None:
    assert rows(decoded(Dvs128(128, 128), words(">u4", [20 << 8 | 10 << 1, 5, 20 << 8 | 10 << 1 | 1, 6]))) == [
        (5, 10, 20, 1), (6, 10, 20, 0),
    ]  # fmt: skip
    short = np.array([(20 << 8 | 10 << 1, 5)], np.dtype([("a", ">u2"), ("t", ">u4")])).tobytes()
    assert rows(decoded(Dvs128Short(128, 128), short)) == [(5, 10, 20, 1)]


def test_nmnist_times_go_on_after_23_bits_and_after_overflow_events() -> None:
    data = bytes([1, 2, 0xFF, 0xFF, 0xFF, 3, 4, 0, 0, 1])
    assert rows(decoded(Nmnist(34, 34), data)) == [((1 << 23) - 1, 1, 2, 1), ((1 << 23) + 1, 3, 4, 0)]
    overflown = bytes([1, 2, 0, 31, 0, 0, 240, 0, 0, 0, 1, 2, 0, 0, 1])
    assert [row[0] for row in rows(decoded(Nmnist(34, 34), overflown))] == [31 << 8, (1 << 13) + 1]


def test_event_stream_adds_differences_and_long_silences() -> None:
    data = bytes([0xFF, 0xFF, 3 << 1 | 1, 10, 0, 20, 0, 0xFE, 0 << 1, 1, 1, 2, 0])
    assert rows(decoded(EventStream(480, 640), data, pieces=5)) == [(257, 10, 20, 1), (257, 257, 2, 0)]


def test_an_event_stream_ends_at_an_event_outside_the_sensor() -> None:
    decoder = EventStream(240, 320)
    good, bad = bytes([2, 10, 0, 20, 0]), bytes([2, 0xFF, 0xFF, 20, 0])
    assert rows(decoded(decoder, good + bad + good + good)) == [(1, 10, 20, 0)]
    assert dict(decoder.skipped) == {AFTER_FAULT: 15}


def test_atis_streams_give_changes_and_count_exposures() -> None:
    decoder = AtisStream(240, 304)
    data = bytes([0xFD, 5 << 2 | 2, 10, 0, 20, 0, 1 << 2 | 1, 10, 0, 20, 0])
    assert rows(decoded(decoder, data)) == [(68, 10, 20, 1)]
    assert sum(decoder.other_words.values()) == 1


def test_a_time_far_too_late_costs_one_event_also_where_whole_times_are_given() -> None:
    order = TimeOrder()
    times = [1, 2, 1 << 50, 3, 4, 4, 2, 5]
    parts = [order.feed(Events.of([t], [0], [0], [1])).t_ns.tolist() for t in times]
    assert sum([*parts, order.finish().t_ns.tolist()], []) == [1, 2, 3, 4, 4, 5]  # noqa: RUF017
    assert dict(order.skipped) == {CONTRADICTED: 1, BACKWARDS: 1}


EVENTS_AT_TIMES = st.lists(st.tuples(st.integers(0, 600), st.integers(0, 639), st.integers(0, 479)), max_size=60)


def encoded_evt2(steps: list[tuple[int, int, int]]) -> tuple[bytes, list[Row]]:
    """Write events at times that rise by given steps, with a time word every 64 us as a camera does."""
    t, high, out, expected = 1000, -1, [], []
    for step, x, y in steps:
        t += step
        while high < t >> 6:
            high = t >> 6 if high < 0 else high + 1
            out.append(evt2_time(high))
        out.append(evt2_event(t & 63, x, y, t & 1))
        expected.append((t, x, y, t & 1))
    out.append(evt2_time(high + 1))
    return words("<u4", out), expected


@settings(max_examples=60, deadline=None)
@given(steps=EVENTS_AT_TIMES, pieces=st.integers(1, 9))
def test_what_was_encoded_comes_out_in_any_pieces(steps: list[tuple[int, int, int]], pieces: int) -> None:
    data, expected = encoded_evt2(steps)
    assert rows(decoded(Evt2(480, 640), data, pieces)) == expected


@settings(max_examples=80, deadline=None)
@given(steps=EVENTS_AT_TIMES.filter(lambda steps: len(steps) > 3), data=st.data())
def test_one_flipped_bit_never_gives_another_event_a_wrong_time(
    steps: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    """Only the low bits of a time word can lie unseen: its neighbours are as near."""
    raw, expected = encoded_evt2(steps)
    place = data.draw(st.integers(0, len(raw) // 4 - 1))
    word = int(np.frombuffer(raw, "<u4")[place])
    bit = data.draw(st.integers(5, 27) if word >> 28 == 8 else st.integers(0, 21))
    spoilt = np.frombuffer(raw, "<u4").copy()
    spoilt[place] ^= np.uint32(1 << bit)
    decoder = Evt2(480, 640)
    found = rows(decoded(decoder, spoilt.tobytes()))
    wrong = [row for row in found if row not in expected]
    assert len(wrong) <= 1  # the event whose own address was flipped
    assert all(row[0] in {t for t, *_ in expected} for row in wrong)
    assert len(found) + sum(decoder.skipped.values()) == len(expected)
