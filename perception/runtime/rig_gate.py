"""The launch host's side of the rig's link: admits the other hosts, notices when one is gone, and compares clocks.

A thread of its own with one asyncio loop. A host that joins keeps its connection open; once a second each is asked for
its clock, and one that does not answer within `SILENT_S` is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from perception.errors import ChannelError, LaunchFileError
from perception.runtime.graph import Network
from perception.runtime.rig_link import Session, accepted, forward, machine_id, mirror, ports_of
from perception.version import __version__

ASK_S = 1.0
SILENT_S = 3.0
CLOCK_SAMPLES = 8


@dataclass(frozen=True)
class ClockOffset:
    """How far another host's clock is ahead of this host's, and how well that is known."""

    offset_ns: int
    error_ns: int


@dataclass
class _Joined:
    place: str
    faults: tuple[str, ...] = ()
    samples: deque[ClockOffset] = field(default_factory=lambda: deque(maxlen=CLOCK_SAMPLES))


class Gate:
    """See the module's text.

    Args:
        network: addresses and ports.
        token: the rig's token.
        run: the run id.
        ray_token: Ray's token of this run; whoever joins gets it, hidden from who listens.

    Raises:
        LaunchFileError: the interface is none of this host, or its port is in use.
    """

    def __init__(self, network: Network, token: str, run: str, ray_token: str) -> None:
        self.network, self._token, self._run, self._ray_token = network, token, run, ray_token
        self._open = False
        self._joined: dict[str, _Joined] = {}
        self._joins = 0
        self.refused: list[str] = []
        """Why somebody was turned away, for the launcher to say."""
        self._loop = asyncio.new_event_loop()
        started: threading.Event = threading.Event()
        self._failures: list[OSError] = []
        self._thread = threading.Thread(target=self._run_loop, args=(started,), name="rig gate", daemon=True)
        self._thread.start()
        started.wait()
        for failure in self._failures:
            self._thread.join()
            raise LaunchFileError(
                f"network: rig_interface {network.rig_interface}, port {network.port}: {failure.strerror}; "
                "expected an address of this host and a free port"
            )

    def open(self) -> None:
        """Admit hosts from now on: Ray is up."""
        self._open = True

    def joined(self) -> Mapping[str, str]:
        """Return the hosts that are there, each with the name of its place: another one each time that it joins."""
        return {host: joined.place for host, joined in list(self._joined.items())}

    def clocks(self) -> Mapping[str, ClockOffset]:
        """Return the clock of each host that is there, by the sample with the shortest way."""
        return {
            host: min(joined.samples, key=lambda sample: sample.error_ns)
            for host, joined in list(self._joined.items())
            if joined.samples
        }

    def faults(self) -> list[str]:
        """Return what is wrong with the machines of the hosts that are there."""
        return [f"host {host}: {fault}" for host, joined in list(self._joined.items()) for fault in joined.faults]

    def close(self) -> None:
        """Let all hosts go; each of them ends what it runs and cleans up."""
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=2)

    def _run_loop(self, started: threading.Event) -> None:
        try:
            self._loop.run_until_complete(self._serve(started))
        finally:
            started.set()
            self._loop.close()

    async def _serve(self, started: threading.Event) -> None:
        self._stop = asyncio.Event()
        try:
            server = await asyncio.start_server(self._answer, self.network.rig_interface, self.network.port)
        except OSError as error:
            self._failures.append(error)
            return
        started.set()
        await self._stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}  # those of mirrored ports too
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            session = await accepted(reader, writer, self._token)
            if "pipe" in session.want:
                await forward(session, ports_of(self.network.port, 0).all())
            else:
                await self._admit(session)
        except (ChannelError, OSError) as error:
            self.refused.append(str(error))
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()

    async def _admit(self, session: Session) -> None:
        host = str(session.want.get("host"))
        if not self._open:
            await session.send(wait=True)
            return
        fault = self._fault(host, session)
        if fault:
            self.refused.append(f"host '{host}': {fault}")
            await session.send(error=fault)
            return
        same = session.want.get("machine") == machine_id()
        self._joins += 1
        place = f"host:{host}:{self._joins}"
        index = list(self.network.hosts).index(host) + 1
        await session.send(
            run=self._run, ray_token=session.masked(self._ray_token), index=index, place=place, same_machine=same,
            hosts=dict(self.network.hosts), port=self.network.port, clock_ns=time.time_ns(),
        )  # fmt: skip
        servers = []
        if not same:
            address = self.network.hosts[host]
            servers = await mirror(address, self.network.port, self._token, ports_of(self.network.port, index).all())
        try:
            await self._keep(host, place, session)
        finally:
            self._joined.pop(host, None)
            for server in servers:
                server.close()

    def _fault(self, host: str, session: Session) -> str:
        if host not in self.network.hosts:
            return f"the launch file has no such host; its hosts: {', '.join(self.network.hosts)}"
        if host in self._joined:
            return "a host of this name has joined already"
        theirs = session.want.get("version")
        return "" if theirs == __version__ else f"it runs perception {theirs}, the launch host {__version__}"

    async def _keep(self, host: str, place: str, session: Session) -> None:
        """Ask for the host's clock as long as it answers."""
        joined: _Joined | None = None
        with contextlib.suppress(ChannelError):
            while True:
                sent_ns = time.time_ns()
                await session.send(clock=True)
                answer = await session.receive(SILENT_S)
                now_ns = time.time_ns()
                their_ns = int(answer.get("clock_ns", 0))
                if joined is None and answer.get("ready"):
                    joined = self._joined[host] = _Joined(place)
                if joined is not None:
                    way_ns = (now_ns - sent_ns) // 2
                    joined.faults = tuple(map(str, answer.get("faults", ())))
                    joined.samples.append(ClockOffset(their_ns - (sent_ns + way_ns), way_ns))
                await asyncio.sleep(ASK_S if joined is not None else 0.2)


__all__ = ["ClockOffset", "Gate"]
