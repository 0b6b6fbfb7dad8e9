"""A LiDAR on the network: Velodyne, Hesai or Ouster data packets over UDP, assembled into sweeps.

out: <sensor>/points, a PointCloud per turn in the sensor's frame, stamped by its last point.

A sweep that lacks a part of its turn says so in `header.degraded`. What it shares with other drivers is in
`_live_source.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec
import numpy as np
from pydantic import Field

from perception.errors import SensorError, UserError
from perception.logs.lidar.hesai import HesaiDecoder, layout_of, read_angles
from perception.logs.lidar.ouster import OusterDecoder, read_metadata
from perception.logs.lidar.sweep import Points, SweepDecoder, point_cloud
from perception.logs.lidar.velodyne import VelodyneDecoder, is_velodyne
from perception.messages import Message, PointCloud
from perception.nodes._clock_offset import ClockOffset
from perception.nodes._live_source import LiveSource, period_of
from perception.nodes._udp import UdpConfig, datagrams
from perception.runtime.node import NodeSetup

REMEMBERED = 16
"""Packets among which one that comes twice is known."""
MISSING_SHARE = 0.05
BREAK_NS = 1_000_000_000
"""After a longer silence the sensor may have been started anew, or turned away."""


class LidarUdpConfig(UdpConfig):
    """Settings of the driver."""

    sensor: str = "lidar"
    """Name of the sensor in the rig; it publishes `<sensor>/points`."""
    vendor: Literal["auto", "velodyne", "hesai", "ouster"] = "auto"
    """auto knows Velodyne and Hesai by their packets; Ouster needs `metadata`."""
    port: Annotated[int, Field(ge=1, le=65535)] = 2368
    """UDP port; Ouster's default is 7502."""
    metadata: Path | None = None
    """Ouster: the sensor's metadata (JSON)."""
    angles: Path | None = None
    """Hesai: the sensor's angle correction (CSV)."""
    stamps: Literal["arrival", "sensor", "offset"] = "arrival"
    """arrival: of each packet at this host. sensor: for one that is disciplined by GPS or PTP to the host's time.
    offset: the sensor's own time, laid on the host's by the quickest packets."""


class LidarUdp(LiveSource):
    """One sensor, one socket."""

    Config = LidarUdpConfig

    @classmethod
    def create(cls, config: LidarUdpConfig, setup: NodeSetup) -> Self:
        return cls(config, period_of(setup, config.sensor))

    @classmethod
    def topics(cls, config: LidarUdpConfig, setup: NodeSetup) -> Mapping[str, type[Message]]:
        return {f"{config.sensor}/points": PointCloud}

    def __init__(self, config: LidarUdpConfig, period_ns: int | None = None) -> None:
        super().__init__(config, config.sensor, (f"{config.sensor}/points",), period_ns)
        self.config: LidarUdpConfig = config
        self._decoder = _decoder(config)
        self._clock = ClockOffset()
        self._seen: deque[int] = deque(maxlen=REMEMBERED)
        self._seq = 0
        self._last_ns: int | None = None

    @property
    def repeated(self) -> int:
        """Packets that came twice."""
        return self.monitor.counts["repeated packets"]

    def received(self) -> Iterator[tuple[str, Message] | None]:
        for datagram in datagrams(self.config):
            if datagram is None:
                yield None
            else:
                yield from self.take(*datagram)

    def take(self, packet: bytes, t_ns: int) -> Iterator[tuple[str, PointCloud]]:
        """Take one packet that arrived at host time `t_ns`; yield the sweep that it completes."""
        key = hash(packet)
        if key in self._seen:
            self.monitor.counts["repeated packets"] += 1
            return
        self._seen.append(key)
        if self._last_ns is not None and t_ns - self._last_ns > BREAK_NS:
            self._decoder = _decoder(self.config)  # the turn that was begun does not belong to this one
            self.monitor.counts["turns broken off"] += 1
        self._last_ns = t_ns
        if self._decoder is None:
            self._decoder = _recognised(packet, self.config)
            if self._decoder is None:
                return
        for sweep in self._decoder.feed(packet, t_ns):
            yield f"{self.config.sensor}/points", self._cloud(self._decoder, self._placed(sweep, t_ns))
        self.monitor.counts |= self._decoder.skipped

    def _placed(self, sweep: Points, arrival_ns: int) -> Points:
        """Lay a sweep that is stamped by the sensor's clock on the host's, where the settings say so."""
        if self.config.stamps != "offset":
            return sweep
        last_ns = int(sweep.t_ns.max())
        shift_ns = self._clock.to_host(last_ns, arrival_ns) - last_ns
        self.monitor.counts["jumps of its clock"] = self._clock.jumps
        return replace(sweep, t_ns=sweep.t_ns + shift_ns)

    def _cloud(self, decoder: SweepDecoder, sweep: Points) -> PointCloud:
        clock = self.config.sensor if self.config.stamps == "sensor" else "host"
        cloud = point_cloud(
            sweep, frame_id=self.config.sensor, clock=clock, seq=self._seq, intensity_scale=decoder.intensity_scale
        )
        self._seq += 1
        missing = _missing_share(sweep)
        if missing <= MISSING_SHARE:
            return cloud
        reason = f"{self.config.sensor}: {missing:.0%} of the turn is missing"
        return msgspec.structs.replace(cloud, header=msgspec.structs.replace(cloud.header, degraded=(reason,)))


def _missing_share(sweep: Points) -> float:
    """Return the share of a turn in which no packet came: gaps in time that are longer than packets are apart."""
    stamps = np.unique(sweep.t_ns)
    if len(stamps) < 3:
        return 1.0
    steps = np.diff(stamps)
    between_packets = np.quantile(steps, 0.98) if len(steps) > 100 else np.median(steps)
    lost = np.clip(steps[steps > 3 * between_packets] - between_packets, 0, None).sum()
    return float(lost / (stamps[-1] - stamps[0]))


def _decoder(config: LidarUdpConfig) -> SweepDecoder | None:
    """Make the decoder that the settings name; None is found by the first packet.

    Raises:
        UserError: a file is missing or is none.
    """
    by_sensor = config.stamps != "arrival"
    if config.vendor == "ouster" or config.metadata is not None:
        if config.metadata is None:
            raise UserError("lidar_udp: Ouster's packets need `metadata`, the sensor's own description (JSON)")
        return OusterDecoder(read_metadata(config.metadata), sensor_time=by_sensor)
    if config.vendor == "velodyne":
        return VelodyneDecoder(sensor_time=by_sensor)
    angles = None if config.angles is None else read_angles(config.angles)
    return HesaiDecoder(angles, sensor_time=by_sensor) if config.vendor == "hesai" or angles is not None else None


def _recognised(packet: bytes, config: LidarUdpConfig) -> SweepDecoder | None:
    if is_velodyne(packet):
        return VelodyneDecoder(sensor_time=config.stamps != "arrival")
    layout = layout_of(packet)
    if layout is None:
        return None
    if layout.name == "Pandar40P":
        raise SensorError("lidar_udp: a Pandar40P has angles of its own; give its correction file as `angles` (CSV)")
    return HesaiDecoder(sensor_time=config.stamps != "arrival")


__all__ = ["LidarUdp", "LidarUdpConfig"]
