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

import msgspec
import psutil

from perception.errors import PerceptionError
from perception.messages import Header, Message, NodeStatus, Status, Timing
from perception.messages.codec import decode, encode
from perception.runtime.cores import keep_to_cores
from perception.runtime.graph import Graph, NodeSpec
from perception.runtime.group import Group
from perception.runtime.histories import AFTER_ALL, BEFORE_ALL
from perception.runtime.node import Bound, Node, Source
from perception.runtime.node_factory import make_node
from perception.runtime.output_stamper import RunContext
from perception.runtime.ownership import on_host
from perception.runtime.pacing import PacedSource
from perception.runtime.shared_memory import SharedMemoryHost, Waker
from perception.runtime.topology import Topology, status_topic

LOG = logging.getLogger(__name__)
IDLE_S = 0.2
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
            run=run,
            epoch=epoch,
            calibration=graph.calibration,
            lockstep=graph.mode == "lockstep",
            clock_ns=time.time_ns,
        )
        self._context = context
        self.group = Group(graph, self.nodes, context, self._emit, self._emit_bound)
        self._pacers = {
            spec.name: PacedSource(spec, graph) for spec in self._specs if spec.is_source and spec.paced_by is not None
        }
        self._open_channels(run)
        self._inbox: deque[tuple[NodeSpec, str, Message | Bound]] = deque()
        self._driving = threading.Lock()
        self._stop = threading.Event()
        self._sources_running = 0
        self._status_seq = 0
        self._resting = False
        self._last_seq: dict[str, tuple[int, int]] = {}
        self.failure: PerceptionError | None = None

    def _open_channels(self, run: str) -> None:
        topology = self.topology
        self._memory = SharedMemoryHost(run, self.process, topology.limits(), topology.processes())
        published = [topic for topic, process in topology.publisher.items() if process == self.process]
        self._writers = {topic: self._memory.writer(topic) for topic in published if topology.readers.get(topic)}
        self._readers = {
            reading.topic: self._memory.reader(reading.topic, reading.buffer, reading.borrowed)
            for reading in topology.readings.get(self.process, ())
        }
        others = {process for topic in published for process in topology.readers.get(topic, ())}
        self._wakers: dict[str, Waker] = {process: self._memory.waker(process) for process in others}
        self._wakers_by_topic = {
            topic: [self._wakers[process] for process in topology.readers.get(topic, ())] for topic in published
        }
        self._self_waker = self._memory.waker(self.process)
        self._sleeper = self._memory.sleeper(self.process)
        count, waited_for = len(topology.topics), topology.reads_bounds.get(self.process, frozenset())
        self._rank = {topic: rank for rank, topic in enumerate(topology.topics)}
        self._bounds = [BEFORE_ALL] * count
        self._bounds_moved = False
        given_to = [process for process, others in topology.reads_bounds.items() if self.process in others]
        self._bounds_writer = self._memory.bounds_writer(self.process, count) if given_to else None
        self._bounds_wakers = [self._memory.waker(process) for process in given_to]
        self._bounds_readers = [self._memory.bounds_reader(process, count) for process in sorted(waited_for)]
        self._newest_bounds = [BEFORE_ALL] * count

    def start(self) -> None:
        """Start the threads; the nodes are made and warm."""
        gc.collect()
        gc.freeze()
        gc.disable()
        for spec in self._specs:
            source = self.nodes[spec.name]
            if isinstance(source, Source):
                self._sources_running += 1
                thread = threading.Thread(target=self._read_source, args=(spec, source), name=spec.name, daemon=True)
                thread.start()
        self._thread = threading.Thread(target=self._loop_safely, name="scheduler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the threads to end."""
        self._stop.set()
        self._self_waker.wake()

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
        next_status_s = time.monotonic()
        while not self._stop.is_set():
            with self._driving:
                busy = self._take_and_run()
                now_s = time.monotonic()
                if now_s >= next_status_s:
                    self._send_status()
                    next_status_s = now_s + STATUS_S
            self._resting = not busy
            if self._resting:
                gc.collect(0)
                self._sleeper.sleep(min(IDLE_S, max(0.001, next_status_s - now_s)))
        with self._driving:
            self._send_status()

    def _take_and_run(self) -> bool:
        """Take what has arrived and run at most one call; False where there was neither."""
        took = self._take_bounds_and_messages()
        ran = self.group.step()
        if not ran and (took or self._bounds_readers or self._bounds_writer):
            self.group.forward_bounds()
            ran = self.group.step()
        if self._bounds_moved:
            self._write_bounds()
        return took or ran

    def _take_bounds_and_messages(self) -> bool:
        """Take what has arrived. Bounds are read first and used last: they were sent after their messages."""
        rows = [row for reader in self._bounds_readers if (row := reader.take()) is not None]
        took = bool(rows)
        for topic, reader in self._readers.items():
            while (record := reader.take()) is not None:
                took = True
                try:
                    message = decode(record, self.graph.message_types[topic])
                except PerceptionError as error:
                    LOG.error("a record on '%s' cannot be read: %s", topic, error)
                    continue
                self._count_gap(topic, message.header)
                self.group.offer(topic, message)
        for row in rows:
            self._newest_bounds = list(map(max, self._newest_bounds, row.tolist()))
            for topic in self._readers:
                if (rank := self._rank.get(topic)) is not None and row[rank] > BEFORE_ALL:
                    self.group.bound(topic, int(row[rank]))
        took |= self._take_inbox()
        for pacing in self._pacers.values():
            took |= pacing.release(self.group, self._newest_bounds, self._rank)
        return took

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
            self._self_waker.wake()
            return
        try:
            self._take_inbox()
            if self._bounds_moved:
                self._write_bounds()
        finally:
            self._driving.release()
        if self.group.executors:
            self._self_waker.wake()

    def _count_gap(self, topic: str, header: Header) -> None:
        """Count what the channel replaced before it was read: it reports nothing itself."""
        epoch, seq = self._last_seq.get(topic, (header.epoch, header.seq - 1))
        self._last_seq[topic] = (header.epoch, header.seq)
        if epoch == header.epoch and header.seq > seq + 1:
            self.group.count_drop(topic, "channel full", header.seq - seq - 1)

    def _emit(self, topic: str, message: Message) -> None:
        writer = self._writers.get(topic)
        if writer is None:
            return
        writer.write(encode(on_host(message, self.process, time.time_ns)))
        for waker in self._wakers_by_topic[topic]:
            waker.wake()

    def _emit_bound(self, topic: str, t_ns: int) -> None:
        self._bounds[self._rank[topic]] = t_ns
        self._bounds_moved = True

    def _write_bounds(self) -> None:
        self._bounds_moved = False
        if self._bounds_writer is None:
            return
        self._bounds_writer.write(self._bounds)
        for waker in self._bounds_wakers:
            waker.wake()

    def _read_source(self, spec: NodeSpec, source: Source) -> None:
        """Hand what a source measures to the scheduler; a paced one waits for each stamp's turn."""
        started_s, first_ns = time.monotonic(), None
        try:
            for topic, item in source.messages():
                t_ns = item.t_ns if isinstance(item, Bound) else item.header.t_sensor_ns
                if source.paced:
                    first_ns = t_ns if first_ns is None else first_ns
                    turn_s = started_s + (t_ns - first_ns) / 1e9 / self.graph.rate
                    if self._stop.wait(max(0.0, turn_s - time.monotonic())):
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
            self._self_waker.wake()

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
        return Status(
            header=header, process=self.process, host=os.uname().nodename, pid=os.getpid(), nodes=tuple(nodes)
        )

    def _noted(self, status: NodeStatus) -> NodeStatus:
        """Name a node that holds on to more views than it may, so that records had to be copied for it."""
        copied = sum(self._readers[entry.topic].copied for entry in status.inputs if entry.topic in self._readers)
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
        self._bounds_moved = True  # told again, for a process that was started anew
        self._emit(status_topic(self.process), self.status())


def received(item: Message | Bound) -> Message | Bound:
    """Return a source's message with the time at which it was received, unless its driver gave that."""
    if isinstance(item, Bound) or item.timing.t_received_ns:
        return item
    return msgspec.structs.replace(item, timing=Timing(t_received_ns=time.time_ns()))


__all__ = ["Worker"]
