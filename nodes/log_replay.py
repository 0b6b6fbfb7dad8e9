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
from perception.logs.open_log import open_log
from perception.messages import Message
from perception.runtime.node import Bound, NodeConfig, NodeSetup, Source

LOG = logging.getLogger(__name__)


class LogReplayConfig(NodeConfig):
    """Settings of a replay."""

    path: Path | None = None
    """A file or folder that `perception log info` knows; by default the log of `perception launch --replay LOG`."""
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
        self.notes = tuple(log.notes)

    def messages(self) -> Iterator[tuple[str, Message | Bound]]:
        config, log = self.config, self.log
        wanted = [
            topic for topic in log.topics() if config.topics is None or config.remap.get(topic, topic) in config.topics
        ]
        shift_ns = 0
        while True:
            last_ns = None
            for topic, message in log.messages(config.from_ns, config.until_ns, wanted):
                last_ns = message.header.t_sensor_ns
                yield config.remap.get(topic, topic), shifted(message, shift_ns)
                self.degraded = tuple(f"skipped {count}: {reason}" for reason, count in log.skipped.items())
            if not config.loop or last_ns is None:
                return
            span = log.span()
            shift_ns += max(1, last_ns - (config.from_ns or span.start_ns)) + round(1e9 / config.assume_rate_hz)


def _opened(config: LogReplayConfig) -> Log:
    if config.path is None:
        raise UserError("a log_replay node has no log: give its setting path, or perception launch --replay LOG")
    return open_log(config.path, assume_rate_hz=config.assume_rate_hz)


def shifted(message: Message, shift_ns: int) -> Message:
    """Return a message moved in time, with the timing of a sensor: a recording's own spans are those of another run."""
    import msgspec

    from perception.messages import Timing

    header = message.header
    if shift_ns:
        header = msgspec.structs.replace(header, t_sensor_ns=header.t_sensor_ns + shift_ns)
    return msgspec.structs.replace(message, header=header, timing=Timing())
