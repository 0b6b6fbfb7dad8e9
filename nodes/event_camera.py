"""An event camera: iniVation's on USB or over their network streams, Prophesee's through the Metavision SDK.

out: <sensor>/events, an EventPacket for each batch that the library gives.
     <sensor>/triggers, edges of the trigger input, of iniVation cameras on USB.

Stamps: the camera's own, laid on the host's clock by the quickest batches; or the camera's as they are, which
`event_clock` corrects by trigger pulses. Events never go back in time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field

from perception.errors import UserError
from perception.messages import EventPacket, Header, Message, Trigger
from perception.nodes import _event_devices as devices
from perception.nodes._clock_offset import ClockOffset
from perception.nodes._event_devices import Batch, Edge
from perception.nodes._live_source import LiveSource, frame_of
from perception.nodes._pump import pumped
from perception.runtime.node import NodeConfig, NodeSetup

WAITING = 200
"""Batches that wait for the graph; a second or two."""


class EventCameraConfig(NodeConfig):
    """Settings of the driver."""

    sensor: str = "event_camera"
    """Name of the camera in the rig; it publishes `<sensor>/events` and `<sensor>/triggers`."""
    device: Literal["dv", "dv_network", "metavision"] = "dv"
    """dv: an iniVation camera on USB. dv_network: a stream that a program on dv-processing serves.
    metavision: a Prophesee camera."""
    serial: str = ""
    """Of the camera on USB; empty takes the first."""
    address: str = "127.0.0.1"
    """Of the server, for dv_network."""
    port: Annotated[int, Field(ge=1, le=65535)] = 7777
    """Of the server, for dv_network."""
    packet_ms: Annotated[float, Field(gt=0, le=1000)] = 10.0
    """Span of a batch, for metavision; iniVation's libraries have their own."""
    stamps: Literal["offset", "sensor"] = "offset"
    """offset: the camera's stamps, laid on the host's clock. sensor: as they are, in a clock of the camera's name."""


class EventCamera(LiveSource):
    """One camera."""

    Config = EventCameraConfig

    @classmethod
    def create(cls, config: EventCameraConfig, setup: NodeSetup) -> Self:
        (devices.need_metavision if config.device == "metavision" else devices.need_dv)()
        return cls(config, frame_of(setup, config.sensor, f"{config.sensor}_optical"))

    @classmethod
    def topics(cls, config: EventCameraConfig, setup: NodeSetup) -> Mapping[str, type[Message]]:
        known = setup.rig.sensors.get(config.sensor) if setup.rig is not None else None
        if known is not None and known.kind != "event_camera":
            raise UserError(f"sensor '{config.sensor}' of the rig is of kind {known.kind}, not event_camera")
        if config.serial and config.device == "dv_network":
            raise UserError("`serial` names a camera on USB; dv_network has `address` and `port`")
        return {f"{config.sensor}/events": EventPacket, f"{config.sensor}/triggers": Trigger}

    def __init__(self, config: EventCameraConfig, frame: str = "") -> None:
        topics = (f"{config.sensor}/events", f"{config.sensor}/triggers")
        super().__init__(config, config.sensor, topics, host_stamps=config.stamps == "offset")
        self.config: EventCameraConfig = config
        self._frame = frame or f"{config.sensor}_optical"
        self._clock = ClockOffset()
        self._shift_ns = 0
        self._last_ns = -(1 << 62)
        self._given = 0
        self._dropped = 0

    def received(self) -> Iterator[tuple[str, Message] | None]:
        for item in self._items():
            if isinstance(item, Batch):
                yield f"{self.config.sensor}/events", self._packet(item, time.time_ns())
            elif isinstance(item, Edge):
                yield f"{self.config.sensor}/triggers", self._trigger(item)
            else:
                yield None

    def _items(self) -> Iterator[Batch | Edge | None]:
        config = self.config
        if config.device == "dv_network":
            return devices.dv_network(config.address, config.port)
        if config.device == "dv":
            return devices.dv_camera(config.serial)
        return pumped(lambda: devices.metavision_camera(config.serial, config.packet_ms), WAITING, self._lose)

    def _lose(self, item: Batch | Edge) -> None:
        self._dropped += len(item.t_us) if isinstance(item, Batch) else 0

    def _packet(self, batch: Batch, arrival_ns: int) -> EventPacket:
        t_ns = batch.t_us * 1000
        if self.config.stamps == "offset":
            last_ns = int(t_ns[-1])
            self._shift_ns = self._clock.to_host(last_ns, arrival_ns) - last_ns
            self.monitor.counts["jumps of its clock"] = self._clock.jumps
            t_ns = np.maximum(t_ns + self._shift_ns, self._last_ns)
        self._last_ns = int(t_ns[-1])
        dropped, self._dropped = self._dropped, 0
        before, self._given = self._given, self._given + len(t_ns) + dropped
        self.monitor.counts["events lost here"] += dropped
        return EventPacket(
            header=self._header(self._last_ns), height_px=batch.height_px, width_px=batch.width_px, t_ns=t_ns,
            x=batch.x, y=batch.y, polarity=batch.polarity, dropped=dropped, events_before=before,
        )  # fmt: skip

    def _trigger(self, edge: Edge) -> Trigger:
        header = self._header(edge.t_us * 1000 + self._shift_ns)
        return Trigger(header=header, channel=edge.channel, rising=edge.rising)

    def _header(self, t_ns: int) -> Header:
        clock = "host" if self.config.stamps == "offset" else self.config.sensor
        return Header(frame_id=self._frame, t_sensor_ns=t_ns, clock=clock)


__all__ = ["EventCamera", "EventCameraConfig"]
