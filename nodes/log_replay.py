"""Replay a recorded log as the sensors that made it.

out: the log's topics, under their own names or as `remap` says.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from perception.errors import UserError
from perception.logs.log import Log
from perception.logs.open_log import open_logs
from perception.messages import EventPacket, Message, host
from perception.ops.event_clock import ClockModel
from perception.runtime.node import Bound, NodeConfig, NodeSetup, Position, Source
from perception.runtime.ownership import frozen

LOG = logging.getLogger(__name__)


class ReplayClock(NodeConfig):
    """A clock of the log against the host's."""

    offset_ns: int
    """Host time minus the clock's."""
    drift_ppm: Annotated[float, Field(ge=-500, le=500)] = 0.0
    """By how much the host's clock runs faster."""
    at_ns: int = 0
    """Time of the clock at which the offset holds."""


class LogReplayConfig(NodeConfig):
    """Settings of a replay."""

    path: Path | None = None
    """A file or folder that `perception log info` knows; by default the log of `perception launch --replay LOG`."""
    more: tuple[Path, ...] = ()
    """Further logs, of any formats, on the same timeline."""
    from_ns: int | None = None
    """First stamp wanted."""
    until_ns: int | None = None
    """First stamp not wanted any more."""
    loop: bool = False
    """Begin again at the end; stamps go on, so that time never jumps back."""
    remap: dict[str, str] = Field(default_factory=dict)
    """New name by the log's topic."""
    topics: tuple[str, ...] | None = None
    """Topics to publish, by their new names; all if not given."""
    clocks: dict[str, ReplayClock] = Field(default_factory=dict)
    """Clocks by name whose messages, events and triggers get host time, such as that of an event camera."""
    assume_rate_hz: Annotated[float, Field(gt=0)] = 10.0
    """Rate of sensors where the log holds no times."""


class LogReplay(Source):
    """A source in the order of the log's stamps."""

    Config = LogReplayConfig
    paced = True

    @classmethod
    def create(cls, config: LogReplayConfig, setup: NodeSetup) -> Self:
        return cls(config, _opened(config))

    @classmethod
    def topics(cls, config: LogReplayConfig, setup: NodeSetup) -> Mapping[str, type[Message]]:
        log = _opened(config)
        found = {config.remap.get(topic, topic): kind for topic, kind in log.topics().items()}
        return {topic: kind for topic, kind in found.items() if config.topics is None or topic in config.topics}

    def __init__(self, config: LogReplayConfig, log: Log) -> None:
        super().__init__(config)
        self.log = log
        self.clocks = {
            name: ClockModel(clock.offset_ns, clock.drift_ppm, clock.at_ns) for name, clock in config.clocks.items()
        }
        self.notes = (*log.notes, *(clock.line(name) for name, clock in self.clocks.items()))
        self._from_ns, self._shift_ns = config.from_ns, 0
        self._last_ns: int | None = None
        self._now_ns: int | None = None

    def messages(self) -> Iterator[tuple[str, Message | Bound]]:
        config, log = self.config, self.log
        wanted = [
            topic for topic in log.topics() if config.topics is None or config.remap.get(topic, topic) in config.topics
        ]
        self._last_ns = None
        for topic, message in log.messages(self._from_ns, config.until_ns, wanted):
            self._last_ns = self._now_ns = message.header.t_sensor_ns
            at_host_time = by_host_clock(message, self.clocks.get(message.header.clock))
            yield config.remap.get(topic, topic), frozen(shifted(at_host_time, self._shift_ns))
            self._tell_skipped()
        self._tell_skipped()

    def seek(self, t_ns: int) -> None:
        place = self.place()
        if not place.start_ns <= t_ns <= place.end_ns:
            at_s, end_s = (t_ns - place.start_ns) / 1e9, (place.end_ns - place.start_ns) / 1e9
            raise UserError(f"{at_s:g} s is not in the log; expected 0 to {end_s:.3f}")
        self._from_ns, self._now_ns, self._shift_ns = t_ns, t_ns, 0

    def place(self) -> Position:
        span, config = self.log.span(), self.config
        end_ns = span.end_ns if config.until_ns is None else min(span.end_ns, config.until_ns)
        return Position(span.start_ns, end_ns, self._start_ns() if self._now_ns is None else self._now_ns)

    def wraps(self) -> bool:
        if not self.config.loop or self._last_ns is None:
            return False
        self._from_ns = self.config.from_ns
        self._shift_ns += max(1, self._last_ns - self._start_ns()) + round(1e9 / self.config.assume_rate_hz)
        return True

    def _start_ns(self) -> int:
        return self.log.span().start_ns if self._from_ns is None else self._from_ns

    def _tell_skipped(self) -> None:
        self.degraded = tuple(f"skipped {count}: {reason}" for reason, count in self.log.skipped.items())


def _opened(config: LogReplayConfig) -> Log:
    if config.path is None:
        raise UserError("a log_replay node has no log: give its setting path, or perception launch --replay LOG")
    return open_logs((config.path, *config.more), assume_rate_hz=config.assume_rate_hz)


def by_host_clock(message: Message, clock: ClockModel | None) -> Message:
    """Return a message, and the events in it, with host time; itself where no clock is given."""
    import msgspec

    if clock is None:
        return message
    t_ns = clock.one_to_host(message.header.t_sensor_ns)
    header = msgspec.structs.replace(message.header, t_sensor_ns=t_ns, clock="host")
    if isinstance(message, EventPacket):
        return msgspec.structs.replace(message, header=header, t_ns=clock.to_host(host(message.t_ns)))
    return msgspec.structs.replace(message, header=header)


def shifted(message: Message, shift_ns: int) -> Message:
    """Return a message moved in time, with the timing of a sensor: a recording's own spans are those of another run."""
    import msgspec

    from perception.messages import Timing

    header = message.header
    if shift_ns:
        header = msgspec.structs.replace(header, t_sensor_ns=header.t_sensor_ns + shift_ns)
        if isinstance(message, EventPacket):
            message = msgspec.structs.replace(message, t_ns=host(message.t_ns) + shift_ns)
    return msgspec.structs.replace(message, header=header, timing=Timing())
