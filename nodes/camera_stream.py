"""A camera: V4L2, RTSP, HTTP and whatever else PyAV opens, or a GStreamer pipeline.

out: <sensor>/image, an Image (rgb8) for each picture, in `<sensor>_optical`.

Stamps: the arrival of the picture's data at this host, before it was decoded; or the stamps of the stream, laid on the
host's clock by the quickest pictures, where it bears any (V4L2, RTSP, MPEG-TS). `delay_ms` is taken off either: from
mid exposure to arrival, which only the camera's documentation or a measurement tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field

from perception.errors import UserError
from perception.messages import Header, Image, Message
from perception.nodes._clock_offset import ClockOffset
from perception.nodes._live_source import LATE_NS, LiveSource, frame_of, period_of
from perception.nodes._pump import pumped
from perception.nodes._video import Picture, VideoSource, backend_of, need, pictures
from perception.runtime.node import NodeConfig, NodeSetup

WAITING = 2
"""Pictures that wait for the graph; of a live camera the newest count."""


class CameraStreamConfig(NodeConfig):
    """Settings of the driver."""

    sensor: str = "camera"
    """Name of the camera in the rig; it publishes `<sensor>/image`."""
    source: str
    """`/dev/video0`, an address such as `rtsp://10.0.0.5/stream`, or a GStreamer pipeline that ends in `appsink`."""
    backend: Literal["auto", "pyav", "opencv", "gstreamer"] = "auto"
    """auto: GStreamer for pipelines, OpenCV for V4L2 devices, PyAV for addresses."""
    decode: Literal["auto", "software", "cuda", "vaapi", "qsv", "drm", "videotoolbox"] = "auto"
    """PyAV: what decodes. auto takes hardware that is there and can, else software; the status tells which."""
    transport: Literal["tcp", "udp"] = "tcp"
    """RTSP: tcp loses no pictures, udp waits for none."""
    width_px: Annotated[int, Field(gt=0)] | None = None
    """V4L2: picture size to ask for; by default the device's."""
    height_px: Annotated[int, Field(gt=0)] | None = None
    """V4L2: see `width_px`."""
    rate_hz: Annotated[float, Field(gt=0)] | None = None
    """V4L2: rate to ask for."""
    pixel_format: Annotated[str, Field(min_length=4, max_length=4)] | None = None
    """V4L2: format to ask for, as four characters: MJPG, YUYV."""
    stamps: Literal["arrival", "offset"] = "arrival"
    """arrival: at this host. offset: the stream's stamps, laid on the host's clock."""
    delay_ms: Annotated[float, Field(ge=0)] = 0.0
    """From mid exposure to arrival; it is taken off."""
    timeout_s: Annotated[float, Field(gt=0)] = 5.0
    """A stream that says nothing for so long is opened anew."""


class CameraStream(LiveSource):
    """One camera."""

    Config = CameraStreamConfig

    @classmethod
    def create(cls, config: CameraStreamConfig, setup: NodeSetup) -> Self:
        need(backend_of(config.source, config.backend))
        known = setup.rig.sensors.get(config.sensor) if setup.rig is not None else None
        camera = known.camera if known is not None else None
        size = None if camera is None else (camera.width_px, camera.height_px)
        frame = frame_of(setup, config.sensor, f"{config.sensor}_optical")
        return cls(config, frame, period_of(setup, config.sensor), size)

    @classmethod
    def topics(cls, config: CameraStreamConfig, setup: NodeSetup) -> Mapping[str, type[Message]]:
        backend = backend_of(config.source, config.backend)
        if backend != "opencv" and any((config.width_px, config.height_px, config.rate_hz, config.pixel_format)):
            raise UserError("`width_px`, `height_px`, `rate_hz` and `pixel_format` can be asked of V4L2 devices only")
        known = setup.rig.sensors.get(config.sensor) if setup.rig is not None else None
        if known is not None and known.kind != "camera":
            raise UserError(f"sensor '{config.sensor}' of the rig is of kind {known.kind}, not camera")
        return {f"{config.sensor}/image": Image}

    def __init__(
        self, config: CameraStreamConfig, frame: str = "", period_ns: int | None = None,
        size_px: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config, config.sensor, (f"{config.sensor}/image",), period_ns)
        self.config: CameraStreamConfig = config
        self.late_ns = LATE_NS + round(config.delay_ms * 1e6)
        self._frame, self._size_px = frame or f"{config.sensor}_optical", size_px
        self._clock = ClockOffset()

    def received(self) -> Iterator[tuple[str, Message] | None]:
        config = self.config
        source = VideoSource(
            config.source, config.timeout_s, config.decode, config.transport, config.width_px, config.height_px,
            config.rate_hz, config.pixel_format,
        )  # fmt: skip
        backend = backend_of(config.source, config.backend)
        for picture in pumped(lambda: pictures(source, backend, self._told_decoder), WAITING, self._lose):
            yield None if picture is None else (f"{config.sensor}/image", self._image(picture))

    def _told_decoder(self, what: str) -> None:
        self.monitor.facts = (what,)

    def _lose(self, _: Picture) -> None:
        self.monitor.counts["pictures replaced by newer ones"] += 1

    def _image(self, picture: Picture) -> Image:
        height, width = picture.rgb.shape[:2]
        t_ns = picture.arrival_ns
        if self.config.stamps == "offset" and picture.stream_ns is not None:
            t_ns = self._clock.to_host(picture.stream_ns, picture.arrival_ns)
            self.monitor.counts["jumps of its clock"] = self._clock.jumps
        degraded: tuple[str, ...] = ()
        if self._size_px not in (None, (width, height)):
            degraded = (f"{self.config.sensor}: {width} x {height} pixels, the rig is calibrated for {self._size_px}",)
        header = Header(
            frame_id=self._frame, t_sensor_ns=t_ns - round(self.config.delay_ms * 1e6), degraded=degraded
        )  # fmt: skip
        return Image(header=header, encoding="rgb8", height_px=height, width_px=width, data=picture.rgb)


__all__ = ["CameraStream", "CameraStreamConfig"]
