"""Pictures of cameras and video streams, by PyAV or OpenCV, each as an iterator that opens the device and blocks.

A stream that cannot be opened, or breaks, is an OSError.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import NotInstalledError, UserError

Backend: TypeAlias = Literal["pyav", "opencv", "gstreamer"]
WAITING_STAMPS = 64
"""Packets whose pictures a decoder may still hold."""
GSTREAMER = (
    "this OpenCV was built without GStreamer, as those of the Python index are; use one that has it, such as the "
    "distribution's python3-opencv, or a `source` that PyAV opens"
)


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture.

    Attributes:
        rgb: (H, W, 3) uint8.
        arrival_ns: host time at which its data had come, before it was decoded.
        stream_ns: its own stamp in the clock of the stream; None where the stream has none.
    """

    rgb: NDArray[np.uint8]
    arrival_ns: int
    stream_ns: int | None


@dataclass(frozen=True)
class VideoSource:
    """What to open, and how; see the settings of `camera_stream`."""

    address: str
    timeout_s: float
    decode: str = "auto"
    transport: str = "tcp"
    width_px: int | None = None
    height_px: int | None = None
    rate_hz: float | None = None
    pixel_format: str | None = None


def backend_of(address: str, wanted: str = "auto") -> Backend:
    """Return what opens a source: GStreamer its pipelines, OpenCV V4L2 devices, PyAV all else.

    Raises:
        UserError: the backend that is wanted cannot open it.
    """
    kind: Backend = "gstreamer" if "!" in address else "opencv" if _is_device(address) else "pyav"
    if wanted in ("auto", kind):
        return kind
    if (wanted, kind) == ("opencv", "pyav"):  # streams by OpenCV's own FFmpeg
        return "opencv"
    raise UserError(f"`backend: {wanted}` does not open '{address}', which is for {kind}")


def need(backend: Backend) -> None:
    """Raise NotInstalledError where what a backend needs is missing."""
    package = "av" if backend == "pyav" else "cv2"
    if find_spec(package) is None:
        raise NotInstalledError(f"this needs the Python module {package}: pip install 'perception-runtime[camera]'")
    if backend == "gstreamer":
        import cv2

        if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise NotInstalledError(GSTREAMER)


def pictures(source: VideoSource, backend: Backend, decoder: Callable[[str], None]) -> Iterator[Picture]:
    """Open a source and yield its pictures; `decoder` is told what decodes them."""
    return _by_pyav(source, decoder) if backend == "pyav" else _by_opencv(source, backend, decoder)


def _is_device(address: str) -> bool:
    return address.isdigit() or address.startswith("/dev/video")


def _by_pyav(source: VideoSource, decoder: Callable[[str], None]) -> Iterator[Picture]:
    import av

    try:
        with _opened(source) as container:
            if not container.streams.video:
                raise ConnectionError("the stream has no pictures")
            yield from _decoded(container, container.streams.video[0], decoder)
    except av.error.FFmpegError as error:
        raise ConnectionError(f"{source.address}: {error.strerror or error}") from None


def _opened(source: VideoSource) -> Any:
    """Open a stream on the hardware that decodes it, or without; ConnectionError where that cannot be."""
    import av

    # Half a second is enough to know a stream, and what waits while it is looked at is not shown late.
    options = {"fflags": "nobuffer", "analyzeduration": "500000", "rtsp_transport": source.transport}
    failure: Exception | None = None
    for hardware in _hardware(source.decode):
        try:
            return av.open(source.address, options=options, timeout=source.timeout_s, hwaccel=hardware)
        except (av.error.FFmpegError, RuntimeError) as error:  # a decoder that is there may still not be usable
            failure = error
    said = getattr(failure, "strerror", None) or failure
    on = "" if source.decode in ("auto", "software") else f" (to be decoded by {source.decode})"
    raise ConnectionError(f"{source.address}{on}: {said}")


def _decoded(container: Any, stream: Any, decoder: Callable[[str], None]) -> Iterator[Picture]:
    stream.thread_type = "SLICE"  # threads by frame would each hold a picture back
    arrivals: dict[int, int] = {}
    told = False
    for packet in container.demux(stream):
        arrival_ns = time.time_ns()
        if packet.pts is not None:
            arrivals[packet.pts] = arrival_ns
            if len(arrivals) > WAITING_STAMPS:
                del arrivals[next(iter(arrivals))]
        for frame in packet.decode():
            if not told:
                context, told = stream.codec_context, True
                decoder(f"{context.name} decoded by {'hardware' if context.is_hwaccel else 'software'}")
            came_ns = arrival_ns if frame.pts is None else arrivals.pop(frame.pts, arrival_ns)
            known = frame.pts is not None and frame.time_base is not None
            yield Picture(
                frame.to_ndarray(format="rgb24"), came_ns, round(frame.pts * frame.time_base * 10**9) if known else None
            )


def _hardware(decode: str) -> Iterator[Any]:
    """Yield what to try to decode on, in this order; None is software."""
    from av.codec.hwaccel import HWAccel, hwdevices_available

    if decode == "auto":
        for device in ("cuda", "vaapi", "videotoolbox", "drm"):
            if device in hwdevices_available() and _is_there(device):
                yield HWAccel(device, allow_software_fallback=True)
    yield None if decode in ("auto", "software") else HWAccel(decode, allow_software_fallback=False)


def _is_there(device: str) -> bool:
    """Return whether a kind of decoder is there, and not just known to the library."""
    from pathlib import Path

    return {
        "cuda": Path("/dev/nvidiactl").exists(),
        "vaapi": Path("/dev/dri/renderD128").exists(),
        "drm": Path("/dev/dri/card0").exists(),
    }.get(device, True)


def _by_opencv(source: VideoSource, backend: Backend, decoder: Callable[[str], None]) -> Iterator[Picture]:
    import cv2

    api = {"gstreamer": cv2.CAP_GSTREAMER, "pyav": cv2.CAP_FFMPEG}.get(
        backend, cv2.CAP_V4L2 if _is_device(source.address) else cv2.CAP_FFMPEG
    )
    capture = cv2.VideoCapture()
    try:
        where: str | int = int(source.address) if source.address.isdigit() else source.address
        if not capture.open(where, api, _wanted(source, api)):
            raise ConnectionError(f"{source.address}: cannot be opened")
        decoder(f"read by OpenCV's {capture.getBackendName()}")
        while capture.grab():
            arrival_ns = time.time_ns()
            stream_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
            read, bgr = capture.retrieve()
            if read:
                rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
                yield Picture(rgb, arrival_ns, round(stream_ms * 1e6) if stream_ms > 0 else None)
    except cv2.error as error:
        raise ConnectionError(f"{source.address}: {error.err}") from None
    finally:
        capture.release()


def _wanted(source: VideoSource, api: int) -> list[int]:
    """Return properties for OpenCV, value after key: those of a camera, or the patience with a stream."""
    import cv2

    if api == cv2.CAP_FFMPEG:
        patience = round(source.timeout_s * 1000)
        return [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, patience, cv2.CAP_PROP_READ_TIMEOUT_MSEC, patience]
    if api != cv2.CAP_V4L2:
        return []
    code = cv2.VideoWriter.fourcc(*source.pixel_format) if source.pixel_format else None
    wanted = (
        (cv2.CAP_PROP_FOURCC, code), (cv2.CAP_PROP_FRAME_WIDTH, source.width_px),
        (cv2.CAP_PROP_FRAME_HEIGHT, source.height_px), (cv2.CAP_PROP_FPS, source.rate_hz),
    )  # fmt: skip
    return [int(number) for key, value in wanted if value is not None for number in (key, value)]


__all__ = ["Backend", "Picture", "VideoSource", "backend_of", "need", "pictures"]
