"""Bring the messages of an event camera from its own clock to the host's.

in:  events, triggers: of the camera, in its clock.
     reference, messages that are stamped by the host's clock at the pulses which the triggers saw: the pictures of a
     camera whose exposures are wired to the trigger input, or the host's own pulses. Not in lockstep, which orders
     messages by stamps and so cannot compare two clocks.
out: events, triggers: the same, stamped by the host's clock.
     The status holds offset and drift, and how far the edges lie beside them.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import msgspec
import numpy as np
from pydantic import Field

from perception.errors import SensorError, UserError
from perception.messages import EventPacket, Header, Message, Trigger, host
from perception.ops.event_clock import ClockEstimator, ClockModel
from perception.runtime.node import Node, NodeConfig, NodeSetup, On, Out


class EventClockConfig(NodeConfig):
    """Settings of the clock."""

    offset_ns: int | None = None
    """Host time minus camera time; where it is not given it is estimated from edges and references."""
    drift_ppm: Annotated[float, Field(ge=-500, le=500)] = 0.0
    """By how much the host's clock runs faster than the camera's."""
    at_ns: int = 0
    """Camera time at which the offset holds."""
    estimate: bool = True
    """Correct offset and drift by trigger edges, where `triggers` is connected with `reference` or `pulse_ms`."""
    pulse_ms: Annotated[float, Field(gt=0)] | None = None
    """Edges come at whole multiples of this in host time: 1000 for a pulse per second."""
    edge: Literal["rising", "falling", "both"] = "rising"
    """Edges that are pulses."""
    channel: int | None = None
    """Trigger channel; all if not given."""
    window: Annotated[int, Field(ge=3)] = 100
    """Pairs of edge and reference behind an estimate."""
    max_residual_us: Annotated[float, Field(gt=0)] = 1000.0
    """Edges farther than this beside the estimate degrade the graph."""
    clock: str = "host"
    """Name of the clock that the outputs are stamped by."""


class EventClock(Node):
    """One camera."""

    Config = EventClockConfig

    events = On[EventPacket](keep="all", bound=200)
    triggers = On[Trigger](keep="all", bound=200, optional=True)
    reference = On[Message](keep="all", bound=200, optional=True)
    stamped_events = Out[EventPacket]()
    stamped_triggers = Out[Trigger]()

    @classmethod
    def create(cls, config: EventClockConfig, setup: NodeSetup) -> Self:
        edges, reference = bool(setup.inputs.get("triggers")), bool(setup.inputs.get("reference"))
        if reference and setup.lockstep:
            raise UserError(
                "in lockstep messages are ordered by their stamps, so the clocks of 'events' and 'reference' cannot be "
                "compared: give offset_ns and drift_ppm, which the status of a live run shows, and no 'reference'"
            )
        if reference and config.pulse_ms is not None:
            raise UserError("pulse_ms and the input 'reference' exclude each other: both say when the pulses were")
        if (reference or config.pulse_ms is not None) and not edges:
            raise UserError("an estimate needs the trigger edges: connect the input 'triggers'")
        if config.offset_ns is None and not (reference and config.estimate):
            raise UserError("give offset_ns, or connect 'triggers' and 'reference' so that it can be estimated")
        return cls(config)

    def __init__(self, config: EventClockConfig) -> None:
        super().__init__(config)
        self._camera_clock = "of the camera"
        self._last = {"stamped_events": -(1 << 62), "stamped_triggers": -(1 << 62)}
        self._moved = 0
        self._begin()

    def _begin(self) -> None:
        config = self.config
        given = None
        if config.offset_ns is not None:
            given = ClockModel(config.offset_ns, config.drift_ppm, config.at_ns)
        period_ns = None if config.pulse_ms is None else round(config.pulse_ms * 1e6)
        self._estimator = ClockEstimator(given, period_ns, config.window)
        self._tell()

    def on_events(self, packet: EventPacket) -> tuple[tuple[str, Message], ...]:
        clock = self._clock(packet)
        stamps = np.maximum(clock.to_host(host(packet.t_ns)), self._last["stamped_events"])
        self._moved += int((stamps != clock.to_host(host(packet.t_ns))).sum())
        t_ns = max(clock.one_to_host(packet.header.t_sensor_ns), int(stamps.max(initial=-(1 << 62))))
        self._last["stamped_events"] = t_ns
        self._tell()
        return (
            ("stamped_events", msgspec.structs.replace(packet.keep(), header=self._header(packet, t_ns), t_ns=stamps)),
        )

    def on_triggers(self, trigger: Trigger) -> tuple[tuple[str, Message], ...]:
        config = self.config
        pulse = config.edge == "both" or trigger.rising == (config.edge == "rising")
        if config.estimate and pulse and config.channel in (None, trigger.channel):
            self._estimator.edge(trigger.header.t_sensor_ns)
        clock = self._clock(trigger)
        t_ns = max(clock.one_to_host(trigger.header.t_sensor_ns), self._last["stamped_triggers"])
        self._last["stamped_triggers"] = t_ns
        self._tell()
        return (("stamped_triggers", msgspec.structs.replace(trigger, header=self._header(trigger, t_ns))),)

    def on_reference(self, message: Message) -> None:
        if self.config.estimate:
            self._estimator.reference(message.header.t_sensor_ns)
            self._tell()

    def reset(self, reason: str) -> None:
        del reason
        self._last = dict.fromkeys(self._last, -(1 << 62))
        self._begin()

    def _clock(self, message: Message) -> ClockModel:
        """Return the clock as it is known now; an event is never given a time that nothing tells."""
        self._camera_clock = message.header.clock
        clock = self._estimator.clock
        if clock is None:
            raise SensorError(f"the offset of clock '{self._camera_clock}' is not known yet: no edge met its reference")
        return clock

    def _header(self, message: Message, t_ns: int) -> Header:
        return msgspec.structs.replace(message.header, t_sensor_ns=t_ns, clock=self.config.clock)

    def _tell(self) -> None:
        clock, config = self._estimator.clock, self.config
        if clock is None:
            self.notes = ("clock: no offset yet",)
            self.degraded = ("the clock of the event camera is not known yet: its events are dropped",)
            self.bound_shift_ns = -(1 << 61)
            return
        moved = (f"{self._moved} events stamped later, so that time never falls",) if self._moved else ()
        missed = (f"{self._estimator.unmatched} edges without a reference",) if self._estimator.unmatched else ()
        self.notes = (clock.line(self._camera_clock), *missed, *moved)
        far = clock.residual_ns > config.max_residual_us * 1e3
        self.degraded = ("trigger edges lie far beside the estimate of the event camera's clock",) if far else ()
        self.bound_shift_ns = clock.offset_ns - round(config.max_residual_us * 1e3)


__all__ = ["EventClock", "EventClockConfig"]
