"""The clock node: no event is stamped before the clock is known, and what is known stands in the status."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from perception.errors import SensorError, UserError
from perception.messages import EventPacket, Header, Image, Message, Trigger, host
from perception.nodes.event_clock import EventClock, EventClockConfig
from perception.runtime.node import NodeSetup

MS = 1_000_000
EPOCH = 1_700_000_000_000 * MS


def node(inputs: Iterable[str] = (), *, lockstep: bool = False, **settings: Any) -> EventClock:
    wired = {name: (name,) for name in ("events", *inputs)}
    setup = NodeSetup(name="clock", rig=None, inputs=wired, search_folders=(), lockstep=lockstep)
    return EventClock.create(EventClockConfig(**settings), setup)


def packet(*t_ms: int) -> EventPacket:
    ones = np.ones(len(t_ms))
    return EventPacket(
        header=Header(frame_id="ec_optical", t_sensor_ns=t_ms[-1] * MS, clock="ec"), height_px=4, width_px=4,
        t_ns=np.array(t_ms, np.int64) * MS, x=ones.astype(np.uint16), y=ones.astype(np.uint16),
        polarity=ones.astype(np.uint8), events_before=17,
    )  # fmt: skip


def edge(t_ns: int, rising: bool = True) -> Trigger:
    return Trigger(header=Header(frame_id="ec_optical", t_sensor_ns=t_ns, clock="ec"), channel=0, rising=rising)


def picture(t_ns: int) -> Image:
    header = Header(frame_id="cam_optical", t_sensor_ns=t_ns)
    return Image(header=header, encoding="mono8", height_px=1, width_px=1, data=np.zeros((1, 1), np.uint8))


def only(outputs: tuple[tuple[str, Message], ...]) -> Any:
    ((_, message),) = outputs
    return message


def test_a_given_offset_and_drift_are_applied_and_shown() -> None:
    clock = node(offset_ns=EPOCH, drift_ppm=100.0)
    found = only(clock.on_events(packet(0, 1000)))
    assert host(found.t_ns).tolist() == [EPOCH, EPOCH + 1000 * MS + 100_000]
    assert (found.header.clock, found.header.t_sensor_ns, found.events_before) == (
        "host",
        EPOCH + 1000 * MS + 100_000,
        17,
    )
    assert clock.notes == (f"clock ec: offset {EPOCH} ns, drift +100.000 ppm, as given",)
    assert clock.bound_shift_ns == EPOCH - MS


def test_the_offset_is_estimated_from_the_exposures_of_a_wired_camera() -> None:
    clock = node(("triggers", "reference"))
    with pytest.raises(SensorError, match="not known yet"):
        clock.on_events(packet(1))
    assert clock.degraded
    exposures = np.cumsum([0, 103, 95, 110, 99, 101, 97, 104]) * MS
    for t_ns in exposures[:4].tolist():  # four pairs could agree by chance
        clock.on_reference(picture(EPOCH + t_ns))
        with pytest.raises(SensorError, match="no edge met"):
            clock.on_triggers(edge(t_ns))
    for t_ns in exposures[4:].tolist():
        clock.on_reference(picture(EPOCH + t_ns))
        assert only(clock.on_triggers(edge(t_ns))).header.t_sensor_ns == pytest.approx(EPOCH + t_ns, abs=1000)
    found = only(clock.on_events(packet(900)))
    assert host(found.t_ns)[0] == pytest.approx(EPOCH + 900 * MS, abs=1000)
    assert "trigger edges" in clock.notes[0]
    assert clock.degraded == ()


def test_a_pulse_per_second_works_in_lockstep_and_falling_edges_are_no_pulses() -> None:
    clock = node(("triggers",), lockstep=True, offset_ns=EPOCH + 200 * MS, pulse_ms=1000.0)
    for second in range(5):
        clock.on_triggers(edge(second * 1000 * MS + 7 * MS))
        clock.on_triggers(edge(second * 1000 * MS + 107 * MS, rising=False))
    assert host(only(clock.on_events(packet(5007))).t_ns).tolist() == [EPOCH + 5000 * MS]


def test_time_never_falls_where_the_estimate_moves_back() -> None:
    clock = node(("triggers",), offset_ns=EPOCH + 200 * MS, pulse_ms=1000.0)
    before = only(clock.on_events(packet(2100)))
    for second in range(3):
        clock.on_triggers(edge(second * 1000 * MS))
    after = only(clock.on_events(packet(2150, 2400)))
    assert host(after.t_ns)[0] == host(before.t_ns)[0]
    assert host(after.t_ns)[1] == EPOCH + 2400 * MS
    assert "1 events stamped later" in clock.notes[-1]


@pytest.mark.parametrize(
    ("inputs", "settings", "reason"),
    [
        ((), {}, "give offset_ns"),
        (("reference",), {"offset_ns": 1}, "needs the trigger edges"),
        (("triggers", "reference"), {"pulse_ms": 1000.0}, "exclude each other"),
        (("triggers", "reference"), {"lockstep": True}, "ordered by their stamps"),
    ],
)
def test_settings_that_tell_no_clock_are_refused(inputs: tuple[str, ...], settings: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        node(inputs, **settings)
