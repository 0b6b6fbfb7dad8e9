"""What a node is called with, what is counted, and who owns the arrays that it gives out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from perception.errors import GraphError, ShapeError
from perception.messages import PointCloud
from perception.runtime.executor import QUICK_NS, NodeExecutor
from perception.runtime.node import Node, On, Out
from perception.runtime.output_stamper import RunContext
from tests.runtime.executors import RANKS, Watcher, executor, lidar_edge, run_all
from tests.runtime.graphs import cloud, spec


def test_keep_latest_runs_the_newest_and_counts_the_others() -> None:
    node = Watcher()
    running = executor(node, [lidar_edge(keep="latest")])
    for t_ms in (0, 100, 200):
        running.offer("lidar/points", cloud(t_ms))
    run_all(running)
    assert node.calls == [200]
    assert running.counters["lidar/points"].dropped == {"newer message": 2}
    assert running.counters["lidar/points"].received == 3


def test_keep_all_keeps_its_bound_and_counts_what_did_not_fit() -> None:
    node = Watcher()
    running = executor(node, [lidar_edge(keep="all", bound=2)])
    for t_ms in (0, 100, 200):
        running.offer("lidar/points", cloud(t_ms))
    run_all(running)
    assert node.calls == [100, 200]
    assert running.counters["lidar/points"].dropped == {"queue full": 1}


def test_lockstep_drops_nothing_whatever_the_queue() -> None:
    node = Watcher()
    running = executor(node, [lidar_edge(keep="latest", bound=1)], lockstep=True)
    for t_ms in (0, 100, 200):
        running.offer("lidar/points", cloud(t_ms))
    run_all(running)
    assert node.calls == [0, 100, 200]


class Seldom(Node):
    """Says something of every tenth sweep alone."""

    sweep = On[PointCloud](keep="all", bound=20)
    out = Out[PointCloud]()

    def on_sweep(self, sweep: PointCloud) -> PointCloud | None:
        return None if sweep.header.t_sensor_ns else sweep


def test_the_latency_of_a_node_is_that_of_the_calls_that_gave_something_out() -> None:
    running = executor(Seldom(), [lidar_edge(keep="all", bound=20)], {"out": "node/out"})
    for t_ms in range(10):
        running.offer("lidar/points", cloud(t_ms))
    run_all(running)
    running.settle()
    assert running.latency.count == 1


class Fragile(Watcher):
    def on_sweep(self, sweep: PointCloud) -> None:
        if np.isnan(sweep.xyz_m).any():  # type: ignore[arg-type]
            raise ShapeError("points are not finite")
        if np.asarray(sweep.xyz_m)[0, 0] == 13:
            raise KeyError("a bug")
        super().on_sweep(sweep)


def test_one_bad_frame_is_one_counted_drop_and_the_node_goes_on() -> None:
    node = Fragile()
    running = executor(node, [lidar_edge(keep="all")])
    for t_ms, value in ((0, 1.0), (100, np.nan), (200, 13.0), (300, 1.0)):
        running.offer("lidar/points", cloud(t_ms, value))
    run_all(running)
    assert node.calls == [0, 300]
    assert running.counters["lidar/points"].dropped == {"points are not finite": 1, "KeyError: 'a bug'": 1}
    assert running.status().last_error == "KeyError: 'a bug'"


def test_a_node_that_fails_every_time_stops_its_process() -> None:
    running = executor(Fragile(), [lidar_edge(keep="all", bound=50)])
    for step in range(20):
        running.offer("lidar/points", cloud(step, 13.0))
    with pytest.raises(GraphError, match="failed 10 times in a row, last by KeyError"):
        run_all(running)


def test_reasons_that_change_with_every_message_do_not_grow_without_end() -> None:
    class Talkative(Watcher):
        def on_sweep(self, sweep: PointCloud) -> None:
            raise ShapeError(f"stamp {sweep.header.t_sensor_ns}")

    running = executor(Talkative(), [lidar_edge(keep="all", bound=1000)])
    for step in range(500):
        running.offer("lidar/points", cloud(step))
    run_all(running)
    dropped = running.counters["lidar/points"].dropped
    assert len(dropped) <= 21
    assert sum(dropped.values()) == 500


class Borrower(Node):
    """Gives out a buffer that it overwrites, as an engine does."""

    sweep = On[PointCloud]()
    out = Out[PointCloud]()

    def __init__(self) -> None:
        super().__init__()
        self.buffer = np.zeros((6, 3), np.float32)

    def on_sweep(self, sweep: PointCloud) -> PointCloud:
        self.buffer[:] = np.asarray(sweep.xyz_m)[0, 0]
        return PointCloud(header=sweep.header, xyz_m=self.buffer[:3])


def test_an_output_buffer_that_is_overwritten_never_changes_a_message() -> None:
    running = executor(Borrower(), [lidar_edge(keep="all")], {"out": "node/out"})
    for step in range(10):
        running.offer("lidar/points", cloud(step, float(step)))
    values = [
        float(np.asarray(message.xyz_m)[0, 0]) for _, message in run_all(running) if isinstance(message, PointCloud)
    ]
    assert values == [float(step) for step in range(10)]
    assert "10 arrays copied" in " ".join(running.status().notes)


def test_an_array_that_was_given_out_cannot_be_written_any_more() -> None:
    class Writer(Node):
        sweep = On[PointCloud]()
        out = Out[PointCloud]()
        given: np.ndarray | None = None

        def on_sweep(self, sweep: PointCloud) -> PointCloud:
            if self.given is not None:
                self.given[0] = 99
            self.given = np.ones((3, 3), np.float32)
            return PointCloud(header=sweep.header, xyz_m=self.given)

    running = executor(Writer(), [lidar_edge(keep="all")], {"out": "node/out"})
    running.offer("lidar/points", cloud(0))
    running.offer("lidar/points", cloud(1))
    ((_, first),) = run_all(running)
    assert isinstance(first, PointCloud)
    np.testing.assert_array_equal(np.asarray(first.xyz_m), 1)
    assert any("read-only" in reason for reason in running.counters["lidar/points"].dropped)


class Answering(Node):
    """Gives out what it is given, but for clouds at the origin."""

    sweep = On[PointCloud](keep="all", bound=10)
    out = Out[PointCloud]()

    def on_sweep(self, sweep: PointCloud) -> PointCloud | None:
        return sweep if np.asarray(sweep.xyz_m).any() else None


def announced(values: Sequence[float], call_ns: int) -> list[int]:
    """Run a cloud of each value, a call taking so long, and return how often the output was announced up to each."""
    clock, topics = itertools.count(0, call_ns), list[str]()
    running = NodeExecutor(
        spec("node", [lidar_edge(keep="all", bound=10)], {"out": "node/out"}), Answering(), RANKS,
        RunContext(clock_ns=lambda: next(clock)), announce=topics.extend,
    )  # fmt: skip
    counts = []
    for number, value in enumerate(values):
        running.offer("lidar/points", cloud(100 * number, value))
        run_all(running)
        counts.append(topics.count("node/out"))
    return counts


def test_readers_are_told_as_a_call_begins_where_the_last_one_was_quick() -> None:
    assert announced([1.0, 1.0, 1.0], call_ns=QUICK_NS // 2) == [0, 1, 2]


def test_readers_are_not_told_early_of_what_a_slow_call_gives_out() -> None:
    assert announced([1.0, 1.0, 1.0], call_ns=QUICK_NS) == [0, 0, 0]


def test_readers_are_not_told_early_after_a_call_that_gave_out_nothing() -> None:
    assert announced([1.0, 0.0, 1.0, 1.0], call_ns=1) == [0, 1, 1, 2]
