"""One process of a running graph: its nodes, its channels, one scheduler thread, and a thread per source.

The loop takes what has arrived, runs one call, and takes again, so that a node always sees the newest there is; where
nothing may run it sleeps until another process, or a source of its own, wakes it. A source publishes from its own
thread while the loop sleeps: `_driving` is held by whoever uses the nodes and channels. Python's garbage collector runs
while nothing waits, not in the middle of a frame.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from perception.errors import PerceptionError
from perception.messages import Message
from perception.messages.codec import decode
from perception.runtime.cadence import Lookout
from perception.runtime.channels import Channels
from perception.runtime.cores import EveryOtherCore, keep_to_cores
from perception.runtime.graph import Graph, NodeSpec
from perception.runtime.group import Group
from perception.runtime.histories import AFTER_ALL, BEFORE_ALL
from perception.runtime.node import Bound, Node
from perception.runtime.node_factory import make_node
from perception.runtime.output_stamper import RunContext
from perception.runtime.pacing import PacedSource
from perception.runtime.playback import PlaybackState
from perception.runtime.rehearsal import COLD_S, Rehearsal
from perception.runtime.sequence_gaps import SequenceGaps
from perception.runtime.sources import Sources
from perception.runtime.spare_time import IDLE_S, SpareTime
from perception.runtime.status_teller import StatusTeller
from perception.runtime.topology import Topology, distance_to_keep, status_topic

LOG = logging.getLogger(__name__)
BOUNDS_S = 0.005
"""Bounds are given on at least so often, however much there is to run."""
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
        self._context, self._driving = context, threading.Lock()
        self._channels = channels = self._opened_channels(run)
        self.group = Group(graph, self.nodes, context, channels.emit, channels.bound, channels.announce)
        if graph.mode != "lockstep":
            self.group.place_outputs(self.nodes, channels.places, self._driving)
        self._pacers = {
            spec.name: PacedSource(spec, graph) for spec in self._specs if spec.is_source and spec.paced_by is not None
        }
        self._distance = distance_to_keep(graph, topology, process)
        self._sources = Sources(
            graph, self.nodes, self.group.sources, self._distance, self._hand_over, self._fail, self._tell_now
        )
        self._newest_bounds = [BEFORE_ALL] * len(topology.topics)
        self._inbox: deque[tuple[NodeSpec, str, Message | Bound, int]] = deque()
        self._beginnings: deque[tuple[Mapping[str, int], str, threading.Event]] = deque()
        self._began_by = ""
        self._stopping = self._resting = False
        self._rehearsal = Rehearsal(channels.loop, context, reads=bool(channels.readers), writes=channels.writes())
        self._spare_time = SpareTime(channels.sleeper, is_always=context.lockstep)
        self._lookout = Lookout(self._sources.due_s) if self._only_measures() else None
        self._teller = StatusTeller(self._specs, self.nodes, self.group, self._channels, self._pacers, context)
        self._next_status_s = self._bounds_due_s = 0.0
        self._has_bounds = self._channels.has_bounds or bool(self._pacers) or len(self.group.executors) > 1
        self._gaps = SequenceGaps()
        self.failure: PerceptionError | None = None

    def _opened_channels(self, run: str) -> Channels:
        return Channels(self.graph, self.topology, self.process, run, self._context.epoch)

    def _only_measures(self) -> bool:
        """True where nobody ever wakes this process."""
        reads = self.group.executors or self._channels.readers or self._channels.reads_bounds
        return bool(self.group.sources) and not reads and not self._context.lockstep

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
        self._sources.start()

    def stop(self) -> None:
        """Ask the threads to end."""
        self._stopping = True
        self._sources.stop()
        self._channels.wake()

    def begin_anew(self, epochs: Mapping[str, int], reason: str) -> None:
        """Hold the sources, and forget what belongs to the past, in nodes and channels.

        Args:
            epochs: by process, of what comes from now on; what has an older one is dropped and counted.
            reason: why, for the nodes.

        Returns when the call that a node is in has ended, or the process ends.
        """
        self._sources.hold()
        done = threading.Event()
        self._beginnings.append((epochs, reason, done))
        self._channels.wake()
        while not done.wait(IDLE_S) and not self._stopping:
            pass

    def go(self, t_ns: int | None = None) -> None:
        """Let the sources begin, at this time of their log where one is given.

        Raises:
            UserError: a source cannot seek, or not there.
        """
        self._sources.go(t_ns)

    def play(self, action: str, value: float = 1.0) -> list[PlaybackState]:
        """Let all sources do what `Playback.act` can, and return how they play then."""
        states = self._sources.play(action, value)
        self._tell_now()
        return states

    def wraps(self) -> bool:
        """True where a source has come to its end and wants to begin again."""
        return self._sources.wrap()

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
        return self._sources.have_ended() and not self._inbox

    def is_idle(self) -> bool:
        """True where nothing that arrived waits to be run."""
        return self._resting and not self._inbox and self.group.is_idle()

    def _loop_safely(self) -> None:
        try:
            self._loop()
        except Exception as error:  # noqa: BLE001 - told; the process ends, and the launcher starts it anew
            self._fail(f"process '{self.process}'", error)

    def _fail(self, who: str, error: Exception) -> None:
        """Take what ends this process; what is no error of ours is a bug, and logged."""
        if not isinstance(error, PerceptionError):
            LOG.error("%s failed", who, exc_info=error)
            error = PerceptionError(f"{who} failed: {type(error).__name__}: {error}")
        self.failure = error  # before whoever waits for the end looks for it
        self.stop()

    def _loop(self) -> None:
        core = EveryOtherCore(self._distance)
        while not self._stopping:
            with self._driving:
                while self._beginnings:
                    self._begin(*self._beginnings.popleft())
                busy = self._take_and_run()
                now_s = time.monotonic()
                if busy:
                    core.settle()
                    self._spare_time.ran(now_s)
                is_time = self._lookout is not None and self._lookout.is_time(now_s)
                if is_time or self._spare_time.is_there(now_s):
                    self._settle(now_s)
                    core.leave_out()
                if now_s >= self._next_status_s:
                    self._next_status_s = now_s + STATUS_S
                    self._send_status()
            self._resting = not busy
            if is_time:
                self._rehearsal.go_round(self._channels.sleeper.is_rung)
                core.settle()
            elif self._resting:
                self._rehearse(now_s)
            if self._resting:
                self._sleep(now_s)
        with self._driving:
            self._send_status()
            self._channels.close()

    def _settle(self, now_s: float) -> None:
        """Do what was not needed to send the outputs."""
        self._channels.settle(answers_at_once=self.group.is_quick())
        self.group.settle()
        self._rehearsal.settle()
        gc.collect(0)
        self._spare_time.use(now_s)

    def _rehearse(self, now_s: float) -> None:
        """Practise where a record comes in a moment and is taken quickly, after a time in which there was none."""
        sleeper = self._channels.sleeper
        if sleeper.is_announced and self._spare_time.idle_s(now_s) > COLD_S and self.group.is_light():
            self._rehearsal.go_round(sleeper.is_rung)
            self._spare_time.owe(now_s)

    def _sleep(self, now_s: float) -> None:
        rest_s = min(self._spare_time.rest_s(), max(0.001, self._next_status_s - now_s))
        if self._lookout is None:
            self._channels.sleep(rest_s)
        else:
            self._channels.sleeper.sleep_precisely(min(rest_s, self._lookout.rest_s(now_s)))

    def _begin(self, epochs: Mapping[str, int], reason: str, done: threading.Event) -> None:
        self._inbox.clear()
        for pacing in self._pacers.values():
            pacing.begin_anew()
        self._context.epoch, self._began_by = epochs[self.process], reason
        self.group.begin_anew(reason)
        self._newest_bounds = [BEFORE_ALL] * len(self._newest_bounds)
        self._channels.begin_anew(epochs)
        self._teller.begin_anew()
        done.set()

    def _take_and_run(self) -> bool:
        """Take what has arrived and run at most one call; False where there was neither."""
        took = self._take_bounds_and_messages()
        ran = self.group.step()
        if self._has_bounds and self._shall_forward(took=took, ran=ran):
            self.group.forward_bounds()
            self._bounds_due_s = time.monotonic() + BOUNDS_S
            ran = ran or self.group.step()
        if self._channels.bounds_moved:
            self._channels.give_bounds()
        return took or ran

    def _shall_forward(self, *, took: bool, ran: bool) -> bool:
        """True where nothing more runs for now, or where it has run on and on."""
        if ran:
            return not self._resting and time.monotonic() > self._bounds_due_s
        return took or not self._resting or self._channels.has_bounds

    def _take_bounds_and_messages(self) -> bool:
        """Take what has arrived. Bounds are read first and used last: they were sent after their messages."""
        rows = self._channels.take_bounds() if self._channels.reads_bounds else ()
        took = bool(rows)
        for topic, reader in self._channels.readers.items():
            while (record := reader.take()) is not None:
                took = True
                self._take_record(topic, record)
        for row in rows:
            self._take_bounds(row)
        if self._inbox:
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
        header = message.header
        if self._began_by and self._channels.is_outdated(topic, header):
            self.group.count_drop(topic, self._began_by, 1)
            return
        if lost := self._gaps.lost(topic, header, was_there=self._context.epoch == 0):
            self._take_gap(topic, lost)
        self.group.offer(topic, message)

    def _take_bounds(self, row: NDArray[np.int64]) -> None:
        """Take the bounds of one process' topics, and which have ended; of other topics it says nothing.

        Of what has ended the last bound is told once, before the end: behind it, it would be a clock that was set back.
        """
        topics, bounds = self.topology.topics, row.tolist()
        for rank, topic in enumerate(topics):
            known = self._newest_bounds[rank] == AFTER_ALL == bounds[len(topics) + rank]
            for t_ns in () if known else (bounds[rank], bounds[len(topics) + rank]):
                if t_ns > BEFORE_ALL:
                    self._newest_bounds[rank] = t_ns
                    if topic in self._channels.readers:
                        self.group.bound(topic, t_ns)

    def _take_inbox(self) -> bool:
        """Publish what the sources of this process measured."""
        took = bool(self._inbox)
        while self._inbox:
            spec, topic, item, beginning = self._inbox.popleft()
            if self._sources.is_outdated(spec.name, beginning):
                continue
            took_from = self._pacers.get(spec.name)
            if isinstance(item, Bound):
                if took_from is not None and item.t_ns == AFTER_ALL:
                    took_from.end(topic)  # it says so itself, once it holds nothing back
                else:
                    self.group.source_bound(topic, item.t_ns)
                continue
            if took_from is not None:
                took_from.offer(topic, item)
                continue
            self.group.source_message(spec.name, topic, item)
            if self._sources.is_paced(spec.name):
                for output in spec.outputs.values():
                    self.group.source_bound(output, item.header.t_sensor_ns)
        return took

    def _hand_over(self, spec: NodeSpec, topic: str, item: Message | Bound, beginning: int) -> None:
        """Publish from the source's own thread where the scheduler rests; else, and for nodes beside it, wake it."""
        self._inbox.append((spec, topic, item, beginning))
        if self._pacers or not self._driving.acquire(blocking=False):
            self._channels.wake()
            return
        try:
            if not isinstance(item, Bound):
                self._channels.announce_once(topic)
            self._take_inbox()
            if self._channels.bounds_moved:
                self._channels.give_bounds()
            if self._lookout is None or not self._lookout.is_planned:
                self._channels.settle(answers_at_once=self.group.is_quick())
        finally:
            self._driving.release()
        if self.group.executors:
            self._channels.wake()

    def _take_gap(self, topic: str, lost: int) -> None:
        if lost > 0:
            self.group.count_drop(topic, "channel full", lost)

    def _tell_now(self) -> None:
        self._next_status_s = 0.0
        self._channels.wake()

    def _send_status(self) -> None:
        self._channels.bounds_moved = True  # told again, for a process that was started anew
        status = self._teller.status(sources_ended=self.sources_ended())
        self._channels.emit(status_topic(self.process), status)


__all__ = ["Worker"]
