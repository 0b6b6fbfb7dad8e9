"""One process of a running graph: its nodes, its channels, one scheduler thread, and a thread per source.

The loop takes what has arrived, runs one call, and takes again, so that a node always sees the newest there is; where
nothing may run it sleeps until another process, or a source of its own, wakes it. A source publishes from its own
thread while the loop sleeps: `_driving` is held by whoever uses the nodes and channels. Python's garbage collector runs
while nothing waits, not in the middle of a frame.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping

import msgspec
import numpy as np
import psutil
from numpy.typing import NDArray

from perception.errors import PerceptionError
from perception.messages import Header, Message, NodeStatus, Status, Timing
from perception.messages.codec import decode
from perception.runtime.channels import Channels
from perception.runtime.cores import keep_to_cores
from perception.runtime.graph import Graph, NodeSpec
from perception.runtime.group import Group
from perception.runtime.histories import AFTER_ALL, BEFORE_ALL
from perception.runtime.node import Bound, Node, Source
from perception.runtime.node_factory import make_node
from perception.runtime.output_stamper import RunContext
from perception.runtime.pacing import PacedSource
from perception.runtime.topology import Topology, status_topic
from perception.runtime.turns import Turns

LOG = logging.getLogger(__name__)
IDLE_S = 0.5
"""Whoever has something for this process wakes it; so long it waits where nobody does."""
STATUS_S = 1.0


class Worker:
    """One process.

    Args:
        graph: the whole graph.
        topology: its channels.
        process: the name of this process.
        run: the run id.
        epoch: how often this process was started before in this run.

    Raises:
        PerceptionError: a node cannot be made, or shared memory cannot be used.
    """

    def __init__(self, graph: Graph, topology: Topology, process: str, run: str, epoch: int) -> None:
        self.graph, self.topology, self.process = graph, topology, process
        self._specs = graph.processes()[process]
        keep_to_cores(core for spec in self._specs for core in spec.cores)  # before any engine starts its threads
        self.nodes: dict[str, Node] = {spec.name: make_node(spec, graph) for spec in self._specs}
        context = RunContext(
            run=graph.name if graph.mode == "lockstep" else run,  # headers are functions of the input alone
            epoch=epoch,
            calibration=graph.calibration,
            lockstep=graph.mode == "lockstep",
            clock_ns=time.time_ns,
        )
        self._context = context
        self._channels = self._opened_channels(run)
        self.group = Group(graph, self.nodes, context, self._channels.emit, self._channels.bound)
        self._pacers = {
            spec.name: PacedSource(spec, graph) for spec in self._specs if spec.is_source and spec.paced_by is not None
        }
        self._newest_bounds = [BEFORE_ALL] * len(topology.topics)
        self._inbox: deque[tuple[NodeSpec, str, Message | Bound]] = deque()
        self._driving = threading.Lock()
        self._stop = threading.Event()
        self._sources_running = 0
        self._status_seq = 0
        self._next_status_s = 0.0
        self._resting = False
        self._last_seq: dict[str, tuple[int, int]] = {}
        self.failure: PerceptionError | None = None

    def _opened_channels(self, run: str) -> Channels:
        return Channels(self.graph, self.topology, self.process, run)

    @property
    def endpoint(self) -> str:
        """Where processes on other hosts read this one; empty where none does."""
        return self._channels.endpoint

    def connect(self, endpoints: Mapping[str, str]) -> None:
        """Read these processes on other hosts at these endpoints from now on."""
        self._channels.connect(endpoints)

    def is_read(self) -> bool:
        """True where all readers on other hosts have reached this process."""
        with self._driving:
            return self._channels.is_read()

    def start(self) -> None:
        """Start the threads; the nodes are made and warm."""
        gc.collect()
        gc.freeze()
        gc.disable()
        self._start_sources()
        self._thread = threading.Thread(target=self._loop_safely, name="scheduler", daemon=True)
        self._thread.start()

    def _start_sources(self) -> None:
        for spec in self._specs:
            source = self.nodes[spec.name]
            if isinstance(source, Source):
                self._sources_running += 1
                thread = threading.Thread(target=self._read_source, args=(spec, source), name=spec.name, daemon=True)
                thread.start()

    def stop(self) -> None:
        """Ask the threads to end."""
        self._stop.set()
        self._channels.wake()

    def wait(self) -> None:
        """Wait until the scheduler has ended.

        Raises:
            PerceptionError: what ended it, where it was not `stop`.
        """
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def sources_ended(self) -> bool:
        """True where all sources of this process have given their last message."""
        return self._sources_running == 0 and not self._inbox

    def is_idle(self) -> bool:
        """True where nothing that arrived waits to be run."""
        return self._resting and not self._inbox and self.group.is_idle()

    def _loop_safely(self) -> None:
        try:
            self._loop()
        except PerceptionError as error:
            self.failure = error
        except Exception as error:  # a bug: the process ends, and the launcher starts it anew
            LOG.exception("process '%s' failed", self.process)
            self.failure = PerceptionError(f"process '{self.process}' failed: {type(error).__name__}: {error}")

    def _loop(self) -> None:
        while not self._stop.is_set():
            with self._driving:
                busy = self._take_and_run()
                now_s = time.monotonic()
                if now_s >= self._next_status_s:
                    self._next_status_s = now_s + STATUS_S
                    self._send_status()
            self._resting = not busy
            if self._resting:
                gc.collect(0)
                self._channels.sleep(min(IDLE_S, max(0.001, self._next_status_s - now_s)))
        with self._driving:
            self._send_status()
            self._channels.close()

    def _take_and_run(self) -> bool:
        """Take what has arrived and run at most one call; False where there was neither."""
        took = self._take_bounds_and_messages()
        ran = self.group.step()
        if not ran and (took or self._channels.reads_bounds or self._channels.gives_bounds):
            self.group.forward_bounds()
            ran = self.group.step()
        if self._channels.bounds_moved:
            self._channels.give_bounds()
        return took or ran

    def _take_bounds_and_messages(self) -> bool:
        """Take what has arrived. Bounds are read first and used last: they were sent after their messages."""
        rows = self._channels.take_bounds()
        took = bool(rows)
        for topic, reader in self._channels.readers.items():
            while (record := reader.take()) is not None:
                took = True
                self._take_record(topic, record)
        for row in rows:
            self._take_bounds(row)
        took |= self._take_inbox()
        for pacing in self._pacers.values():
            took |= pacing.release(self.group, self._newest_bounds, self._channels.rank)
        return took

    def _take_record(self, topic: str, record: memoryview) -> None:
        try:
            message = decode(record, self.graph.message_types[topic])
        except PerceptionError as error:
            LOG.error("a record on '%s' cannot be read: %s", topic, error)
            return
        self._count_gap(topic, message.header)
        self.group.offer(topic, message)

    def _take_bounds(self, row: NDArray[np.int64]) -> None:
        """Take the bounds of one process' topics, then which have ended; of other topics it says nothing."""
        topics = self.topology.topics
        for place, t_ns in enumerate(row.tolist()):
            if t_ns > BEFORE_ALL:
                rank = place % len(topics)
                self._newest_bounds[rank] = t_ns
                if topics[rank] in self._channels.readers:
                    self.group.bound(topics[rank], t_ns)

    def _take_inbox(self) -> bool:
        """Publish what the sources of this process measured."""
        took = False
        while self._inbox:
            took = True
            spec, topic, item = self._inbox.popleft()
            if isinstance(item, Bound):
                self.group.source_bound(topic, item.t_ns)
                continue
            took_from = self._pacers.get(spec.name)
            if took_from is not None:
                took_from.offer(topic, item)
                continue
            self.group.source_message(spec.name, topic, item)
            if getattr(self.nodes[spec.name], "paced", False):
                for output in spec.outputs.values():
                    self.group.source_bound(output, item.header.t_sensor_ns)
        return took

    def _hand_over(self, spec: NodeSpec, topic: str, item: Message | Bound) -> None:
        """Publish from the source's own thread where the scheduler rests; else, and for nodes beside it, wake it."""
        self._inbox.append((spec, topic, item))
        if self._pacers or not self._driving.acquire(blocking=False):
            self._channels.wake()
            return
        try:
            self._take_inbox()
            if self._channels.bounds_moved:
                self._channels.give_bounds()
        finally:
            self._driving.release()
        if self.group.executors:
            self._channels.wake()

    def _count_gap(self, topic: str, header: Header) -> None:
        """Count what the channel replaced before it was read: it reports nothing itself.

        Who publishes begins at 0, after its readers; only a reader that was itself started anew comes in between.
        """
        was_there = topic in self._last_seq or self._context.epoch == 0
        epoch, seq = self._last_seq.get(topic, (header.epoch, -1 if was_there else header.seq - 1))
        self._last_seq[topic] = (header.epoch, header.seq)
        lost = header.seq - (seq if epoch == header.epoch else -1) - 1
        if lost > 0:
            self.group.count_drop(topic, "channel full", lost)

    def _read_source(self, spec: NodeSpec, source: Source) -> None:
        """Hand what a source measures to the scheduler; a paced one waits for each stamp's turn."""
        turns = Turns(self.graph.rate)
        try:
            for topic, item in source.messages():
                t_ns = item.t_ns if isinstance(item, Bound) else item.header.t_sensor_ns
                if source.paced and self._stop.wait(turns.wait_s(t_ns, time.monotonic())):
                    return
                if self._stop.is_set():
                    return
                self._hand_over(spec, topic, received(item))
            for topic in spec.outputs.values():
                self._inbox.append((spec, topic, Bound(AFTER_ALL)))
        except PerceptionError as error:
            self.failure = error
            self._stop.set()
        except Exception as error:
            LOG.exception("source '%s' failed", spec.name)
            self.failure = PerceptionError(f"source '{spec.name}' failed: {type(error).__name__}: {error}")
            self._stop.set()
        finally:
            self._sources_running -= 1
            self._next_status_s = 0.0  # said at once
            self._channels.wake()

    def status(self) -> Status:
        """Return how the nodes of this process are doing."""
        memory_mb = psutil.Process().memory_info().rss / 1e6
        header = Header(
            frame_id="",
            t_sensor_ns=time.time_ns(),
            run=self._context.run,
            epoch=self._context.epoch,
            seq=self._status_seq,
        )
        self._status_seq += 1
        nodes = [self._noted(executor.status(memory_mb)) for executor in self.group.executors.values()]
        nodes += [self._source_status(spec, memory_mb) for spec in self._specs if spec.is_source]
        refused, now = self._channels.refused()
        if refused:
            nodes = [_with_refused(node, refused, now) for node in nodes]
        return Status(
            header=header, process=self.process, host=os.uname().nodename, pid=os.getpid(), nodes=tuple(nodes),
            sources_ended=self.sources_ended(), links=self._channels.links(),
        )  # fmt: skip

    def _noted(self, status: NodeStatus) -> NodeStatus:
        """Name a node that holds on to more views than it may, so that records had to be copied for it."""
        readers = self._channels.readers
        copied = sum(readers[entry.topic].copied for entry in status.inputs if entry.topic in readers)
        if not copied:
            return status
        note = f"{status.node} keeps more views than it declared by holds: {copied} records copied"
        return msgspec.structs.replace(status, notes=(*status.notes, note))

    def _source_status(self, spec: NodeSpec, memory_mb: float) -> NodeStatus:
        return NodeStatus(
            node=spec.name, state="ok", epoch=self._context.epoch, inputs=(),
            published=dict(self.group.sources[spec.name].published), latency_p50_ms=0.0, latency_p99_ms=0.0,
            memory_mb=memory_mb, degraded=self.nodes[spec.name].degraded,
            notes=(*self.nodes[spec.name].notes, *self._held_back(spec.name)),
        )  # fmt: skip

    def _held_back(self, source: str) -> tuple[str, ...]:
        pacing = self._pacers.get(source)
        if pacing is None or not pacing.pacer.held_back:
            return ()
        return tuple(f"paced by {pacing.paced_by}: {n} of {t} held back" for t, n in pacing.pacer.held_back.items())

    def _send_status(self) -> None:
        self._channels.bounds_moved = True  # told again, for a process that was started anew
        self._channels.emit(status_topic(self.process), self.status())


def _with_refused(status: NodeStatus, refused: tuple[str, ...], now: bool) -> NodeStatus:
    if now:
        return msgspec.structs.replace(status, degraded=(*status.degraded, *refused))
    return msgspec.structs.replace(status, notes=(*status.notes, *refused))


def received(item: Message | Bound) -> Message | Bound:
    """Return a source's message with the time at which it was received, unless its driver gave that."""
    if isinstance(item, Bound) or item.timing.t_received_ns:
        return item
    return msgspec.structs.replace(item, timing=Timing(t_received_ns=time.time_ns()))


__all__ = ["Worker"]
