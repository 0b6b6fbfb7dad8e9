"""Ray itself, for one run: started, joined by the hosts of the rig, and ended.

On loopback, with token authentication, without dashboard and client server, and its workers at nice 0. The hosts of a
rig join through their gates (`rig_link.py`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from perception.runtime.ray_node import LOOPBACK, OBJECT_STORE_BYTES, RAY_ENVIRONMENT, start_node, stop_node

# Ray reads these when it is imported, not when it is started.
os.environ.update(RAY_ENVIRONMENT, RAY_AUTH_TOKEN=secrets.token_hex(32))

import ray
from ray.exceptions import RayError

from perception.errors import GraphError
from perception.runtime.graph import LOCAL, Graph
from perception.runtime.rig_gate import ClockOffset, Gate
from perception.runtime.rig_link import ports_of, read_token, token_file
from perception.runtime.shared_memory import root_of

JOIN_TIMEOUT_S = 180.0
STEP_S = 0.2
STOP_STEP_S = 0.05
END_TIMEOUT_S = 1.5
QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}


class Stopped(Exception):  # noqa: N818 - no error: who runs the graph wished it
    """The start was broken off."""


class Starting:
    """Something that takes seconds, starts processes and cannot be broken off: run in a thread, its processes ended.

    The thread stays until `leave`: the kernel ends Ray's processes with the thread that started them.

    Args:
        stop: set it to break off.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop, self._done, self._end = stop, threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._raised: Exception | None = None

    def run(self, action: Callable[[], None]) -> None:
        """Run it; raises what it raises.

        Raises:
            Stopped: it was broken off, and may still be running: call `end`.
        """

        def act() -> None:
            try:
                action()
            except Exception as error:  # noqa: BLE001 - raised again where it was called
                self._raised = error
            self._done.set()
            self._end.wait()

        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        self._thread = threading.Thread(target=act, name="start", daemon=True)
        self._thread.start()
        done = False
        while not done:
            done = self._done.wait(STOP_STEP_S)
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():  # Ray puts its own in place, which end without cleaning up
                    signal.signal(number, handler)
            if self._stop.is_set():
                raise Stopped
        if self._raised is not None:
            raise self._raised

    def end(self) -> None:
        """End what it has started, if it was broken off; a thread that waits for what is gone is left behind."""
        until_s = time.monotonic() + END_TIMEOUT_S
        while self._thread is not None and not self._done.wait(STOP_STEP_S) and time.monotonic() < until_s:
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()

    def leave(self) -> None:
        """Let the thread end, once Ray has ended."""
        self._end.set()


class RayCluster:
    """See the module's text.

    Args:
        graph: the checked graph.
        run: the run id.
        progress: called with what a person should know or do.
        stop: set it to break off the start.
    """

    def __init__(self, graph: Graph, run: str, progress: Callable[[str], None], stop: threading.Event) -> None:
        self.graph, self._progress, self._stop = graph, progress, stop
        self._folder = root_of(run) / "ray"
        self._run = run
        self._gate: Gate | None = None
        self._node: Any = None
        self._places: dict[str, str] = {}
        self._starting = Starting(stop)

    def start(self) -> None:
        """Start Ray, and wait for the hosts that the graph needs.

        Raises:
            GraphError: Ray does not start, or a host does not join.
            LaunchFileError: the rig's interface is none of this host.
            Stopped: the start was broken off.
        """
        started_s = time.monotonic()
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        self._folder.mkdir(parents=True, exist_ok=True)
        logging.getLogger("ray").setLevel(logging.ERROR)  # it warns that it sets no signal handlers, as it should
        try:
            self._starting.run(self._start_for_rig if self.graph.other_hosts() else self._start_here)
        except (RayError, OSError, RuntimeError, ValueError) as error:
            raise GraphError(f"Ray does not start: {error}") from None
        self._progress(f"Ray is up after {time.monotonic() - started_s:.1f} s")
        if self._gate is not None:
            self._wait_for_hosts(self._gate)

    def _start_here(self) -> None:
        ray.init(
            address="local", include_dashboard=False, num_cpus=os.cpu_count(), _node_ip_address=LOOPBACK,
            object_store_memory=OBJECT_STORE_BYTES, _temp_dir=str(self._folder), **QUIET,
        )  # fmt: skip

    def _start_for_rig(self) -> None:
        network = self.graph.network
        assert network is not None
        token, made = read_token(create=True)
        if made:
            self._progress(f"made the rig's token, {token_file()}: copy it to each of the rig's hosts, mode 600")
        self._gate = Gate(network, token, self._run, os.environ["RAY_AUTH_TOKEN"])
        ports = ports_of(network.port, 0)
        self._node = start_node(place=LOCAL, folder=str(self._folder), ports=ports, gcs_port=ports.gcs, head=True)
        ray.init(address=f"{LOOPBACK}:{ports.gcs}", _node_ip_address=LOOPBACK, **QUIET)
        self._gate.open()

    def _wait_for_hosts(self, gate: Gate) -> None:
        network, wanted = gate.network, {*self.graph.other_hosts()}
        for host in sorted(wanted):
            command = f"perception host {host} --launch-host {network.rig_interface} --port {network.port}"
            self._progress(f"waiting for host '{host}', on which runs: {command}")
        until_s = time.monotonic() + JOIN_TIMEOUT_S
        while missing := wanted - {*self._placeable(gate)}:
            if self._stop.is_set():
                raise Stopped
            if time.monotonic() > until_s:
                raise GraphError(
                    f"host {', '.join(sorted(missing))} has not joined within {JOIN_TIMEOUT_S:.0f} s. "
                    f"{'; '.join(dict.fromkeys(gate.refused))}"
                )
            time.sleep(STEP_S)
        self._places = self._placeable(gate)

    @staticmethod
    def _placeable(gate: Gate) -> dict[str, str]:
        """Return the hosts that have joined and whose Ray node is known, with their places."""
        known = {name for node in ray.nodes() if node["Alive"] for name in node["Resources"]}
        return {host: place for host, place in gate.joined().items() if place in known}

    def resources(self, host: str) -> dict[str, float] | None:
        """Return what places an actor on a host that is there."""
        return None if self._gate is None else {LOCAL if host == LOCAL else self._places[host]: 0.001}

    def is_there(self, host: str) -> bool:
        return host == LOCAL or host in self._places

    def changes(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return the hosts that are gone, and those that have come, since the last call."""
        if self._gate is None:
            return frozenset(), frozenset()
        joined = self._gate.joined()
        gone = frozenset(host for host, place in self._places.items() if joined.get(host) != place)
        for host in gone:
            del self._places[host]
        come = self._placeable(self._gate) if joined.keys() - self._places.keys() else {}
        new = frozenset(come.keys() - self._places.keys())
        self._places |= come
        return gone, new

    def clocks(self) -> Mapping[str, ClockOffset]:
        """Return how far the clocks of the other hosts are from this one's."""
        return {} if self._gate is None else self._gate.clocks()

    def machine_faults(self) -> list[str]:
        """Return what is wrong with the machines of the other hosts."""
        return [] if self._gate is None else self._gate.faults()

    def stop(self) -> None:
        """End Ray, let the other hosts go, and end what is left on this one."""
        self._starting.end()
        children = psutil.Process().children(recursive=True)
        if self._gate is not None:
            self._gate.close()
        if ray.is_initialized():
            ray.shutdown()
        self._starting.leave()
        if self._node is not None:
            with contextlib.suppress(OSError, psutil.Error):
                stop_node(self._node)
        _, alive = psutil.wait_procs(children, timeout=0.5)
        for child in alive:
            child.kill()
        psutil.wait_procs(alive, timeout=1)
        shutil.rmtree(Path(self._folder), ignore_errors=True)


__all__ = ["RayCluster", "Stopped"]
