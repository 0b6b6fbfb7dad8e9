"""Pause, step, seek and change the pace of a running replay: what a person asks, and what the launcher does for it.

Requests come over the publisher's snapshot socket, under the same rules of who may connect, or from the keys of the
launching terminal. A seek, and a log that begins again, let everything begin anew: each process forgets what it holds
(queues, joins, histories, tracks) and takes nothing older any more, before a source goes on. The launcher does not wait
for it: it goes on publishing and watching.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from perception.errors import PerceptionError, UserError
from perception.runtime.deadlines import Deadlines
from perception.runtime.graph import Graph
from perception.runtime.health import Health
from perception.runtime.node import Position
from perception.runtime.playback import PlaybackState
from perception.runtime.ray_runner import RayRunner
from perception.runtime.replay_request import ReplayAnswer, ReplayRequest

LOWEST_RATE, HIGHEST_RATE, MOST_STEPS = 0.001, 1000.0, 10_000
NOT_OPEN = (
    "the endpoint is open to other machines without CURVE keys, so that anybody could ask; "
    "a replay is told what to do on loopback, ipc, or by key"
)
NOT_IN_LOCKSTEP = (
    "a lockstep replay follows stamps alone: it has no pace that could be changed, and leaves nothing out. "
    "--mode realtime can be paused, stepped and sought in"
)
LOOK_S = 0.2
WRAP_S = 1.0
"""How long a log that begins again waits for what is still under way."""


class ReplayControl:
    """Does what requests ask, for a graph that runs as processes.

    Args:
        graph: the checked graph.
        runner: its processes.
        health: told when time stands still.
        deadlines: likewise.
        begun: called with the epoch of each process when everything has begun anew.
    """

    def __init__(
        self,
        graph: Graph,
        runner: RayRunner,
        health: Health,
        deadlines: Deadlines,
        begun: Callable[[Mapping[str, int]], None],
    ) -> None:
        self._sources = sum(node.is_source for node in graph.nodes)
        self._runner, self._health, self._deadlines, self._begun = runner, health, deadlines, begun
        self._loops = any(getattr(node.config, "loop", False) for node in graph.nodes if node.is_source)
        self._wraps_since_s: float | None = None
        self._paused = self._begins_anew = False
        self._target_ns: int | None = None
        self._next_look_s = 0.0

    def do(self, request: ReplayRequest) -> ReplayAnswer:
        """Do what is asked, or say why not."""
        try:
            states = self._states()
            if request.action != "status":
                self._do(request, states)
                states = self._states()
        except PerceptionError as error:
            return ReplayAnswer(error=str(error))
        position = states[0].position
        if position is None:
            return ReplayAnswer(states[0].paused, states[0].rate)
        now_s, end_s = self._now_s(position), (position.end_ns - position.start_ns) / 1e9
        return ReplayAnswer(states[0].paused, states[0].rate, now_s, end_s)

    def _now_s(self, position: Position) -> float:
        """Return where the log is, or will be when everything has begun anew."""
        now_ns = self._target_ns if self._begins_anew and self._target_ns is not None else position.now_ns
        return (now_ns - position.start_ns) / 1e9

    def _states(self) -> list[PlaybackState]:
        states = self._runner.play("status")
        if not states or len(states) < self._sources:
            raise UserError("this graph reads live sensors, which go on by themselves; a replay can be paused")
        return states

    def _do(self, request: ReplayRequest, states: list[PlaybackState]) -> None:
        action, value = request.action, request.value
        if action == "toggle":
            action = "resume" if states[0].paused else "pause"
        if action == "rate" and not LOWEST_RATE <= value <= HIGHEST_RATE:
            raise UserError(f"rate {value:g}: expected {LOWEST_RATE:g} to {HIGHEST_RATE:g}")
        if action == "step" and not (1 <= value <= MOST_STEPS and value == int(value)):
            raise UserError(f"step {value:g}: expected a whole number from 1 to {MOST_STEPS}")
        if action in ("seek", "skip"):
            self._seek(value, states, from_here=action == "skip")
            return
        self._runner.play(action, value)
        self._deadlines.forget()
        now_ns = time.time_ns()
        if action in ("pause", "step"):
            self._paused = True
            self._health.pause(now_ns, "the replay is paused")
        elif action == "resume":
            self._paused = False
            if not self._begins_anew:
                self._health.resume(now_ns)

    def _seek(self, seconds: float, states: list[PlaybackState], *, from_here: bool) -> None:
        for state in states:
            position = state.position
            if position is None:
                raise UserError(f"source '{state.source}' has no log in which to seek; it can pause, step and resume")
        assert position is not None
        length_s = (position.end_ns - position.start_ns) / 1e9
        if from_here:
            seconds = min(max(0.0, self._now_s(position) + seconds), length_s)
        if not 0 <= seconds <= length_s:
            raise UserError(f"{seconds:g} s is not in the log; expected 0 to {length_s:.3f}")
        self._begin_anew("seek", position.start_ns + round(seconds * 1e9))

    def look(self) -> None:
        """Go on with what takes time: all nodes beginning anew, and a log that has come to its end."""
        if self._begins_anew:
            self._finish_beginning()
        elif self._loops and time.monotonic() >= self._next_look_s:
            self._next_look_s = time.monotonic() + LOOK_S
            self._look_for_loop()

    def _look_for_loop(self) -> None:
        """Let a log that has come to its end begin again, when what is under way has arrived."""
        wraps, idle = self._runner.wrap()
        if not wraps:
            return
        now_s = time.monotonic()
        if self._wraps_since_s is None:
            self._wraps_since_s = now_s
            self._health.pause(time.time_ns())
        if idle or now_s - self._wraps_since_s > WRAP_S:
            self._wraps_since_s = None
            self._begin_anew("loop", None)

    def _begin_anew(self, reason: str, t_ns: int | None) -> None:
        """Let everything begin anew; nobody waits for a node's call, and another seek meanwhile changes the place."""
        self._target_ns = t_ns
        if self._begins_anew:
            return
        self._begun(self._runner.begin_anew(reason))
        self._begins_anew = True
        self._health.pause(time.time_ns(), "" if self._paused else "the replay begins anew")
        self._finish_beginning()

    def _finish_beginning(self) -> None:
        if not self._runner.have_begun():
            return
        self._begins_anew = False
        self._runner.go(self._target_ns)
        self._deadlines.forget()
        now_ns = time.time_ns()
        self._health.begin_anew(now_ns)
        if not self._paused:
            self._health.resume(now_ns)


__all__ = ["NOT_IN_LOCKSTEP", "NOT_OPEN", "ReplayControl"]
