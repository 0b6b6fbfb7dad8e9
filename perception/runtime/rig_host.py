"""A host of a rig: joins the launch host's graphs, one after the other, and runs the processes that are placed on it.

`perception host NAME` is a loop around this. Between two launches nothing runs here. When the launch host is gone, or
the graph has ended, Ray's processes end, and with them the nodes; shared memory and sockets are removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

from perception.errors import ChannelError, LaunchFileError, UserError
from perception.runtime.machine import MachineWatch
from perception.runtime.ray_node import RAY_ENVIRONMENT
from perception.runtime.rig_link import Session, accepted, forward, introduced, machine_id, mirror, ports_of, read_token
from perception.runtime.run_lock import RunLock
from perception.runtime.shared_memory import memory_id, remove_leftovers, root_of
from perception.version import __version__

RETRY_S = 1.0
SILENT_S = 5.0
START_S = 60.0
LOOK_S = 2.0
"""How often this machine is looked at."""
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class HostSettings:
    """How this host finds its launch host."""

    name: str
    launch_host: str
    port: int


def serve_host(settings: HostSettings, say: Callable[[str], None], stop: Callable[[], bool]) -> None:
    """Join every launch on the launch host until `stop` says so.

    Raises:
        UserError: this host has no rig token, the launch host refuses it, or a host of this name runs here already.
    """
    token, _ = read_token()
    _adopt_orphans()
    try:
        lock = RunLock(f"host-{settings.name}")
    except LaunchFileError as error:
        running = f"a host named '{settings.name}' runs on this machine already; stop it first"
        raise UserError(running if "running" in str(error) else str(error)) from None
    with lock:
        waiting = False
        while not stop():
            try:
                asyncio.run(_Membership(settings, token, lock, say).serve(stop))
                waiting = False
            except (ChannelError, OSError, TimeoutError) as error:
                if not waiting:
                    say(f"waiting for a launch on {settings.launch_host}:{settings.port} ({error or 'no answer'})")
                waiting = True
            until_s = time.monotonic() + RETRY_S
            while time.monotonic() < until_s and not stop():
                time.sleep(0.05)


def _adopt_orphans() -> None:
    """Stay the parent of what Ray starts here when Ray's own processes die first, so that nothing is missed."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class _Membership:
    """The time from joining one launch to its end."""

    def __init__(self, settings: HostSettings, token: str, lock: RunLock, say: Callable[[str], None]) -> None:
        self.settings, self.token, self.lock, self.say = settings, token, lock, say
        self._servers: list[asyncio.Server] = []
        self._ray: subprocess.Popen[str] | None = None
        self._machine, self._faults, self._next_look_s = MachineWatch(), list[str](), 0.0

    async def serve(self, stop: Callable[[], bool]) -> None:
        settings = self.settings
        want = {"host": settings.name, "machine": machine_id(), "version": __version__}
        session = await introduced(settings.launch_host, settings.port, self.token, want)
        try:
            answer = await session.receive()
            if "error" in answer:
                raise UserError(f"{settings.launch_host} refuses host '{settings.name}': {answer['error']}")
            if "wait" in answer:
                raise ChannelError("the launch is not ready yet")
            await self._run(session, answer, stop)
        finally:
            session.writer.close()

    async def _run(self, session: Session, answer: dict[str, Any], stop: Callable[[], bool]) -> None:
        memory = memory_id(str(answer["run"]), int(answer["index"]))
        self.lock.adopt(memory)
        self.say(f"joined run {answer['run']} of {self.settings.launch_host}")
        try:
            if not answer["same_machine"]:
                await self._carry_ports(answer)
            await self._start_ray(session, answer, memory)
            self.say("ready")
            await self._answer_until_the_end(session, stop)
        finally:
            for server in self._servers:
                server.close()
            self._end_ray()
            remove_leftovers(memory)
            self.say(f"left run {answer['run']}; nothing of it is left here")

    async def _carry_ports(self, answer: dict[str, Any]) -> None:
        """Open this host's gate, and mirror the ports of all other hosts."""
        port, hosts = int(answer["port"]), dict(answer["hosts"])
        own = ports_of(port, int(answer["index"]))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ChannelError, OSError, asyncio.CancelledError):
                await forward(await accepted(reader, writer, self.token), own.all())
            writer.close()

        try:
            self._servers.append(await asyncio.start_server(serve, hosts[self.settings.name], port))
        except OSError as error:
            raise ChannelError(f"{hosts[self.settings.name]}:{port}, this host's gate: {error.strerror}") from None
        others = [(self.settings.launch_host, 0)]
        others += [(address, place + 1) for place, (name, address) in enumerate(hosts.items())]
        for address, place in others:
            if place != int(answer["index"]):
                self._servers += await mirror(address, port, self.token, ports_of(port, place).all())

    async def _start_ray(self, session: Session, answer: dict[str, Any], memory: str) -> None:
        folder = root_of(memory) / "ray"
        folder.mkdir(parents=True, exist_ok=True)
        port, index = int(answer["port"]), int(answer["index"])
        settings = {
            "place": answer["place"], "folder": str(folder), "first_port": ports_of(port, index).first,
            "gcs_port": ports_of(port, 0).gcs,
        }  # fmt: skip
        environment = {**os.environ, **RAY_ENVIRONMENT, "RAY_AUTH_TOKEN": session.masked(str(answer["ray_token"]))}
        environment.setdefault("OMP_NUM_THREADS", "1")
        self._ray = subprocess.Popen(
            [sys.executable, "-m", "perception.runtime.ray_node"], env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._ray.stdin is not None
        assert self._ray.stdout is not None
        self._ray.stdin.write(json.dumps(settings) + "\n")
        self._ray.stdin.flush()
        self.lock.note_processes([os.getpid(), self._ray.pid])
        reading = asyncio.get_running_loop().run_in_executor(None, self._ray.stdout.readline)
        until_s = time.monotonic() + START_S
        while not reading.done():
            await self._answer(session, ready=False)
            if time.monotonic() > until_s:
                self._end_ray()  # the reading ends with it
                raise ChannelError(f"Ray is not up after {START_S:.0f} s")
        if "ready" not in await reading:
            raise ChannelError("Ray does not start here")
        self.lock.note_processes([os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))])

    async def _answer_until_the_end(self, session: Session, stop: Callable[[], bool]) -> None:
        assert self._ray is not None
        while self._ray.poll() is None and not stop():
            try:
                await self._answer(session, ready=True)
            except ChannelError:
                return

    async def _answer(self, session: Session, *, ready: bool) -> None:
        await session.receive(SILENT_S)
        if time.monotonic() >= self._next_look_s:
            self._next_look_s = time.monotonic() + LOOK_S
            self._faults = self._machine.faults()
        await session.send(clock_ns=time.time_ns(), ready=ready, faults=self._faults)

    def _end_ray(self) -> None:
        if self._ray is None:
            return
        family = psutil.Process().children(recursive=True)
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._ray.wait()
        psutil.wait_procs(family, timeout=3)
        for pipe in (self._ray.stdin, self._ray.stdout):
            if pipe is not None:
                pipe.close()
        self._ray = None


__all__ = ["HostSettings", "serve_host"]
