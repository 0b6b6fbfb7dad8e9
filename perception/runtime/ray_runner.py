"""Run the processes of a graph as Ray actors: Ray places, starts and restarts them; no message goes through it.

Only this file, `ray_cluster.py` and `ray_node.py` import ray.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil

from perception.errors import GraphError, PerceptionError
from perception.runtime.graph import Graph
from perception.runtime.machine import MachineWatch
from perception.runtime.playback import PlaybackState
from perception.runtime.process_actor import Prepared, ProcessActor
from perception.runtime.ray_cluster import RayCluster, Stopped
from perception.runtime.rig_gate import ClockOffset
from perception.runtime.topology import LAUNCHER, Topology

import ray  # isort: skip - after its environment was set, in ray_cluster
from ray.exceptions import RayActorError, RayError  # isort: skip

LOG = logging.getLogger(__name__)
START_TIMEOUT_S = 3600.0
"""An engine that is compiled for the first time may take long; what is waited for is said every `TELL_S`."""
TELL_S = 10.0
CALL_TIMEOUT_S = 60.0
STEP_S = 0.2
LINK_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 1.5
FIRST_BACK_OFF_S = 0.1
LONGEST_BACK_OFF_S = 10.0


@dataclass
class _Process:
    """One process as the runner sees it."""

    name: str
    host: str
    actor: Any = None
    preparing: Any = None
    waiting: Any = None
    pid: int = 0
    endpoint: str = ""
    epoch: int = 0
    starts_s: deque[float] = field(default_factory=deque)
    start_again_s: float | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened to a process, "lost" or "restarted", or to a host, "host lost" or "host joined"."""

    name: str
    kind: str
    reason: str = ""


class RayRunner:
    """The processes of one run.

    Args:
        graph: the checked graph.
        topology: its channels.
        run: the run id.
        progress: called with a line for each step of the start.
        stop: set it to break off the start.
        on_endpoint: called with (process, endpoint) where the launcher reads a process of another host.
    """

    def __init__(
        self,
        graph: Graph,
        topology: Topology,
        run: str,
        progress: Callable[[str], None] = lambda line: None,
        stop: threading.Event | None = None,
        on_endpoint: Callable[[str, str], None] = lambda process, endpoint: None,
    ) -> None:
        self.graph, self.topology, self.run, self._progress = graph, topology, run, progress
        self._stop, self._on_endpoint = stop or threading.Event(), on_endpoint
        self._processes = {name: _Process(name, host) for name, host in graph.hosts().items()}
        self._cluster = RayCluster(graph, run, progress, self._stop)
        self.restarts = 0
        self._beginning: list[Any] = []
        self._wrap_asked: list[Any] = []

    def prepare(self) -> None:
        """Start Ray and all processes; returns when every node is warm.

        Raises:
            PerceptionError: what a node says it lacks.
            GraphError: Ray, a host or a process does not start.
            Stopped: the start was broken off.
        """
        started_s = time.monotonic()
        self._cluster.start()
        preparing = {self._create(process): process for process in self._processes.values()}
        pending = list(preparing)
        began_s = told_s = time.monotonic()
        while pending:
            self._check_stop()
            ready, pending = ray.wait(pending, num_returns=1, timeout=STEP_S)
            names = ", ".join(preparing[reference].name for reference in pending)
            if not ready and time.monotonic() > began_s + START_TIMEOUT_S:
                raise GraphError(f"process {names} is not ready after {START_TIMEOUT_S:.0f} s")
            if not ready and time.monotonic() > told_s + TELL_S:
                told_s = time.monotonic()
                self._progress(
                    f"process {names} is not ready yet ({told_s - began_s:.0f} s); engines and code are compiled once"
                )
            for reference in ready:
                process = preparing[reference]
                _take(process, self._result(reference, process.name))
                self._progress(f"process '{process.name}' is ready after {time.monotonic() - started_s:.1f} s")
        self._connect_all()

    def start(self) -> None:
        """Let all processes run; what sources measure comes from now on.

        Raises:
            GraphError: a process died meanwhile.
        """
        for process in self._by_source_last():
            self._run(process)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _by_source_last(self) -> list[_Process]:
        """Start readers before sources, so that the first message finds them."""
        grouped = self.graph.processes()
        return sorted(self._processes.values(), key=lambda p: any(node.is_source for node in grouped[p.name]))

    def _create(self, process: _Process) -> Any:
        resources = self._cluster.resources(process.host)
        actor = ray.remote(ProcessActor).options(num_cpus=0, max_concurrency=8, max_restarts=0, resources=resources)
        process.actor = actor.remote(process.name)
        return process.actor.prepare.remote(self.graph, self.topology, self.run, process.epoch)

    def _connect_all(self) -> None:
        """Connect processes that are read from another host with their readers, and wait until they have met."""
        writers = [process for process in self._processes.values() if process.endpoint]
        if not writers:
            return
        for process in self._processes.values():
            self._connect(process)
        self._connect_launcher(writers)
        until_s = time.monotonic() + LINK_TIMEOUT_S
        while not all(self._result(process.actor.is_read.remote(), process.name) for process in writers):
            self._check_stop()
            if time.monotonic() > until_s:
                places = ", ".join(f"{process.name} at {process.endpoint}" for process in writers)
                raise GraphError(f"hosts do not reach each other in {LINK_TIMEOUT_S:.0f} s: {places}; a firewall?")
            time.sleep(0.02)

    def _connect(self, process: _Process) -> None:
        """Let a process read the others on other hosts."""
        sources = self.topology.far_sources(process.name)
        endpoints = {name: self._processes[name].endpoint for name in sources if self._processes[name].endpoint}
        if endpoints:
            self._result(process.actor.connect.remote(endpoints), process.name)

    def _connect_launcher(self, writers: list[_Process]) -> None:
        for process in writers:
            if process.name in self.topology.far_sources(LAUNCHER):
                self._on_endpoint(process.name, process.endpoint)

    def _run(self, process: _Process) -> None:
        self._result(process.actor.start.remote(), process.name)
        process.waiting = process.actor.wait.remote()
        process.starts_s.append(time.monotonic())

    @staticmethod
    def _result(reference: Any, process: str) -> Any:
        try:
            return ray.get(reference, timeout=CALL_TIMEOUT_S)
        except RayActorError:
            known = "; ".join(MachineWatch().faults()) or "killed, or crashed in a library"
            raise GraphError(f"process '{process}' died: {known}") from None
        except RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, PerceptionError):
                raise cause from None
            raise GraphError(f"process '{process}' failed: {error}") from None

    def poll(self) -> list[Event]:
        """Look after the processes: notice those that ended, start them again with back-off.

        Raises:
            GraphError: a process was given up, after `restart_limit` starts within `restart_window_s`.
        """
        events = self._poll_hosts()
        running = {process.waiting: process for process in self._processes.values() if process.waiting is not None}
        ended, _ = ray.wait(list(running), num_returns=len(running), timeout=0) if running else ([], [])
        events += [self._lost(running[reference], self._reason(reference)) for reference in ended]
        now_s = time.monotonic()
        for process in self._processes.values():
            if process.preparing is not None:
                events += self._finish_restart(process)
            elif process.start_again_s is not None and now_s >= process.start_again_s and self._can_start(process):
                self._start_again(process)
        return events

    def _can_start(self, process: _Process) -> bool:
        return self._cluster.is_there(process.host)

    def _poll_hosts(self) -> list[Event]:
        gone, come = self._cluster.changes()
        events = [Event(host, "host lost") for host in sorted(gone)]
        events += [Event(host, "host joined") for host in sorted(come)]
        for process in self._processes.values():
            if process.host in gone and process.start_again_s is None:
                events.append(self._lost(process, f"host '{process.host}' is gone"))
        return events

    def clocks(self) -> Mapping[str, ClockOffset]:
        """Return how far the clocks of the other hosts are from this one's."""
        return self._cluster.clocks()

    def machine_faults(self) -> list[str]:
        """Return what is wrong with the machines of the other hosts."""
        return self._cluster.machine_faults()

    def _reason(self, reference: Any) -> str:
        try:
            ray.get(reference)
        except RayActorError:
            return "the process was killed or crashed"
        except RayError as error:
            return str(getattr(error, "cause", None) or error)
        return "it ended"

    def _lost(self, process: _Process, reason: str) -> Event:
        process.waiting = process.preparing = None
        self._plan_restart(process, reason)
        return Event(process.name, "lost", reason)

    def _plan_restart(self, process: _Process, reason: str) -> None:
        now_s = time.monotonic()
        while process.starts_s and now_s - process.starts_s[0] > self.graph.restart_window_s:
            process.starts_s.popleft()
        if not self._cluster.is_there(process.host):
            process.starts_s.clear()  # not its own fault; it starts when its host is back
        recent = len(process.starts_s)
        if recent > self.graph.restart_limit:
            raise GraphError(
                f"process '{process.name}' was started {recent} times within {self.graph.restart_window_s:g} s "
                f"and is given up; last: {reason}"
            )
        process.start_again_s = now_s + min(LONGEST_BACK_OFF_S, FIRST_BACK_OFF_S * 2 ** max(0, recent - 1))

    def _start_again(self, process: _Process) -> None:
        """Begin a restart; making nodes can take seconds, in which nobody may wait."""
        self.restarts += 1
        process.epoch += 1
        process.start_again_s = None
        ray.kill(process.actor)
        process.preparing = self._create(process)

    def _finish_restart(self, process: _Process) -> list[Event]:
        ready, _ = ray.wait([process.preparing], timeout=0)
        if not ready:
            return []
        try:
            _take(process, self._result(process.preparing, process.name))
            process.preparing = None
            self._connect(process)
            for reader in self._processes.values():
                if process.name in self.topology.far_sources(reader.name) and reader.waiting is not None:
                    reader.actor.connect.remote({process.name: process.endpoint})
            self._connect_launcher([process] if process.endpoint else [])
            self._run(process)
        except PerceptionError as error:
            process.starts_s.append(time.monotonic())
            return [self._lost(process, str(error))]
        return [Event(process.name, "restarted")]

    def play(self, action: str, value: float = 1.0) -> list[PlaybackState]:
        """Let the sources pause, resume, step or change their rate, and return how they play; `status` changes nothing.

        Raises:
            GraphError: a process is not there.
        """
        if not self._are_there():
            raise GraphError("a process is being restarted; try again when it is back")
        asked = [(process, process.actor.play.remote(action, value)) for process in self._with_sources()]
        return [state for process, reference in asked for state in self._result(reference, process.name)]

    def wrap(self) -> tuple[bool, bool]:
        """Return whether a source has come to its end and wants to begin again, and whether nothing waits anywhere."""
        if not self._wrap_asked and self._are_there():
            self._wrap_asked = [process.actor.wraps.remote() for process in self._processes.values()]
        asked = self._wrap_asked
        if not asked or len(ray.wait(asked, num_returns=len(asked), timeout=0)[0]) < len(asked):
            return False, False  # a process is in a call that holds the interpreter; the launcher does not wait
        self._wrap_asked = []
        try:
            answers = ray.get(asked)
        except RayError:
            return False, False
        return any(wraps for wraps, _ in answers), all(idle for _, idle in answers)

    def begin_anew(self, reason: str) -> dict[str, int]:
        """Hold the sources and let all nodes forget what was; `have_begun` says when they have, then `go`.

        Every process forgets before any source goes on, and takes nothing any more that bears an older epoch: what is
        older meets nothing that is newer.

        Returns:
            By process, the epoch of what comes from now on.

        Raises:
            GraphError: a process is not there.
        """
        if not self._are_there():
            raise GraphError("a process is being restarted; try again when it is back")
        for process in self._processes.values():
            process.epoch += 1
        epochs = {process.name: process.epoch for process in self._processes.values()}
        self._wrap_asked = []
        self._beginning = [process.actor.begin_anew.remote(epochs, reason) for process in self._by_source_last()]
        return epochs

    def have_begun(self) -> bool:
        """True where all processes have forgotten, or died: those begin anew anyway."""
        ready, _ = ray.wait(self._beginning, num_returns=len(self._beginning), timeout=0)
        return len(ready) == len(self._beginning)

    def go(self, t_ns: int | None = None) -> None:
        """Let the sources begin, at this time of their log where one is given.

        Raises:
            GraphError, UserError: a process does not answer, or a source cannot seek.
        """
        there = [process for process in self._with_sources() if process.waiting is not None]
        asked = [(process, process.actor.go.remote(t_ns)) for process in there]
        for process, reference in asked:
            self._result(reference, process.name)

    def _are_there(self) -> bool:
        return all(process.waiting is not None for process in self._processes.values())

    def _with_sources(self) -> list[_Process]:
        names = dict.fromkeys(node.process for node in self.graph.nodes if node.is_source)
        return [self._processes[name] for name in names]

    def pids(self) -> list[int]:
        """Return every process of this run on this host: Ray's own and ours."""
        return [child.pid for child in psutil.Process().children(recursive=True)]

    def have_ended(self) -> bool:
        """True where every source has given its last message and nothing waits in any process."""
        there = [process for process in self._processes.values() if self._cluster.is_there(process.host)]
        if not there or any(process.waiting is None for process in there):
            return False
        try:
            answers = ray.get([process.actor.ended.remote() for process in there], timeout=1)
        except RayError:
            return False
        return all(ended and idle for ended, idle in answers)

    def stop(self) -> None:
        """End all processes and Ray, and what is left of them, within four seconds."""
        running = [process for process in self._processes.values() if process.waiting is not None]
        if ray.is_initialized() and running:
            try:
                ending = [process.actor.stop.remote() for process in running] + [p.waiting for p in running]
                ray.wait(ending, num_returns=len(ending), timeout=STOP_TIMEOUT_S)
            except RayError as error:
                LOG.warning("stopping: %s", error)
        self._cluster.stop()


def _take(process: _Process, prepared: Prepared) -> None:
    process.pid, process.endpoint = prepared.pid, prepared.endpoint


__all__ = ["Event", "RayRunner", "Stopped"]
