"""What live drivers share: a device is opened again after failures with growing pauses, and the status tells how it is.

A driver gives `received`: it opens its device, yields what it measures, yields None about every `WAIT_S` in which
nothing comes, and ends or raises OSError where the device is gone. In silence, and while the device is gone, joins are
told by bounds that they need not wait.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from perception.messages import Message
from perception.nodes._stream_monitor import StreamMonitor
from perception.runtime.node import Bound, NodeConfig, NodeSetup, Source

LOG = logging.getLogger(__name__)
WAIT_S = 0.1
MAX_PAUSE_S = 5.0
LATE_NS = 200_000_000
"""A silent sensor's next message may still be so far behind the clock."""
TOLD_NS = 250_000_000
"""Between two updates of the status."""


class LiveSource(Source):
    """One device.

    Args:
        config: the driver's settings.
        sensor: the name in the rig.
        topics: what it publishes; bounds are told on all of them.
        period_ns: of the sensor; None learns it.
        host_stamps: stamps are of the host's clock, or of one that is disciplined to it; else no bound can be told.
    """

    late_ns = LATE_NS

    def __init__(
        self, config: NodeConfig, sensor: str, topics: tuple[str, ...], period_ns: int | None = None, *,
        host_stamps: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(config)
        self.monitor = StreamMonitor(sensor, period_ns)
        self._topics = topics if host_stamps else ()
        self._told_ns = 0

    def received(self) -> Iterator[tuple[str, Message] | None]:
        """Open the device and yield (topic, message), None in silence; see the module's text."""
        raise NotImplementedError(f"{type(self).__name__} must read its device")

    def messages(self) -> Iterator[tuple[str, Message | Bound]]:
        pause_s, told = WAIT_S, ""
        self.monitor.started(time.monotonic_ns())
        while True:
            why = "the stream ended"
            try:
                for item in self.received():
                    if item is not None:
                        pause_s, told = WAIT_S, ""
                        self.monitor.message(time.monotonic_ns())
                        yield item
                    else:
                        yield from self._bounds()
                    self._tell()
            except OSError as error:
                why = str(error)
            self.monitor.failed(why)
            if why != told:  # once, however long it lasts; the status goes on telling
                LOG.warning("%s: %s; trying again with pauses of up to %g s", self.monitor.sensor, why, MAX_PAUSE_S)
                told = why
            yield from self._paused(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    def _paused(self, pause_s: float) -> Iterator[tuple[str, Bound]]:
        end_s = time.monotonic() + pause_s
        while (left_s := end_s - time.monotonic()) > 0:
            yield from self._bounds()
            self._tell()
            time.sleep(min(left_s, WAIT_S))

    def _bounds(self) -> Iterator[tuple[str, Bound]]:
        for topic in self._topics:
            yield topic, Bound(time.time_ns() - self.late_ns)

    def _tell(self) -> None:
        now_ns = time.monotonic_ns()
        if now_ns - self._told_ns > TOLD_NS:
            self._told_ns = now_ns
            self.notes, self.degraded = self.monitor.notes(now_ns), self.monitor.degraded(now_ns)


def period_of(setup: NodeSetup, sensor: str) -> int | None:
    """Return the period of a sensor of the rig; None where the rig does not have it."""
    known = setup.rig.sensors.get(sensor) if setup.rig is not None else None
    return None if known is None else round(1e9 / known.rate_hz)


def frame_of(setup: NodeSetup, sensor: str, otherwise: str) -> str:
    """Return the frame in which a sensor of the rig measures."""
    known = setup.rig.sensors.get(sensor) if setup.rig is not None else None
    return otherwise if known is None else known.frame


__all__ = ["LATE_NS", "MAX_PAUSE_S", "WAIT_S", "LiveSource", "frame_of", "period_of"]
