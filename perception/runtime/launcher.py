"""Start a checked graph, publish its outputs, watch it, record it, and end it."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, TypeAlias

import msgspec

from perception.errors import GraphError, UserError
from perception.messages import GraphState, LinkStatus, Message, NodeStatus, SensorState, Status
from perception.messages.codec import encode, with_timing
from perception.runtime.allocator import keep_freed_memory
from perception.runtime.curve_keys import publisher_keys
from perception.runtime.deadlines import Deadlines, record_of
from perception.runtime.graph import Graph
from perception.runtime.health import Health
from perception.runtime.inline_runner import run_inline
from perception.runtime.launcher_reading import LauncherReading
from perception.runtime.lockstep import as_processes
from perception.runtime.machine import MachineWatch
from perception.runtime.publisher import Publisher
from perception.runtime.ray_runner import Event, RayRunner, Stopped
from perception.runtime.recorder import Recorder
from perception.runtime.replay_control import NOT_IN_LOCKSTEP, NOT_OPEN, ReplayControl
from perception.runtime.replay_request import ReplayAnswer, ReplayRequest, request_of, told
from perception.runtime.run_lock import RunLock
from perception.runtime.topology import topology_of

TICK_S = 0.1
STATE_S = 0.5
DRAIN_S = 0.5
OWN_TOPICS = ("status", "state")


@dataclass
class Summary:
    """What a run gave."""

    outputs: Counter[str] = field(default_factory=Counter)
    """Messages by published topic."""
    statuses: dict[str, NodeStatus] = field(default_factory=dict)
    links: dict[str, tuple[LinkStatus, ...]] = field(default_factory=dict)
    """By process, what crossed between hosts."""
    lost_processes: list[str] = field(default_factory=list)
    missed: Counter[str] = field(default_factory=Counter)
    """Records by topic that the launcher was too slow for: neither published nor recorded."""
    restarts: int = 0
    seconds: float = 0.0
    late: Counter[str] = field(default_factory=Counter)
    """Missed deadlines by published topic."""
    missing_outputs: list[str] = field(default_factory=list)
    """Required outputs without a message."""
    recording: str = ""
    recording_dropped: int = 0
    last_state: GraphState | None = None

    def exit_code(self) -> int:
        """1 where a required output never came or a process was lost for good."""
        return 1 if self.missing_outputs else 0


OnStatus = Callable[[Summary], None]
OnLine = Callable[[str], None]
Runner: TypeAlias = Literal["inline", "ray"]


def run_graph(
    graph: Graph,
    *,
    duration_s: float | None = None,
    stop: threading.Event | None = None,
    on_line: OnLine = lambda line: None,
    on_status: OnStatus = lambda summary: None,
    recorder: Recorder | None = None,
    runner: Runner = "inline",
    commands: deque[ReplayRequest] | None = None,
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> Summary:
    """Run a graph until its sources end, `duration_s` after its first message, or until `stop` is set.

    Args:
        graph: the checked graph.
        duration_s: seconds from the first source message.
        stop: set it to end the run.
        on_line: called with what a person wants to know when it happens: progress, lost and restarted processes.
        on_status: called twice a second with the summary so far.
        recorder: gets every record of the graph.
        runner: what runs a lockstep replay: one loop in this process, or a process each as live; the bytes are equal.
        commands: what the launching terminal asks of the replay; taken off as it is done.
        files: what a recording of the graph holds beside its messages, for who records it from elsewhere.

    Raises:
        LaunchFileError: the name or the endpoint is in use.
        PerceptionError: a node cannot be made, or the graph cannot go on.
    """
    stop = stop or threading.Event()
    keep_freed_memory()
    if graph.mode == "lockstep" and runner == "ray":
        if any(getattr(node.config, "loop", False) for node in graph.nodes):
            raise UserError("a lockstep replay on processes ends with its log; leave --loop out, or run it inline")
        graph = as_processes(graph, None if duration_s is None else round(duration_s * 1e9))
    with RunLock(graph.name) as lock:
        keys = None if graph.curve_keys is None else publisher_keys(graph.curve_keys)
        publisher = Publisher(
            graph.endpoint, len(graph.outputs) + len(OWN_TOPICS), keys=keys, open_endpoint=graph.open_endpoint,
            files=files,
        )  # fmt: skip
        try:
            lock.note_endpoint(graph.endpoint)
            run = _Run(graph, lock, publisher, recorder=recorder, stop=stop, on_line=on_line, on_status=on_status,
                       commands=commands)  # fmt: skip
            if graph.mode == "lockstep" and runner == "inline":
                return run.inline(duration_s)
            return run.on_ray(duration_s)
        finally:
            publisher.close()


class _Run:
    """One run; both ways to run share publishing, health and recording."""

    def __init__(
        self,
        graph: Graph,
        lock: RunLock,
        publisher: Publisher,
        *,
        recorder: Recorder | None,
        stop: threading.Event,
        on_line: OnLine,
        on_status: OnStatus,
        commands: deque[ReplayRequest] | None = None,
    ) -> None:
        self.graph, self.lock, self.publisher, self.recorder, self.stop = graph, lock, publisher, recorder, stop
        self.on_line, self.on_status, self._commands = on_line, on_status, deque() if commands is None else commands
        self.health = Health(graph, time.time_ns())
        self.summary = Summary()
        self._publish_as = {output.topic: output for output in graph.outputs}
        self._sensor_topics = {topic for sensor in graph.sensors for topic in sensor.topics}
        self._sources = {topic for node in graph.nodes if node.is_source for topic in node.outputs.values()}
        self._sensor_states: dict[str, SensorState] = {}
        self.deadlines = Deadlines(graph)
        self._sources_ended = dict.fromkeys(graph.processes(), False)
        self._state_seq = 0
        self._next_state_s = 0.0
        self._recording_ended = False
        folders = [] if recorder is None else [recorder.folder]
        self._machine, self._own_faults, self._next_look_s = MachineWatch(folders), list[str](), 0.0
        self.first_message_s: float | None = None

    def inline(self, duration_s: float | None) -> Summary:
        """Run in this process, in lockstep's order; equal inputs give equal bytes."""
        self.on_line("lockstep: all nodes run in this process, one after the other")

        def handle(topic: str, message: Message) -> None:
            self.handle(topic, message, encode(message).to_bytes(), time.time_ns())
            self._take_requests(None)

        result = run_inline(
            replace(self.graph, mode="lockstep"), on_message=handle, stop=self.stop, run=self.graph.name,
            duration_ns=None if duration_s is None else round(duration_s * 1e9),
        )  # fmt: skip
        self.summary.statuses = {status.node: status for status in result.statuses}
        return self.finished()

    def on_ray(self, duration_s: float | None) -> Summary:
        """Run as processes."""
        topology = topology_of(self.graph, recorded=self.recorder is not None)
        reading = LauncherReading(self.graph, topology, self.lock.run, self.on_line)
        runner = RayRunner(self.graph, topology, self.lock.run, self.on_line, self.stop, reading.connect)
        try:
            runner.prepare()
            self.lock.note_processes([*runner.pids(), _own_pid()])
            runner.start()
            self.health = Health(self.graph, time.time_ns())  # sensors are not late for what start-up took
            self.on_line("running")
            if self.graph.mode == "lockstep":
                self._watch_lockstep(runner, reading)
            else:
                control = ReplayControl(self.graph, runner, self.health, self.deadlines, reading.begin_anew)
                self._watch(runner, reading, control, duration_s)
        except Stopped:
            self.on_line("stopped before it ran")
        finally:
            self.summary.restarts = runner.restarts
            runner.stop()
            self._drain(reading)
            reading.close()
        return self.finished()

    def _drain(self, reading: LauncherReading) -> None:
        for topic, message, record in reading.messages(self.summary.missed):
            self.handle(topic, message, record, time.time_ns())

    def _watch_lockstep(self, runner: RayRunner, reading: LauncherReading) -> None:
        """Watch until everything has gone through; no wall clock takes part in what is published.

        Raises:
            GraphError: a process was lost, or something that it gave out.
        """
        next_poll_s = 0.0
        while not self.stop.is_set():
            self._drain(reading)
            now_s = time.monotonic()
            if now_s >= next_poll_s:
                next_poll_s = now_s + 2 * TICK_S
                for event in runner.poll():
                    lost = f"process '{event.name}' is lost: {event.reason}"
                    raise GraphError(f"{lost}; a lockstep replay has no holes, so it ends here")
                self._tell_status(now_s)
                if all(self._sources_ended.values()) and runner.have_ended():
                    self._drain(reading)
                    return
            self.publisher.greet()
            self._take_requests(None)
            reading.sleep(TICK_S)

    def _tell_recording(self) -> None:
        """Say once that the recording has ended, when it has: the graph goes on without it."""
        if self.recorder is not None and self.recorder.stopped and not self._recording_ended:
            self._recording_ended = True
            self.on_line(f"the recording has ended, the graph goes on: {self.recorder.stopped}")

    def _tell_status(self, now_s: float) -> None:
        if now_s >= self._next_state_s:
            self._tell_recording()
            self._next_state_s = max(self._next_state_s + STATE_S, now_s)
            self.on_status(self.summary)

    def _watch(
        self, runner: RayRunner, reading: LauncherReading, control: ReplayControl, duration_s: float | None
    ) -> None:
        next_poll_s = 0.0
        idle_since_s: float | None = None
        while not self.stop.is_set():
            self._drain(reading)
            now_s = time.monotonic()
            if (
                self.first_message_s is not None
                and duration_s is not None
                and now_s - self.first_message_s >= duration_s
            ):
                return
            if now_s >= next_poll_s:
                next_poll_s = now_s + 2 * TICK_S
                for event in runner.poll():
                    self._take_event(event, runner)
                self.health.host_clocks(runner.clocks())
                if now_s >= self._next_look_s:
                    self._next_look_s = now_s + self.graph.machine_check_s
                    self._own_faults = self._machine.faults()
                self.health.machine_faults([*self._own_faults, *runner.machine_faults()])
                self._tell_state()
                if all(self._sources_ended.values()) and runner.have_ended():
                    idle_since_s = idle_since_s or now_s
                    if now_s - idle_since_s > DRAIN_S:
                        return
                else:
                    idle_since_s = None
            self._stand_in()
            self._tell_state()
            self.publisher.greet()
            self._take_requests(control)
            control.look()
            reading.sleep(TICK_S)

    def _take_requests(self, control: ReplayControl | None) -> None:
        """Do what is asked of the replay; without `control` it is decided by stamps alone, and nothing can be asked."""
        while self._commands:
            answer = self._done(self._commands.popleft(), control)
            if answer.error:
                self.on_line(f"replay: {answer.error}")
        while (asked := self.publisher.take_request()) is not None:
            try:
                if not self.publisher.may_be_asked():
                    raise UserError(NOT_OPEN)
                answer = self._done(request_of(asked.data), control)
            except UserError as error:
                answer = ReplayAnswer(error=str(error))
            self.publisher.reply(asked, msgspec.json.encode(answer))

    def _done(self, request: ReplayRequest, control: ReplayControl | None) -> ReplayAnswer:
        if control is None:
            return ReplayAnswer(error=NOT_IN_LOCKSTEP)
        answer = control.do(request)
        if request.action != "status" and not answer.error:
            self.on_line(f"replay: {request.action}; {told(answer)}")
        return answer

    def _take_event(self, event: Event, runner: RayRunner) -> None:
        reason = f": {event.reason}" if event.reason else ""
        if event.kind in ("host lost", "host joined"):
            lost = event.kind == "host lost"
            self.health.host_changed(event.name, lost=lost)
            self.on_line(f"host '{event.name}' {'is lost; the rest goes on' if lost else 'has joined'}{reason}")
            return
        nodes = [node.name for node in self.graph.processes()[event.name]]
        if event.kind == "lost":
            self.health.process_lost(nodes)
            self.summary.lost_processes.append(event.name)
        else:
            self.health.process_back(nodes)
            self.lock.note_processes([*runner.pids(), _own_pid()])
        self.on_line(f"process '{event.name}' {event.kind}{reason}")

    def handle(self, topic: str, message: Message, record: bytes | memoryview, now_ns: int) -> None:
        """Take one message of the graph."""
        if isinstance(message, Status):
            if message.links:
                self.summary.links[message.process] = message.links
            self._sources_ended[message.process] = message.sources_ended
            for status in message.nodes:
                self.health.node_status(status, now_ns)
                self.summary.statuses[status.node] = status
            self.publisher.publish("status", record)
            return
        if self.first_message_s is None and topic in self._sources:
            self.first_message_s = time.monotonic()
        if topic in self._sensor_topics:
            self.health.sensor_message(topic, message, now_ns)
        self.deadlines.seen(topic, message, now_ns)
        output = self._publish_as.get(topic)
        if output is not None and self.deadlines.arrived(topic, message):
            self.health.output_message(topic, now_ns)
            self.summary.outputs[output.publish_as] += 1
            self.publisher.publish(output.publish_as, published(message, record, output.deadline_ns, now_ns))
        if self.recorder is not None:
            self.recorder.record(topic, record, now_ns)

    def _stand_in(self) -> None:
        """Publish what stands in for outputs whose deadline has passed."""
        if self.health.is_paused():
            return
        now_ns = time.time_ns()
        for output, message in self.deadlines.due(now_ns):
            if message is not None:
                self.publisher.publish(output.publish_as, record_of(message, now_ns))
        self.summary.late = self.deadlines.missed

    def _tell_state(self) -> None:
        now_s = time.monotonic()
        if now_s < self._next_state_s:
            return
        self._next_state_s = max(self._next_state_s + STATE_S, now_s)
        self._tell_recording()
        state = self.health.state(time.time_ns(), self._state_seq, self.lock.run, self.deadlines.missed)
        self._state_seq += 1
        self.summary.last_state = state
        record = encode(state).to_bytes()
        self.publisher.publish("state", record)
        if self.recorder is not None:
            self.recorder.record("state", record, state.header.t_sensor_ns)
        self.on_status(self.summary)

    def finished(self) -> Summary:
        """Complete the summary."""
        summary = self.summary
        summary.seconds = 0.0 if self.first_message_s is None else time.monotonic() - self.first_message_s
        summary.missing_outputs = [
            output.publish_as
            for output in self.graph.outputs
            if output.required and not summary.outputs[output.publish_as]
        ]
        return summary


def published(message: Message, record: bytes | memoryview, deadline_ns: int | None, now_ns: int) -> bytes:
    """Return a record with the time of publication and whether its deadline was met; its content is not touched.

    Args:
        message: what the record says.
        record: as its node wrote it.
        deadline_ns: from the sensor's data arriving here to publication; None for none.
        now_ns: host time.
    """
    since_ns = message.timing.t_received_ns
    met = None if deadline_ns is None or not since_ns else now_ns - since_ns <= deadline_ns
    timing = msgspec.structs.replace(message.timing, t_published_ns=now_ns, deadline_met=met)
    return with_timing(record, timing, before=message.timing)


def _own_pid() -> int:
    import os

    return os.getpid()


__all__ = ["Summary", "published", "run_graph"]
