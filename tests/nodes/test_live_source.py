"""What drivers share: pauses between attempts, rates and gaps in the status, and clocks that are laid on the host's."""

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.messages import Header, Message, Trigger
from perception.nodes import _live_source
from perception.nodes._clock_offset import ClockOffset
from perception.nodes._live_source import LiveSource
from perception.nodes._pump import pumped
from perception.nodes._stream_monitor import StreamMonitor
from perception.runtime.node import Bound, NodeConfig

MS, SECOND = 1_000_000, 1_000_000_000


def test_the_quickest_way_of_late_is_the_offset() -> None:
    clock = ClockOffset(window_ns=10 * SECOND)
    delays_ms = (5, 3, 8, 4)
    hosts = [clock.to_host(k * SECOND, 100 * SECOND + k * SECOND + d * MS) for k, d in enumerate(delays_ms)]
    assert [host - 100 * SECOND for host in hosts] == [
        5 * MS,
        SECOND + 3 * MS,
        2 * SECOND + 3 * MS,
        3 * SECOND + 3 * MS,
    ]


def test_a_clock_that_drifts_is_followed_within_the_window() -> None:
    clock = ClockOffset(window_ns=10 * SECOND)
    slow = [(k * SECOND, 100 * SECOND + k * SECOND + k * 50_000) for k in range(60)]  # 50 ppm
    off = [clock.to_host(sensor, host) - host for sensor, host in slow]
    assert min(off) >= -10 * 50_000
    assert max(off) <= 0


def test_a_sensor_that_starts_anew_is_a_jump_and_not_a_delay() -> None:
    clock = ClockOffset()
    assert clock.to_host(1000 * SECOND, 5000 * SECOND) == 5000 * SECOND
    assert clock.to_host(3 * SECOND, 5002 * SECOND) == 5002 * SECOND
    assert clock.to_host(4 * SECOND, 5003 * SECOND + 9 * MS) == 5003 * SECOND
    assert clock.jumps == 1


def test_messages_that_were_held_up_are_no_jump_however_long_the_queue_grew() -> None:
    clock = ClockOffset()
    delays_ms = (2, 700, 1400, 2300, 4, 1900, 3, 2)  # more and more, all at once, and one that was alone
    hosts = [clock.to_host(k * 100 * MS, 50 * SECOND + k * 100 * MS + d * MS) for k, d in enumerate(delays_ms)]
    assert hosts == [50 * SECOND + k * 100 * MS + 2 * MS for k in range(len(delays_ms))]
    assert clock.jumps == 0


def test_a_clock_that_is_set_ahead_or_that_began_anew_in_a_long_silence_is_a_jump() -> None:
    ahead, anew = ClockOffset(), ClockOffset()
    assert ahead.to_host(10 * SECOND, 50 * SECOND) == 50 * SECOND
    assert ahead.to_host(1010 * SECOND + 100 * MS, 50 * SECOND + 100 * MS) == 50 * SECOND + 100 * MS
    assert anew.to_host(20 * SECOND, 50 * SECOND) == 50 * SECOND
    assert anew.to_host(25 * SECOND, 110 * SECOND) == 110 * SECOND  # a minute without a word, five seconds by its clock
    assert (ahead.jumps, anew.jumps) == (1, 1)


@given(st.lists(st.tuples(st.integers(0, 50 * MS), st.integers(0, 300 * MS)), min_size=2, max_size=60))
def test_stamps_go_on_as_the_sensors_do_and_never_lie_after_arrival(steps: list[tuple[int, int]]) -> None:
    clock, sensor, last = ClockOffset(window_ns=SECOND), 0, 0
    for step, delay in steps:
        sensor += step
        host = clock.to_host(sensor, 10 * SECOND + sensor + delay)
        assert host >= last
        last = host
    assert last <= 10 * SECOND + sensor + max(delay for _, delay in steps)


def test_rate_gaps_and_silence_are_counted_by_hand() -> None:
    monitor = StreamMonitor("lidar", 100 * MS)
    monitor.started(0)
    assert not monitor.degraded(SECOND)
    assert monitor.degraded(2 * SECOND) == ("lidar: nothing received yet",)
    for k in (*range(21), *range(24, 50)):  # two messages are missing between 2.0 s and 2.4 s
        monitor.message(2 * SECOND + k * 100 * MS)
    assert monitor.notes(7 * SECOND) == ("lidar: 9.4 Hz; 1 gaps, the longest 400 ms",)
    monitor.failed("Connection refused")
    assert monitor.degraded(10 * SECOND) == ("lidar: silent for 3 s (Connection refused)",)
    monitor.counts["repeated packets"] += 2
    monitor.message(10 * SECOND)
    (note,) = monitor.notes(10 * SECOND)
    assert "2 gaps, the longest 3100 ms; 1 reconnections; repeated packets: 2" in note
    assert not monitor.degraded(10 * SECOND)


def test_a_period_that_nobody_gave_is_learnt_and_slow_sensors_may_be_silent_for_longer() -> None:
    monitor = StreamMonitor("gnss")
    for k in range(12):
        monitor.message(k * SECOND // 2)
        monitor.notes(k * SECOND // 2)
    assert monitor.period_ns == SECOND // 2
    assert not monitor.degraded(8 * SECOND - 1)  # five periods are 2.5 s
    assert monitor.degraded(8 * SECOND + SECOND // 2)


class Clock:
    """Stands in for the module `time`: sleeping moves it on."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def monotonic_ns(self) -> int:
        return round(self.now_s * 1e9)

    def time_ns(self) -> int:
        return round(self.now_s * 1e9)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Flaky(LiveSource):
    """Cannot be opened six times, gives two messages, and breaks again."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(NodeConfig(), "flaky", ("flaky/triggers",))
        self.opened_s: list[float] = []
        self.clock = clock

    def received(self) -> Iterator[tuple[str, Message] | None]:
        self.opened_s.append(self.clock.now_s)
        if len(self.opened_s) <= 6:
            raise ConnectionRefusedError("nobody listens")
        for _ in range(2):
            yield "flaky/triggers", Trigger(header=Header(frame_id="", t_sensor_ns=1), channel=0, rising=True)


def test_pauses_between_attempts_double_up_to_five_seconds_and_begin_anew_after_a_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(_live_source, "time", clock)
    source = Flaky(clock)
    items: list[Message | Bound] = []
    told: set[str] = set()
    for _, item in source.messages():
        items.append(item)
        told |= {*source.degraded}  # what the process puts into the status of the node
        if len(source.opened_s) == 9:
            break
    pauses = [after - before for before, after in itertools.pairwise(source.opened_s)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 0.1, 0.1], abs=1e-6)
    bounds = [item.t_ns for item in items if isinstance(item, Bound)]
    apart = [after - before for before, after in itertools.pairwise(bounds)]
    assert max(apart) < 101 * MS  # joins hear of the silence all the time
    assert source.monitor.reconnections == 2
    assert "flaky: nothing received yet (nobody listens)" in told
    assert source.notes[0].startswith("flaky: ")


def test_a_device_that_blocks_lets_silence_be_told_and_the_newest_wins() -> None:
    lost: list[int] = []

    def ten() -> Iterator[int]:
        yield from range(10)

    items = pumped(ten, 3, lost.append, wait_s=0.01)
    first = next(item for item in items if item is not None)
    rest = [item for item in items if item is not None]
    assert sorted([*lost, first, *rest]) == list(range(10))
    assert rest[-1] == 9

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("unplugged")

    broken_items = pumped(broken, 3, lost.append)
    assert next(broken_items) == 1
    with pytest.raises(OSError, match="unplugged"):
        next(broken_items)
