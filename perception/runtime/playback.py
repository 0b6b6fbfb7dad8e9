"""The pace of one source that can be told: it waits for each stamp's turn, pauses, steps, and begins anew elsewhere.

What it gave out before it began anew may still be under way to the scheduler. So each turn has a number, that of the
beginning which it belongs to, and what bears an older one is not used any more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

from perception.runtime.node import Position
from perception.runtime.turns import Turns


@dataclass(frozen=True)
class PlaybackState:
    """How a source plays."""

    source: str
    rate: float
    paused: bool
    position: Position | None
    """None where the source has no log, and cannot seek."""


class Playback:
    """The pace of one source.

    Args:
        rate: seconds of the source's time in one second.
        frames: topics of which a step gives out one message; where empty, it is one of any topic.
    """

    def __init__(self, rate: float, frames: Collection[str] = ()) -> None:
        self.rate, self.paused, self.beginning = rate, False, 0
        self._frames = frozenset(frames)
        self._turns = Turns(rate)
        self._steps = 0
        self._held = self._stopped = False
        self._changed = threading.Condition()

    def turn(self, topic: str, t_ns: int) -> int | None:
        """Wait for the turn of a message and return the beginning that it belongs to; None where it has none any more.

        Args:
            topic: of the message.
            t_ns: its stamp.
        """
        with self._changed:
            beginning = self.beginning
            while not self._stopped and beginning == self.beginning:
                if self.paused:
                    if self._steps:
                        self._steps -= not self._frames or topic in self._frames
                        return beginning
                    self._changed.wait()
                    continue
                wait_s = self._turns.wait_s(t_ns, time.monotonic())
                if wait_s <= 0:
                    return beginning
                self._changed.wait(wait_s)
        return None

    def wait_for_go(self) -> bool:
        """Wait until everything has begun anew; False where the run ends instead."""
        with self._changed:
            while self._held and not self._stopped:
                self._changed.wait()
            return not self._stopped

    def pause(self) -> None:
        """Give out nothing until `resume` or `step`."""
        with self._changed:
            self.paused, self._steps = True, 0

    def resume(self) -> None:
        """Go on from here."""
        with self._changed:
            self.paused, self._turns = False, Turns(self.rate)
            self._changed.notify_all()

    def set_rate(self, rate: float) -> None:
        """Go on at another pace."""
        with self._changed:
            self.rate, self._turns = rate, Turns(rate)
            self._changed.notify_all()

    def step(self, count: int = 1) -> None:
        """Pause, and give out what comes up to the next frame, `count` times."""
        with self._changed:
            self.paused = True
            self._steps += count
            self._changed.notify_all()

    def act(self, action: str, value: float) -> None:
        """Do what is asked for by name; anything else changes nothing."""
        match action:
            case "pause":
                self.pause()
            case "resume":
                self.resume()
            case "rate":
                self.set_rate(value)
            case "step":
                self.step(round(value))

    def begin_anew(self) -> None:
        """Take the turn from everything that waits, and hold what comes until `go`."""
        with self._changed:
            self.beginning += 1
            self._held, self._steps = True, 0
            self._changed.notify_all()

    def hold(self) -> None:
        """Let the source wait, at its end, for `go`."""
        with self._changed:
            self._held = True

    def go(self) -> None:
        """Let the source begin."""
        with self._changed:
            self._held = False
            self._turns = Turns(self.rate)
            self._changed.notify_all()

    def stop(self) -> None:
        """End all waiting."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


__all__ = ["Playback", "PlaybackState"]
