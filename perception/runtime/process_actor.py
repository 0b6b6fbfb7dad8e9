"""The Ray side of one process of a graph: an actor that holds its worker. Knows nothing of Ray itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perception.runtime.graph import Graph
from perception.runtime.topology import Topology

if TYPE_CHECKING:
    from perception.runtime.playback import PlaybackState


@dataclass(frozen=True)
class Prepared:
    """A process whose nodes are made and warm."""

    pid: int
    endpoint: str
    """Where processes on other hosts read it; empty where none does."""


class ProcessActor:
    """Methods run in threads of their own."""

    def __init__(self, process: str) -> None:
        self.process = process
        self._worker: Any = None

    def prepare(self, graph: Graph, topology: Topology, run: str, epoch: int) -> Prepared:
        """Make nodes and channels."""
        from perception.runtime.allocator import keep_freed_memory
        from perception.runtime.lockstep_worker import LockstepWorker
        from perception.runtime.worker import Worker

        keep_freed_memory()
        kind = LockstepWorker if graph.mode == "lockstep" else Worker
        self._worker = kind(graph, topology, self.process, run, epoch)
        return Prepared(os.getpid(), self._worker.endpoint)

    def connect(self, endpoints: Mapping[str, str]) -> None:
        """Read these processes on other hosts at these endpoints from now on."""
        self._worker.connect(endpoints)

    def is_read(self) -> bool:
        """True where all readers on other hosts have reached this process."""
        return bool(self._worker.is_read())

    def start(self) -> None:
        self._worker.start()

    def wait(self) -> None:
        """Return when the worker was stopped; raises what ended it otherwise."""
        self._worker.wait()

    def ended(self) -> tuple[bool, bool]:
        """Return whether its sources have ended (True where it has none), and whether nothing waits."""
        return self._worker.sources_ended(), self._worker.is_idle()

    def begin_anew(self, epochs: Mapping[str, int], reason: str) -> None:
        """Hold the sources, and forget what belongs to the past."""
        self._worker.begin_anew(epochs, reason)

    def go(self, t_ns: int | None) -> None:
        """Let the sources begin, at this time of their log where one is given."""
        self._worker.go(t_ns)

    def play(self, action: str, value: float) -> list[PlaybackState]:
        """Pause, resume, step or change the rate of the sources, and return how they play."""
        return list(self._worker.play(action, value))

    def wraps(self) -> tuple[bool, bool]:
        """Return whether a source wants to begin again, and whether nothing waits."""
        return self._worker.wraps(), self._worker.is_idle()

    def stop(self) -> None:
        self._worker.stop()


__all__ = ["Prepared", "ProcessActor"]
