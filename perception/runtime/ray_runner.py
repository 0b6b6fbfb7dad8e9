"""Run the processes of a graph as Ray actors: Ray places, starts and restarts them; no message goes through it.

The only file that imports ray. Ray is started for this run alone: on loopback, with token authentication, without
dashboard and client server, and its workers at nice 0.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

# Ray reads these when it is imported, not when it is started.
os.environ.update(
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=secrets.token_hex(32),
    RAY_worker_niceness="0",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # on every system: without it Ray's ports answer on all interfaces
)

import ray
from ray.exceptions import RayActorError, RayError

from perception.errors import GraphError, PerceptionError
from perception.runtime.graph import Graph
from perception.runtime.shared_memory import root_of
from perception.runtime.topology import Topology

LOG = logging.getLogger(__name__)
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 1.5
FIRST_BACK_OFF_S = 0.1
LONGEST_BACK_OFF_S = 10.0
OBJECT_STORE_BYTES = 80 << 20


class ProcessActor:
    """The Ray side of one process: holds its worker. Methods run in threads of their own."""

    def __init__(self, process: str) -> None:
        self.process = process
        self._worker: Any = None

    def prepare(self, graph: Graph, topology: Topology, run: str, epoch: int) -> int:
        """Make nodes and channels; returns the pid."""
        from perception.runtime.allocator import keep_freed_memory
        from perception.runtime.worker import Worker

        keep_freed_memory()
        self._worker = Worker(graph, topology, self.process, run, epoch)
        return os.getpid()

    def start(self) -> None:
        self._worker.start()

    def wait(self) -> None:
        """Return when the worker was stopped; raises what ended it otherwise."""
        self._worker.wait()

    def ended(self) -> tuple[bool, bool]:
        """Return whether its sources have ended (True where it has none), and whether nothing waits."""
        return self._worker.sources_ended(), self._worker.is_idle()

    def stop(self) -> None:
        self._worker.stop()


@dataclass
class _Process:
    """One process as the runner sees it."""

    name: str
    actor: Any = None
    waiting: Any = None
    pid: int = 0
    epoch: int = 0
    starts_s: deque[float] = field(default_factory=deque)
    start_again_s: float | None = None
    given_up: str = ""


@dataclass(frozen=True)
class ProcessEvent:
    """Something that happened to a process: "lost", "restarted" or "given up"."""

    process: str
    kind: str
    reason: str = ""


class RayRunner:
    """The processes of one run.

    Args:
        graph: the checked graph.
        topology: its channels.
        run: the run id.
        progress: called with a line for each step of the start.
    """

    def __init__(
        self, graph: Graph, topology: Topology, run: str, progress: Callable[[str], None] = lambda line: None
    ) -> None:
        self.graph, self.topology, self.run, self._progress = graph, topology, run, progress
        self._processes = {name: _Process(name) for name in graph.processes()}
        self.restarts = 0

    def start(self) -> None:
        """Start Ray and all processes; returns when every node is warm and runs.

        Raises:
            PerceptionError: what a node says it lacks.
            GraphError: Ray or a process does not start.
        """
        started_s = time.monotonic()
        self._start_ray()
        self._progress(f"Ray is up after {time.monotonic() - started_s:.1f} s")
        preparing = {self._create(process): process for process in self._processes.values()}
        pending = list(preparing)
        while pending:
            ready, pending = ray.wait(pending, num_returns=1, timeout=START_TIMEOUT_S)
            if not ready:
                names = ", ".join(preparing[reference].name for reference in pending)
                raise GraphError(f"process {names} is not ready after {START_TIMEOUT_S:.0f} s")
            process = preparing[ready[0]]
            process.pid = self._result(ready[0], process.name)
            self._progress(f"process '{process.name}' is ready after {time.monotonic() - started_s:.1f} s")
        for process in self._by_source_last():
            self._run(process)

    def _by_source_last(self) -> list[_Process]:
        """Start readers before sources, so that the first message finds them."""
        grouped = self.graph.processes()
        return sorted(self._processes.values(), key=lambda p: any(node.is_source for node in grouped[p.name]))

    def _start_ray(self) -> None:
        folder = root_of(self.run) / "ray"
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        folder.mkdir(parents=True, exist_ok=True)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            ray.init(
                address="local", include_dashboard=False, num_cpus=os.cpu_count(), log_to_driver=False,
                logging_level=logging.ERROR, object_store_memory=OBJECT_STORE_BYTES, _node_ip_address="127.0.0.1",
                _temp_dir=str(folder), configure_logging=False,
            )  # fmt: skip
        except (RayError, OSError, RuntimeError, ValueError) as error:
            raise GraphError(f"Ray does not start: {error}") from None
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():  # Ray puts its own in place, which exits without cleaning up
                    signal.signal(number, handler)

    def _create(self, process: _Process) -> Any:
        actor = ray.remote(ProcessActor).options(num_cpus=0, max_concurrency=8, max_restarts=0, name=process.name)
        process.actor = actor.remote(process.name)
        process.waiting = None
        return process.actor.prepare.remote(self.graph, self.topology, self.run, process.epoch)

    def _run(self, process: _Process) -> None:
        self._result(process.actor.start.remote(), process.name)
        process.waiting = process.actor.wait.remote()
        process.starts_s.append(time.monotonic())

    @staticmethod
    def _result(reference: Any, process: str) -> Any:
        try:
            return ray.get(reference, timeout=START_TIMEOUT_S)
        except RayActorError:
            raise GraphError(f"process '{process}' died") from None
        except RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, PerceptionError):
                raise cause from None
            raise GraphError(f"process '{process}' failed: {error}") from None

    def poll(self) -> list[ProcessEvent]:
        """Look after the processes: notice those that ended, start them again with back-off.

        Raises:
            GraphError: a process was given up, after `restart_limit` starts within `restart_window_s`.
        """
        events: list[ProcessEvent] = []
        running = {process.waiting: process for process in self._processes.values() if process.waiting is not None}
        ended, _ = ray.wait(list(running), num_returns=len(running), timeout=0) if running else ([], [])
        for reference in ended:
            process = running[reference]
            process.waiting = None
            reason = self._reason(reference)
            events.append(ProcessEvent(process.name, "lost", reason))
            self._plan_restart(process, reason)
        now_s = time.monotonic()
        for process in self._processes.values():
            if process.start_again_s is not None and now_s >= process.start_again_s:
                process.start_again_s = None
                events += self._start_again(process)
        return events

    def _reason(self, reference: Any) -> str:
        try:
            ray.get(reference)
        except RayActorError:
            return "the process was killed or crashed"
        except RayError as error:
            return str(getattr(error, "cause", None) or error)
        return "it ended"

    def _plan_restart(self, process: _Process, reason: str) -> None:
        now_s = time.monotonic()
        while process.starts_s and now_s - process.starts_s[0] > self.graph.restart_window_s:
            process.starts_s.popleft()
        recent = len(process.starts_s)
        if recent > self.graph.restart_limit:
            raise GraphError(
                f"process '{process.name}' was started {recent} times within {self.graph.restart_window_s:g} s "
                f"and is given up; last: {reason}"
            )
        process.start_again_s = now_s + min(LONGEST_BACK_OFF_S, FIRST_BACK_OFF_S * 2 ** max(0, recent - 1))

    def _start_again(self, process: _Process) -> list[ProcessEvent]:
        self.restarts += 1
        process.epoch += 1
        if process.actor is not None:
            ray.kill(process.actor)
        try:
            process.pid = self._result(self._create_anew(process), process.name)
            self._run(process)
        except PerceptionError as error:
            process.starts_s.append(time.monotonic())
            self._plan_restart(process, str(error))
            return [ProcessEvent(process.name, "lost", str(error))]
        return [ProcessEvent(process.name, "restarted")]

    def _create_anew(self, process: _Process) -> Any:
        """Names of killed actors are free only after a moment: an actor that comes again has none."""
        actor = ray.remote(ProcessActor).options(num_cpus=0, max_concurrency=8, max_restarts=0)
        process.actor = actor.remote(process.name)
        return process.actor.prepare.remote(self.graph, self.topology, self.run, process.epoch)

    def pids(self) -> list[int]:
        """Return every process of this run: Ray's own and ours."""
        return [child.pid for child in psutil.Process().children(recursive=True)]

    def have_ended(self) -> bool:
        """True where every source has given its last message and nothing waits in any process."""
        actors = [process.actor for process in self._processes.values() if process.waiting is not None]
        try:
            answers = ray.get([actor.ended.remote() for actor in actors], timeout=5)
        except RayError:
            return False
        return bool(answers) and all(ended and idle for ended, idle in answers)

    def stop(self) -> None:
        """End all processes and Ray, and what is left of them, within four seconds."""
        children = psutil.Process().children(recursive=True)
        actors = [process.actor for process in self._processes.values() if process.waiting is not None]
        if ray.is_initialized():
            try:
                stopping = [actor.stop.remote() for actor in actors]
                waiting = [process.waiting for process in self._processes.values() if process.waiting is not None]
                ray.wait([*stopping, *waiting], num_returns=len(stopping) + len(waiting), timeout=STOP_TIMEOUT_S)
            except RayError as error:
                LOG.warning("stopping: %s", error)
            ray.shutdown()
        _, alive = psutil.wait_procs(children, timeout=0.5)
        for child in alive:
            child.kill()
        psutil.wait_procs(alive, timeout=1)
        shutil.rmtree(Path(root_of(self.run)) / "ray", ignore_errors=True)


__all__ = ["ProcessActor", "ProcessEvent", "RayRunner"]
