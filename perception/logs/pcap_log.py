"""Packet captures of a LiDAR: Velodyne, Hesai and Ouster over UDP, as `lidar/points`, and Ouster's IMU as `imu/imu`.

The sensor is recognised by its packets. Ouster's need the sensor's metadata, a .json beside the capture; a Pandar40P
its angle correction, a .csv beside it. Stamps are the capture's (host time); with `sensor_time` the sensor's own.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np

from perception.errors import LogError
from perception.geometry.rig import Rig
from perception.logs.assumed_rig import NOTE, lidar_rig
from perception.logs.lidar.hesai import HesaiDecoder, angles_beside, layout_of
from perception.logs.lidar.ouster import PROFILES, OusterDecoder, OusterMetadata, read_metadata
from perception.logs.lidar.pcap import Datagram, datagrams
from perception.logs.lidar.sweep import Points, SweepDecoder, point_cloud
from perception.logs.lidar.velodyne import VelodyneDecoder, is_velodyne
from perception.logs.streamed_log import StreamedLog
from perception.messages import Header, Imu, Message, PointCloud
from perception.messages.array import host

LOOKED_AT = 2000
"""Datagrams among which the first packet of a sensor has to be."""
IMU_BYTES = 48
STANDARD_GRAVITY = 9.80665
_DEGREE = 0.017453292519943295


class PcapLog(StreamedLog):
    """One capture.

    Args:
        path: the file.
        sensor_time: take the sensor's stamps in place of the capture's.

    Raises:
        LogError: no packet of a known sensor is in it, or the sensor's metadata is missing.
    """

    FORMAT: ClassVar[str] = "pcap"

    def __init__(self, path: Path, *, sensor_time: bool = False) -> None:
        super().__init__(path)
        self._sensor_time = sensor_time
        self._ouster: OusterMetadata | None = None
        first = next((d for d in islice(datagrams(path, Counter()), LOOKED_AT) if self._known(d)), None)
        if first is None:
            raise LogError(self._nothing_known())
        self._port = first.port
        decoder = self._decoder()
        next(iter(decoder.feed(first.data, first.t_ns)), None)
        self.sensor = decoder.name
        self.notes = [f"lidar: {self.sensor}, UDP port {self._port}, stamps of {self._clock()}", NOTE]

    @cached_property
    def _rings(self) -> int:
        cloud = next((m for _, m in self.messages(topics=["lidar/points"]) if isinstance(m, PointCloud)), None)
        return 128 if cloud is None or cloud.ring is None else int(np.max(host(cloud.ring))) + 1

    @property
    def rig(self) -> Rig:
        return lidar_rig(self.path.stem, self.sensor, self._rings)

    def topics(self) -> Mapping[str, type[Message]]:
        return {"imu/imu": Imu, "lidar/points": PointCloud} if self._ouster else {"lidar/points": PointCloud}

    def stream(self, topics: Collection[str] | None) -> Iterator[tuple[str, Message]]:
        decoder = self._decoder()
        seq = Counter[str]()
        for datagram in datagrams(self.path, self.skipped):
            if self._ouster is not None and datagram.port == self._ouster.imu_port:
                if (topics is None or "imu/imu" in topics) and len(datagram.data) == IMU_BYTES:
                    yield "imu/imu", self._imu(datagram, seq["imu/imu"])
                    seq["imu/imu"] += 1
            elif datagram.port == self._port and (topics is None or "lidar/points" in topics):
                for sweep in decoder.feed(datagram.data, datagram.t_ns):
                    yield "lidar/points", self._cloud(decoder, sweep, seq)
        for sweep in decoder.finish():
            yield "lidar/points", self._cloud(decoder, sweep, seq)
        self.skipped.update(decoder.skipped)

    def _cloud(self, decoder: SweepDecoder, sweep: Points, seq: Counter[str]) -> PointCloud:
        number = seq["lidar/points"]
        seq["lidar/points"] += 1
        return point_cloud(
            sweep, frame_id="lidar", clock=self._clock(), seq=number, intensity_scale=decoder.intensity_scale
        )

    def _imu(self, datagram: Datagram, seq: int) -> Imu:
        t_sensor, _, _, ax, ay, az, gx, gy, gz = struct.unpack("<QQQ6f", datagram.data)
        header = Header(
            frame_id="imu", t_sensor_ns=t_sensor if self._sensor_time else datagram.t_ns, clock=self._clock(), seq=seq
        )
        return Imu(
            header=header,
            angular_velocity_radps=(gx * _DEGREE, gy * _DEGREE, gz * _DEGREE),
            acceleration_mps2=(ax * STANDARD_GRAVITY, ay * STANDARD_GRAVITY, az * STANDARD_GRAVITY),
        )

    def _clock(self) -> str:
        return "lidar" if self._sensor_time else "capture"

    def _known(self, datagram: Datagram) -> bool:
        if is_velodyne(datagram.data) or layout_of(datagram.data) is not None:
            return True
        if self._metadata is not None and datagram.port == self._metadata.lidar_port:
            self._ouster = self._metadata if len(datagram.data) == self._metadata.packet_bytes() else None
        return self._ouster is not None

    @cached_property
    def _metadata(self) -> OusterMetadata | None:
        """The metadata beside the capture: of its name, or the only one whose name begins as the capture's does."""
        same = self.path.with_suffix(".json")
        if same.is_file():
            return read_metadata(same)
        fitting = [file for file in self.path.parent.glob("*.json") if self.path.stem.startswith(file.stem)]
        return read_metadata(max(fitting, key=lambda file: len(file.stem))) if fitting else None

    def _decoder(self) -> SweepDecoder:
        if self._ouster is not None:
            return OusterDecoder(self._ouster, sensor_time=self._sensor_time)
        first = next(d for d in datagrams(self.path, Counter()) if d.port == self._port and self._known(d))
        if is_velodyne(first.data):
            return VelodyneDecoder(sensor_time=self._sensor_time)
        return HesaiDecoder(angles_beside(self.path), sensor_time=self._sensor_time)

    def _nothing_known(self) -> str:
        sizes = Counter((d.port, len(d.data)) for d in islice(datagrams(self.path, self.skipped), LOOKED_AT))
        seen = ", ".join(f"{count} of {size} bytes to port {port}" for (port, size), count in sizes.most_common(3))
        needs = "" if self._metadata else f"; Ouster needs its metadata beside it, {self.path.stem}.json"
        return (
            f"{self.path}: no packets of a known LiDAR (Velodyne, Hesai, Ouster {'/'.join(PROFILES)}){needs}. "
            f"Found: {seen or 'no UDP over IPv4'}"
        )


__all__ = ["PcapLog"]
