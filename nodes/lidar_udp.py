"""A LiDAR on the network: Velodyne, Hesai or Ouster data packets over UDP, assembled into sweeps.

out: <sensor>/points, a PointCloud per turn in the sensor's frame, stamped by its last point.

The socket is bound anew with growing pauses where it fails; silence is told by bounds, so that joins need not wait, and
health calls the sensor lost. A sweep that lacks a part of its turn says so in `header.degraded`.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping
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
from perception.runtime.node import Bound, NodeConfig, NodeSetup, Source

LOG = logging.getLogger(__name__)
RECEIVE_BYTES = 1 << 16
BUFFER_BYTES = 8 << 20
"""Of the kernel: a tenth of a second of the fastest sensors, while the scheduler rests."""
WAIT_S = 0.1
MAX_PAUSE_S = 5.0
REMEMBERED = 16
"""Packets among which one that comes twice is known."""
MISSING_SHARE = 0.05
LATE_NS = 200_000_000
"""A silent sensor's next sweep may still be so far behind the clock."""


class LidarUdpConfig(NodeConfig):
    """Settings of the driver."""

    sensor: str = "lidar"
    """Name of the sensor in the rig; it publishes `<sensor>/points`."""
    vendor: Literal["auto", "velodyne", "hesai", "ouster"] = "auto"
    """auto knows Velodyne and Hesai by their packets; Ouster needs `metadata`."""
    address: str = "0.0.0.0"
    """Address of this host that the sensor sends to."""
    port: Annotated[int, Field(ge=1, le=65535)] = 2368
    """UDP port; Ouster's default is 7502."""
    from_address: str = ""
    """Take packets of this sender alone; empty takes all."""
    metadata: Path | None = None
    """Ouster: the sensor's metadata (JSON)."""
    angles: Path | None = None
    """Hesai: the sensor's angle correction (CSV)."""
    stamps: Literal["arrival", "sensor"] = "arrival"
    """sensor: for one that is disciplined by GPS or PTP to the host's time."""


class LidarUdp(Source):
    """One sensor, one socket."""

    Config = LidarUdpConfig

    @classmethod
    def create(cls, config: LidarUdpConfig, setup: NodeSetup) -> Self:
        return cls(config)

    @classmethod
    def topics(cls, config: LidarUdpConfig, setup: NodeSetup) -> Mapping[str, type[Message]]:
        return {f"{config.sensor}/points": PointCloud}

    def __init__(self, config: LidarUdpConfig) -> None:
        super().__init__(config)
        self.config: LidarUdpConfig = config
        self._decoder = _decoder(config)
        self._seen: deque[int] = deque(maxlen=REMEMBERED)
        self._seq = 0
        self.repeated = 0
        """Packets that came twice."""

    def messages(self) -> Iterator[tuple[str, Message | Bound]]:
        topic, pause_s = f"{self.config.sensor}/points", WAIT_S
        while True:
            try:
                with self._bound_socket() as receiver:
                    pause_s = WAIT_S
                    yield from self._received(receiver, topic)
            except OSError as error:
                LOG.warning("%s: %s; trying again in %.1f s", self.config.sensor, error, pause_s)
                yield topic, Bound(time.time_ns() - LATE_NS)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)

    def _bound_socket(self) -> socket.socket:
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        try:
            receiver.bind((self.config.address, self.config.port))
        except OSError:
            receiver.close()
            raise
        receiver.settimeout(WAIT_S)
        return receiver

    def _received(self, receiver: socket.socket, topic: str) -> Iterator[tuple[str, Message | Bound]]:
        while True:
            try:
                packet, sender = receiver.recvfrom(RECEIVE_BYTES)
            except TimeoutError:
                yield topic, Bound(time.time_ns() - LATE_NS)
                continue
            if self.config.from_address and sender[0] != self.config.from_address:
                continue
            yield from self.take(packet, time.time_ns())

    def take(self, packet: bytes, t_ns: int) -> Iterator[tuple[str, PointCloud]]:
        """Take one packet that arrived at host time `t_ns`; yield the sweep that it completes."""
        key = hash(packet)
        if key in self._seen:
            self.repeated += 1
            return
        self._seen.append(key)
        if self._decoder is None:
            self._decoder = _recognised(packet, self.config)
            if self._decoder is None:
                return
        for sweep in self._decoder.feed(packet, t_ns):
            yield f"{self.config.sensor}/points", self._cloud(self._decoder, sweep)

    def _cloud(self, decoder: SweepDecoder, sweep: Points) -> PointCloud:
        clock = "host" if self.config.stamps == "arrival" else self.config.sensor
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
    by_sensor = config.stamps == "sensor"
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
        return VelodyneDecoder(sensor_time=config.stamps == "sensor")
    layout = layout_of(packet)
    if layout is None:
        return None
    if layout.name == "Pandar40P":
        raise SensorError("lidar_udp: a Pandar40P has angles of its own; give its correction file as `angles` (CSV)")
    return HesaiDecoder(sensor_time=config.stamps == "sensor")


__all__ = ["LidarUdp", "LidarUdpConfig"]
