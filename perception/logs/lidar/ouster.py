"""Decode Ouster's lidar packets with the sensor's metadata: the legacy, single-return, dual and low-data-rate profiles.

A frame has a column per encoder step; a column holds a time, its number and a pixel per beam. Sources: Ouster Firmware
User Manual, sections "Lidar Data Packet Format" and "Lidar Range to XYZ".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import UserError
from perception.logs.lidar.sweep import WRONG_SIZE, Points

Float: TypeAlias = NDArray[np.float64]
CLOCK_JUMP_NS = 500_000_000
CLOCK_SET = "clock of the sensor set anew, as after a restart"
OLD_COLUMN = "column of a frame that is over"


@dataclass(frozen=True)
class Profile:
    """Where things lie in the packets of one UDP profile.

    Attributes:
        header: bytes before the first column; 0 in the legacy format, whose columns carry the frame's number.
        column: bytes before the first pixel of a column.
        pixel: bytes of a pixel.
        column_end: bytes after the last pixel of a column.
        footer: bytes after the last column.
        range_mask: of the first little-endian integer of a pixel.
        range_bytes: of that integer.
        range_mm: unit of a range.
        reflectivity: (offset, bytes) in a pixel.
        returns: 1 or 2; a second one lies `second` bytes behind the first.
    """

    header: int
    column: int
    pixel: int
    column_end: int
    footer: int
    range_mask: int
    range_bytes: int
    range_mm: int
    reflectivity: tuple[int, int]
    returns: int = 1
    second: int = 0


PROFILES: Mapping[str, Profile] = {
    "LEGACY": Profile(0, 16, 12, 4, 0, 0xFFFFF, 4, 1, (4, 2)),
    "RNG19_RFL8_SIG16_NIR16": Profile(32, 12, 12, 0, 32, 0x7FFFF, 4, 1, (4, 1)),
    "RNG19_RFL8_SIG16_NIR16_DUAL": Profile(32, 12, 16, 0, 32, 0x7FFFF, 4, 1, (3, 1), 2, 4),
    "RNG15_RFL8_NIR8": Profile(32, 12, 4, 0, 32, 0x7FFF, 2, 8, (2, 1)),
}


@dataclass(frozen=True, eq=False)
class OusterMetadata:
    """What the sensor says of itself: beams, columns, profile and mounting."""

    product: str
    profile: str
    columns: int
    columns_per_packet: int
    altitude_deg: Float
    azimuth_deg: Float
    beam_origin_mm: float
    sensor_from_lidar_mm: Float  # (4, 4)
    lidar_port: int
    imu_port: int

    @property
    def beams(self) -> int:
        """Pixels of a column."""
        return len(self.altitude_deg)

    def packet_bytes(self) -> int:
        """Return the size of a lidar packet."""
        layout = PROFILES[self.profile]
        column = layout.column + self.beams * layout.pixel + layout.column_end
        return layout.header + self.columns_per_packet * column + layout.footer


def read_metadata(path: Path) -> OusterMetadata:
    """Read the sensor's metadata (JSON), of firmware 1.14 and later in its flat or nested form.

    Raises:
        UserError: it cannot be read, or names a profile that is not known.
    """
    try:
        return metadata_of(json.loads(path.read_text()))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is no Ouster metadata: {type(error).__name__}: {error}") from None


def metadata_of(document: Mapping[str, Any]) -> OusterMetadata:
    """Return the metadata of a JSON document. Raises KeyError, TypeError or ValueError where it is none."""
    flat: dict[str, Any] = {}
    for section in ("sensor_info", "beam_intrinsics", "lidar_intrinsics", "lidar_data_format", "config_params"):
        flat |= document.get(section, {}) or {}
    flat |= {key: value for key, value in document.items() if not isinstance(value, dict)}
    form = document.get("data_format") or document.get("lidar_data_format") or {}
    mode = flat.get("lidar_mode", "1024x10")
    altitude = np.array(flat["beam_altitude_angles"], np.float64)
    azimuth = np.array(flat["beam_azimuth_angles"], np.float64)
    kept = np.flatnonzero((altitude != 0) | (azimuth != 0)) if len(altitude) == 64 else np.arange(len(altitude))
    beams = int(form.get("pixels_per_column", len(kept)))
    if len(altitude) != beams:
        altitude, azimuth = altitude[kept], azimuth[kept]
    profile = form.get("udp_profile_lidar") or flat.get("udp_profile_lidar") or "LEGACY"
    if profile not in PROFILES:
        raise ValueError(f"UDP profile {profile}; expected one of {', '.join(PROFILES)}")
    if len(altitude) != len(azimuth) or len(altitude) != beams:
        raise ValueError(f"{len(altitude)} altitudes, {len(azimuth)} azimuths for {beams} beams")
    mounting = np.array(flat.get("lidar_to_sensor_transform") or np.diag([-1, -1, 1, 1]), np.float64).reshape(4, 4)
    return OusterMetadata(
        product=str(flat.get("prod_line", "Ouster")),
        profile=profile,
        columns=int(form.get("columns_per_frame", str(mode).partition("x")[0])),
        columns_per_packet=int(form.get("columns_per_packet", 16)),
        altitude_deg=altitude,
        azimuth_deg=azimuth,
        beam_origin_mm=float(flat.get("lidar_origin_to_beam_origin_mm", 0.0)),
        sensor_from_lidar_mm=mounting,
        lidar_port=int(flat.get("udp_port_lidar") or 7502),
        imu_port=int(flat.get("udp_port_imu") or 7503),
    )


class OusterDecoder:
    """Assembles frames: all columns of one frame number.

    Args:
        metadata: of the sensor that sent the packets.
        sensor_time: stamps are the columns' own (PTP or time since power-up); False moves them so that the first
            packet's arrival is right, which keeps the sensor's exact spacing.
    """

    intensity_scale = 255.0

    def __init__(self, metadata: OusterMetadata, *, sensor_time: bool = False) -> None:
        self.metadata = metadata
        self.name = f"Ouster {metadata.product}, {metadata.profile}"
        self.skipped: Counter[str] = Counter()
        self._sensor_time = sensor_time
        self._shift_ns: int | None = 0 if sensor_time else None
        self._frame: int | None = None
        self._range = np.zeros((metadata.beams, metadata.columns, 2), np.uint32)
        self._reflectivity = np.zeros((metadata.beams, metadata.columns, 2), np.uint16)
        self._t_ns = np.zeros(metadata.columns, np.int64)
        self._direction, self._offset_mm = _beam_geometry(metadata)
        self.last_range_mm = self._range[..., 0].copy()
        """(beams, columns) first returns of the last frame, staggered as received, millimetres."""

    def feed(self, packet: bytes, t_ns: int) -> Iterator[Points]:
        layout, meta = PROFILES[self.metadata.profile], self.metadata
        if len(packet) != meta.packet_bytes():
            self.skipped[WRONG_SIZE] += 1
            return
        data = np.frombuffer(packet, np.uint8)
        body = data[layout.header : len(data) - layout.footer].reshape(meta.columns_per_packet, -1)
        t_column = np.ascontiguousarray(body[:, :8]).view("<u8")[:, 0].astype(np.int64)
        number = np.ascontiguousarray(body[:, 8:10]).view("<u2")[:, 0]
        if layout.header:
            frame = int.from_bytes(packet[2:4], "little")
            valid = (body[:, 10] & 1).astype(bool)
        else:
            frame = int.from_bytes(packet[10:12], "little")
            valid = _legacy_valid(body)
        if self._frame is not None and frame != self._frame:
            if (self._frame - frame) % 65536 < 8:  # packets may come out of order
                self.skipped[OLD_COLUMN] += meta.columns_per_packet
                return
            yield from self.finish()
        self._frame = frame
        if not self._sensor_time:
            self._follow_clock(t_ns - int(t_column[-1]))
        good = valid & (number < meta.columns)
        self._fill(layout, body[good], number[good], t_column[good])

    def _follow_clock(self, shift_ns: int) -> None:
        """Keep the first packet's shift from the sensor's clock to the host's, until the sensor has been restarted."""
        if self._shift_ns is None:
            self._shift_ns = shift_ns
        elif abs(shift_ns - self._shift_ns) > CLOCK_JUMP_NS:
            self._shift_ns = shift_ns
            self.skipped[CLOCK_SET] += 1

    def _fill(self, layout: Profile, body: NDArray[np.uint8], number: NDArray[np.uint16], t: NDArray[np.int64]) -> None:
        end = body.shape[1] - layout.column_end
        pixels = body[:, layout.column : end].reshape(len(body), self.metadata.beams, layout.pixel)
        for which in range(layout.returns):
            start = which * layout.second
            word = np.ascontiguousarray(pixels[..., start : start + layout.range_bytes]).view(f"<u{layout.range_bytes}")
            ranges = (word[..., 0] & layout.range_mask).astype(np.uint32) * layout.range_mm
            place, size = layout.reflectivity
            shine = np.ascontiguousarray(pixels[..., start + place : start + place + size]).view(f"<u{size}")[..., 0]
            self._range[:, number, which] = ranges.T
            self._reflectivity[:, number, which] = shine.T
        self._t_ns[number] = t

    def finish(self) -> Iterator[Points]:
        if self._frame is None:
            return
        self.last_range_mm = self._range[..., 0].copy()
        points = Points.joined([self._points(which) for which in range(PROFILES[self.metadata.profile].returns)])
        self._frame = None
        self._range[:] = 0
        if len(points):
            yield points

    def _points(self, which: int) -> Points:
        # By column, so that points come in the order of time.
        column, beam = np.nonzero(self._range[..., which].T)
        distance = self._range[beam, column, which].astype(np.float64)
        along = (distance - self.metadata.beam_origin_mm)[:, None] * self._direction[beam, column]
        xyz = (along + self._offset_mm[beam, column]) / 1000.0
        ring = np.argsort(np.argsort(self.metadata.altitude_deg))
        assert self._shift_ns is not None
        return Points(
            xyz.astype(np.float32),
            np.minimum(self._reflectivity[beam, column, which], 255).astype(np.float32),
            ring[beam].astype(np.uint16),
            self._t_ns[column] + self._shift_ns,
        )


def _legacy_valid(body: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray(np.ascontiguousarray(body[:, -4:]).view("<u4")[:, 0] == 0xFFFFFFFF)


def _beam_geometry(meta: OusterMetadata) -> tuple[Float, Float]:
    """Return unit directions and origins (beams, columns, 3) in the sensor's frame, millimetres."""
    encoder = 2 * np.pi * (1.0 - np.arange(meta.columns) / meta.columns)
    angle = encoder[None] - np.radians(meta.azimuth_deg)[:, None]
    altitude = np.broadcast_to(np.radians(meta.altitude_deg)[:, None], angle.shape)
    direction = np.stack(
        (np.cos(angle) * np.cos(altitude), np.sin(angle) * np.cos(altitude), np.sin(altitude)), axis=-1
    )
    origin = np.zeros_like(direction)
    origin[..., 0], origin[..., 1] = meta.beam_origin_mm * np.cos(encoder), meta.beam_origin_mm * np.sin(encoder)
    rotation, moved = meta.sensor_from_lidar_mm[:3, :3], meta.sensor_from_lidar_mm[:3, 3]
    return direction @ rotation.T, origin @ rotation.T + moved


__all__ = ["PROFILES", "OusterDecoder", "OusterMetadata", "metadata_of", "read_metadata"]
