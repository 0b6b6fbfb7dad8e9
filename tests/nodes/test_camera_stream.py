"""Cameras: a video on a loopback connection that stops and comes back, and what the settings must not say."""

import io
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from perception.errors import NotInstalledError, UserError
from perception.messages import Image
from perception.messages.array import host
from perception.nodes import _video
from perception.nodes._video import backend_of, need
from perception.nodes.camera_stream import CameraStream, CameraStreamConfig
from perception.runtime.node import Bound, NodeSetup

av = pytest.importorskip("av", reason="needs PyAV: pip install 'perception-runtime[camera]'")
cv2 = pytest.importorskip("cv2", reason="needs OpenCV: pip install 'perception-runtime[camera]'")

SIZE = (64, 48)  # width, height
RATE_HZ = 50
NOWHERE = NodeSetup(name="camera", rig=None, inputs={}, search_folders=())


def grey(k: int) -> int:
    """How bright picture k is: every picture can be told from its neighbours."""
    return 20 + 20 * (k % 11)


def video(pictures: int) -> bytes:
    """A made-up video in an MPEG transport stream, all of one grey a picture."""
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=RATE_HZ, options={"g": "1"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for k in range(pictures):
            frame = av.VideoFrame.from_ndarray(np.full((SIZE[1], SIZE[0], 3), grey(k), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


class Server:
    """Sends a video to whoever connects, and hangs up at its end."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])

    def serve(self, data: bytes, seconds: float, step_s: float = 0.01) -> None:
        """Serve one client, at an even rate, a piece at each step."""
        with suppress(OSError):
            client, _ = self.listener.accept()
            with client:
                size = -(-len(data) // max(1, round(seconds / step_s)))
                for at in range(0, len(data), size):
                    client.sendall(data[at : at + size])
                    time.sleep(step_s)


SESSION = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=video\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 33\r\na=rtpmap:33 MP2T/90000\r\na=control:track\r\n"
)


def serve_rtsp(server: Server, data: bytes, seconds: float) -> None:
    """Serve one client by RTSP: what it asks is granted, and from PLAY on the video comes in between, as RTP."""
    answers = {
        "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(SESSION)}\r\n\r\n{SESSION}",
        "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n\r\n",
    }
    with suppress(OSError):
        client, _ = server.listener.accept()
        with client, client.makefile("rb") as asked:
            method = ""
            while method != "PLAY":
                lines = list(iter(lambda: asked.readline().decode().strip(), ""))
                if not lines:
                    return
                method = lines[0].partition(" ")[0]
                number = next(line for line in lines if line.startswith("CSeq"))
                client.sendall(f"RTSP/1.0 200 OK\r\n{number}\r\n{answers.get(method, chr(13) + chr(10))}".encode())
            size = 7 * 188
            for k, at in enumerate(range(0, len(data), size)):
                rtp = struct.pack(">BBHII", 0x80, 33, k & 0xFFFF, k * 3600, 1) + data[at : at + size]
                client.sendall(b"$\0" + len(rtp).to_bytes(2, "big") + rtp)
                time.sleep(seconds * size / len(data))


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    with made.listener:
        yield made


def listened(driver: CameraStream, seconds: float = 60.0) -> Iterator[object]:
    end = time.monotonic() + seconds
    for _, item in driver.messages():
        yield item
        if time.monotonic() > end:
            return


def test_a_camera_that_hangs_up_is_opened_again_and_the_status_says_so(server: Server) -> None:
    driver = CameraStream(CameraStreamConfig(sensor="cam", source=f"tcp://127.0.0.1:{server.port}", timeout_s=2.0))
    data = video(50)

    def serve() -> None:
        server.serve(data, 1.0)
        server.serve(data, 1.0)

    threading.Thread(target=serve, daemon=True).start()
    began_ns = time.time_ns()
    images: list[Image] = []
    bounds, hung_up = 0, 0
    for item in listened(driver):
        images += [item] if isinstance(item, Image) else []
        bounds += isinstance(item, Bound)
        hung_up += isinstance(item, Bound) and bool(driver.monitor.failure)
        if driver.monitor.reconnections and len(images) > 10:
            break
    assert bounds
    assert hung_up  # and joins were told not to wait
    stamps = [image.header.t_sensor_ns for image in images]
    assert stamps == sorted(stamps)
    assert began_ns < stamps[0] < stamps[-1] <= time.time_ns()
    assert {image.header.frame_id for image in images} == {"cam_optical"}
    for image in images:
        pixels = host(image.data)
        assert pixels.shape == (SIZE[1], SIZE[0], 3)
        assert min(abs(float(pixels.mean()) - grey(k)) for k in range(11)) < 3  # lossy, but no two mixed
    (note,) = driver.monitor.notes(time.monotonic_ns())
    assert "1 reconnections" in note
    assert "mpeg2video decoded by software" in note


def test_a_camera_is_read_by_rtsp_and_again_after_it_hung_up(server: Server) -> None:
    driver = CameraStream(CameraStreamConfig(source=f"rtsp://127.0.0.1:{server.port}/front", timeout_s=2.0))
    data = video(60)

    def serve() -> None:
        for _ in range(2):
            serve_rtsp(server, data, 0.8)

    threading.Thread(target=serve, daemon=True).start()
    images: list[Image] = []
    for item in listened(driver):
        images += [item] if isinstance(item, Image) else []
        if driver.monitor.reconnections and len(images) > 20:
            break
    for image in images:
        assert min(abs(float(host(image.data).mean()) - grey(k)) for k in range(11)) < 3


def test_the_stamps_of_a_stream_are_even_however_unevenly_it_arrives(server: Server) -> None:
    driver = CameraStream(
        CameraStreamConfig(source=f"tcp://127.0.0.1:{server.port}", stamps="offset", delay_ms=40.0, timeout_s=2.0)
    )
    threading.Thread(target=server.serve, args=(video(60), 60 / RATE_HZ, 0.1), daemon=True).start()  # five at a time
    images: list[Image] = []
    for item in listened(driver):
        images += [item] if isinstance(item, Image) else []
        if driver.monitor.failure:
            break
    assert len(images) > 30
    assert all(image.header.t_sensor_ns < time.time_ns() - 40_000_000 for image in images)
    stamps = np.array([image.header.t_sensor_ns for image in images])
    assert (np.diff(stamps) >= 0).all()
    period_ns = 1_000_000_000 // RATE_HZ
    even = np.abs(np.diff(stamps) - period_ns * np.rint(np.diff(stamps) / period_ns)) < 1000
    assert even[len(even) // 2 :].mean() > 0.8  # the quickest of them is known by then, but for the machine's load


def test_pictures_of_a_motion_jpeg_server_are_read_by_opencv_too(server: Server) -> None:
    _, jpeg = cv2.imencode(".jpg", np.full((SIZE[1], SIZE[0], 3), (200, 100, 50), np.uint8))  # blue, green, red
    part = b"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg.tobytes() + b"\r\n"
    head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=picture\r\n\r\n"

    def serve() -> None:
        for _ in range(2):
            server.serve(head + 100 * part, 1.0)

    threading.Thread(target=serve, daemon=True).start()
    for backend in ("pyav", "opencv"):
        driver = CameraStream(
            CameraStreamConfig.model_validate(
                {"source": f"http://127.0.0.1:{server.port}/", "backend": backend, "timeout_s": 5.0}
            )
        )
        image = next(item for item in listened(driver) if isinstance(item, Image))
        assert image.encoding == "rgb8"
        np.testing.assert_allclose(host(image.data).mean(axis=(0, 1)), (50, 100, 200), atol=4)


def test_silence_of_a_camera_that_is_not_there_is_told_with_its_reason(server: Server) -> None:
    server.listener.close()
    driver = CameraStream(CameraStreamConfig(source=f"tcp://127.0.0.1:{server.port}", timeout_s=1.0))
    bounds = [item for item, _ in zip(listened(driver), range(8), strict=False)]
    assert all(isinstance(item, Bound) for item in bounds)
    (reason,) = driver.monitor.degraded(time.monotonic_ns() + 3 * 10**9)
    assert "nothing received yet" in reason
    assert "refused" in reason


@pytest.mark.parametrize(
    ("source", "wanted", "backend"),
    [
        ("/dev/video0", "auto", "opencv"), ("2", "auto", "opencv"), ("rtsp://10.0.0.5/front", "auto", "pyav"),
        ("rtsp://10.0.0.5/front", "opencv", "opencv"), ("v4l2src ! videoconvert ! appsink", "auto", "gstreamer"),
    ],
)  # fmt: skip
def test_what_opens_a_source_follows_from_how_it_is_written(source: str, wanted: str, backend: str) -> None:
    assert backend_of(source, wanted) == backend


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(UserError, match="does not open '/dev/video0', which is for opencv"):
        backend_of("/dev/video0", "pyav")
    with pytest.raises(UserError, match="V4L2 devices only"):
        CameraStream.topics(CameraStreamConfig(source="rtsp://10.0.0.5/front", width_px=640), NOWHERE)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_video, "find_spec", lambda _: None)
    with pytest.raises(NotInstalledError, match=r"perception-runtime\[camera\]"):
        need("pyav")
    monkeypatch.undo()
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        with pytest.raises(NotInstalledError, match="built without GStreamer"):
            need("gstreamer")


def test_hardware_that_is_not_there_is_an_error_where_it_is_asked_for_and_else_left_out(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine may have the hardware that must be missing here")
    monkeypatch.setattr(_video, "_is_there", lambda _: True)  # as on a machine whose driver does not work

    def serve() -> None:
        for _ in range(8):
            server.serve(video(60), 0.2)

    threading.Thread(target=serve, daemon=True).start()
    source = {"source": f"tcp://127.0.0.1:{server.port}", "timeout_s": 2.0}
    driver = CameraStream(CameraStreamConfig.model_validate({**source, "decode": "cuda"}))
    next(item for item in listened(driver) if driver.monitor.failure)
    assert "to be decoded by cuda" in driver.monitor.failure
    driver = CameraStream(CameraStreamConfig.model_validate(source))
    assert any(isinstance(item, Image) for item in listened(driver))
    assert driver.monitor.facts == ("mpeg2video decoded by software",)


def test_a_device_that_is_not_there_is_a_lost_connection_and_no_crash() -> None:
    driver = CameraStream(CameraStreamConfig(source="/dev/video997"))
    items = [item for item, _ in zip(listened(driver), range(3), strict=False)]
    assert all(isinstance(item, Bound) for item in items)
    assert "cannot be opened" in driver.monitor.failure
