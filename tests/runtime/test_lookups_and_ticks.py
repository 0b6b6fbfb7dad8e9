"""Lookups, which hold a node until they can answer, and ticks of sensor time."""

from __future__ import annotations

import pytest

from perception.messages import Odometry, PointCloud
from perception.runtime.graph import Edge
from perception.runtime.histories import AFTER_ALL
from perception.runtime.node import Every, Lookup, Node, On
from tests.runtime.executors import Watcher, executor, lidar_edge, run_all
from tests.runtime.graphs import MS, cloud, odometry


class Mover(Node):
    sweep = On[PointCloud]()
    ego = Lookup[Odometry](deadline_ms=100)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float | None] = []

    def on_sweep(self, sweep: PointCloud) -> None:
        pose = self.ego.at(sweep.header.t_sensor_ns)
        self.found.append(None if pose is None else pose.translation_m[0])


EGO = Edge("ego", "ego", Odometry)


def test_a_lookup_interpolates_and_the_node_waits_until_it_can() -> None:
    node = Mover()
    running = executor(node, [lidar_edge(), EGO])
    running.offer("ego", odometry(0, 0.0))
    running.offer("lidar/points", cloud(25))
    assert running.run_next() is None
    running.offer("ego", odometry(50, 10.0))
    run_all(running)
    assert node.found == [5.0]


def test_a_sweep_that_comes_seconds_late_still_finds_its_ego_motion_while_it_is_awaited() -> None:
    node = Mover()
    running = executor(node, [lidar_edge(keep="all"), EGO])
    running.bound("lidar/points", 0)  # what detects in the sweeps is at work with that of 0 s
    for t_ms in range(0, 6001, 50):
        running.offer("ego", odometry(t_ms, t_ms / 100))
    running.offer("lidar/points", cloud(25))
    run_all(running)
    assert node.found == [0.25]


def test_a_promise_that_lags_behind_the_messages_and_is_repeated_is_no_clock_set_back() -> None:
    node = Watcher()
    running = executor(node, [lidar_edge(keep="all")])
    running.bound("lidar/points", 100 * MS)
    running.offer("lidar/points", cloud(5000))
    running.bound("lidar/points", 100 * MS)
    run_all(running)
    running.bound("lidar/points", 6000 * MS)
    running.offer("lidar/points", cloud(6100))
    running.bound("lidar/points", 3000 * MS)  # this one goes back: what waits is of another time
    run_all(running)
    assert node.calls == [5000]
    assert running.counters["lidar/points"].dropped == {"clock set back": 1}


def test_a_lookup_that_never_answers_holds_a_node_no_longer_than_its_deadline() -> None:
    node = Mover()
    running = executor(node, [lidar_edge(keep="all"), EGO])
    running.offer("lidar/points", cloud(0))
    assert running.run_next() is None
    running.offer("lidar/points", cloud(100))
    assert running.run_next() == []
    assert node.found == [None]


@pytest.mark.parametrize("lockstep", [False, True])
def test_a_bound_that_equals_the_stamp_is_no_answer_yet(*, lockstep: bool) -> None:
    node = Mover()
    running = executor(node, [lidar_edge(), EGO], lockstep=lockstep)
    running.offer("ego", odometry(50, 1.0))
    running.offer("lidar/points", cloud(100))
    running.bound("ego", 100 * MS)  # the sweep's own source says so: ego motion of the same stamp may follow
    assert running.run_next() is None
    running.offer("ego", odometry(100, 2.0))
    run_all(running)
    assert node.found == [2.0]


@pytest.mark.parametrize("lockstep", [False, True])
def test_ego_motion_after_a_stamp_is_waited_for_although_the_bound_has_passed(*, lockstep: bool) -> None:
    node = Mover()
    running = executor(node, [lidar_edge(), EGO], lockstep=lockstep)
    running.offer("ego", odometry(50, 0.0))
    running.offer("lidar/points", cloud(100))
    running.bound("ego", 120 * MS)
    assert running.run_next() is None
    running.offer("ego", odometry(150, 10.0))
    run_all(running)
    assert node.found == [5.0]


def test_in_lockstep_ego_motion_beyond_the_deadline_is_not_used_however_early_it_came() -> None:
    found = []
    for bound_first in (True, False):
        node = Mover()
        running = executor(node, [lidar_edge(), EGO], lockstep=True)
        running.offer("ego", odometry(50, 0.0))
        running.offer("lidar/points", cloud(100))
        if bound_first:
            running.bound("ego", 201 * MS)
            run_all(running)
        running.offer("ego", odometry(250, 10.0))
        run_all(running)
        found.append(node.found)
    assert found == [[None], [None]]


def test_in_lockstep_a_lookup_forgets_what_no_call_can_see() -> None:
    running = executor(Mover(), [lidar_edge(), EGO], lockstep=True)
    history = running.inputs._lookups["ego"].history
    for t_ms in range(0, 60_000, 10):
        running.offer("ego", odometry(t_ms))
        running.bound("lidar/points", t_ms * MS)
    assert len(history) < 1500  # two seconds are 200


class Ticker(Node):
    sweep = On[PointCloud]()
    tick = Every(40 * MS)

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def on_sweep(self, sweep: PointCloud) -> None:
        self.calls.append(("sweep", sweep.header.t_sensor_ns // MS))

    def on_tick(self, t_ns: int) -> None:
        self.calls.append(("tick", t_ns // MS))


def test_ticks_come_at_whole_multiples_of_the_period_of_sensor_time() -> None:
    node = Ticker()
    running = executor(node, [lidar_edge(keep="all")], lockstep=True)
    for t_ms in (50, 100, 150):
        running.offer("lidar/points", cloud(t_ms))
        run_all(running)
    running.bound("lidar/points", AFTER_ALL)
    run_all(running)
    assert node.calls == [("sweep", 50), ("tick", 80), ("sweep", 100), ("tick", 120), ("sweep", 150)]


def test_in_lockstep_ticks_go_on_to_the_last_instant_that_any_input_spoke_of() -> None:
    node = Ticker()
    running = executor(node, [lidar_edge(keep="all")], lockstep=True)
    running.offer("lidar/points", cloud(50))
    running.bound("lidar/points", 130 * MS)
    running.bound("lidar/points", AFTER_ALL)
    run_all(running)
    assert node.calls == [("sweep", 50), ("tick", 80), ("tick", 120)]
