"""A satellite receiver, or an inertial unit, that sends NMEA 0183 sentences over UDP.

out: <sensor>/gnss, a Gnss for each instant at which the receiver has a fix.
     <imu>/imu, an Imu for each VNIMU sentence, where the settings name that sensor.

Stamps: UTC of the sentences, with the day nearest to the host's clock, which need be right within half a day only; or
the arrival of the fix's first sentence; or UTC laid on the host's clock by the quickest sentences. VNIMU bears no time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field

from perception.errors import UserError
from perception.logs.nmea import SETTLE_NS, Fix, Inertia, NmeaDecoder
from perception.messages import Gnss, Header, Imu, Message
from perception.nodes._clock_offset import ClockOffset
from perception.nodes._live_source import LiveSource, frame_of, period_of
from perception.nodes._udp import UdpConfig, datagrams
from perception.runtime.node import NodeSetup


class NmeaUdpConfig(UdpConfig):
    """Settings of the driver."""

    sensor: str = "gnss"
    """Name of the receiver in the rig; it publishes `<sensor>/gnss`."""
    imu: str | None = None
    """Name in the rig of the inertial unit whose VNIMU sentences come on the same port; it publishes `<imu>/imu`."""
    port: Annotated[int, Field(ge=1, le=65535)] = 10110
    """UDP port."""
    stamps: Literal["sensor", "arrival", "offset"] = "sensor"
    """sensor: UTC of the sentences, for a host whose clock is disciplined to UTC. arrival: of the first sentence of a
    fix. offset: UTC, laid on the host's clock by the quickest sentences."""


class NmeaUdp(LiveSource):
    """One receiver, one socket."""

    Config = NmeaUdpConfig
    late_ns = 1_000_000_000
    """Receivers compute, and serial lines are slow: a fix may come so long after its instant."""

    @classmethod
    def create(cls, config: NmeaUdpConfig, setup: NodeSetup) -> Self:
        frames = {name: frame_of(setup, name, name) for name in (config.sensor, config.imu) if name is not None}
        return cls(config, frames, period_of(setup, config.imu or config.sensor))

    @classmethod
    def topics(cls, config: NmeaUdpConfig, setup: NodeSetup) -> Mapping[str, type[Message]]:
        for name, kind in ((config.sensor, "gnss"), (config.imu, "imu")):
            known = setup.rig.sensors.get(name) if setup.rig is not None and name is not None else None
            if known is not None and known.kind != kind:
                raise UserError(f"sensor '{name}' of the rig is of kind {known.kind}, not {kind}")
        return _topics(config)

    def __init__(
        self, config: NmeaUdpConfig, frames: Mapping[str, str] | None = None, period_ns: int | None = None
    ) -> None:
        super().__init__(config, config.sensor, tuple(_topics(config)), period_ns)
        self.config: NmeaUdpConfig = config
        self._frames = frames or {}
        self._decoder = NmeaDecoder()
        self._clock = ClockOffset()

    def received(self) -> Iterator[tuple[str, Message] | None]:
        for datagram in datagrams(self.config, SETTLE_NS / 1e9):
            if datagram is None:
                yield from self.settled()
                yield None
            else:
                yield from self.take(*datagram)

    def take(self, packet: bytes, t_ns: int) -> Iterator[tuple[str, Message]]:
        """Take one datagram that arrived at host time `t_ns`; yield what it completes."""
        for item in self._decoder.feed(packet, t_ns):
            yield from self._message(item)
        self.monitor.counts |= self._decoder.skipped

    def settled(self) -> Iterator[tuple[str, Message]]:
        """Yield the last fix, when nothing has come for a while."""
        for item in self._decoder.finish():
            yield from self._message(item)

    def _message(self, item: Fix | Inertia) -> Iterator[tuple[str, Message]]:
        if isinstance(item, Fix):
            yield f"{self.config.sensor}/gnss", self._gnss(item)
        elif self.config.imu is not None:
            yield f"{self.config.imu}/imu", self._imu(item, self.config.imu)
        else:
            self.monitor.counts["VNIMU without `imu`"] += 1

    def _gnss(self, fix: Fix) -> Gnss:
        assert fix.latitude_deg is not None
        assert fix.longitude_deg is not None
        config, t_ns = self.config, fix.arrival_ns
        if config.stamps != "arrival":
            t_ns = fix.utc_ns(fix.arrival_ns)
        if config.stamps == "offset":
            t_ns = self._clock.to_host(t_ns, fix.arrival_ns)
            self.monitor.counts["jumps of its clock"] = self._clock.jumps
        clock = config.sensor if config.stamps == "sensor" else "host"
        frame = self._frames.get(config.sensor, config.sensor)
        header = Header(frame_id=frame, t_sensor_ns=t_ns, clock=clock)
        heading = None if fix.heading_rad is None else math.remainder(math.pi / 2 - fix.heading_rad, 2 * math.pi)
        return Gnss(
            header=header, latitude_deg=fix.latitude_deg, longitude_deg=fix.longitude_deg,
            altitude_m=math.nan if fix.altitude_m is None else fix.altitude_m, position_std_m=fix.std_m,
            velocity_enu_mps=fix.velocity_enu_mps, heading_rad=heading,
        )  # fmt: skip

    def _imu(self, inertia: Inertia, name: str) -> Imu:
        header = Header(frame_id=self._frames.get(name, name), t_sensor_ns=inertia.arrival_ns)
        return Imu(
            header=header,
            angular_velocity_radps=inertia.angular_velocity_radps,
            acceleration_mps2=inertia.acceleration_mps2,
        )


def _topics(config: NmeaUdpConfig) -> dict[str, type[Message]]:
    topics: dict[str, type[Message]] = {f"{config.sensor}/gnss": Gnss}
    return topics if config.imu is None else topics | {f"{config.imu}/imu": Imu}


__all__ = ["NmeaUdp", "NmeaUdpConfig"]
