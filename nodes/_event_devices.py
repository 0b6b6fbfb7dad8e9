"""Event cameras by the libraries of their makers, each as an iterator that opens the device.

What is yielded is a batch of events or one trigger; None where nothing came for a moment. A device that cannot be
opened, or is gone, is an OSError.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import NotInstalledError

POLL_S = 0.001
QUIET_POLLS = 100
EDGES = {
    "EXTERNAL_SIGNAL_RISING_EDGE": True, "EXTERNAL_SIGNAL_FALLING_EDGE": False, "EXTERNAL_SIGNAL_PULSE": True,
    "EXTERNAL_GENERATOR_RISING_EDGE": True, "EXTERNAL_GENERATOR_FALLING_EDGE": False,
}  # fmt: skip
"""Rising or falling, by dv-processing's name of a trigger; its other triggers are no edges."""
METAVISION = (
    "this needs Prophesee's Metavision SDK, or OpenEB, with its Python modules (metavision_core) in the path of this "
    "Python; it is no package of an index: see docs.prophesee.ai, installation"
)


@dataclass(frozen=True, eq=False)
class Batch:
    """Events in time order.

    Attributes:
        t_us: (N,) of the camera's clock.
        x, y: (N,) pixels.
        polarity: (N,) 1 brighter, 0 darker.
        width_px, height_px: of the sensor.
    """

    t_us: NDArray[np.int64]
    x: NDArray[np.uint16]
    y: NDArray[np.uint16]
    polarity: NDArray[np.uint8]
    width_px: int
    height_px: int


@dataclass(frozen=True)
class Edge:
    """An edge on a trigger input."""

    t_us: int
    channel: int
    rising: bool


Item: TypeAlias = "Batch | Edge"


def need_dv() -> None:
    """Raise NotInstalledError where dv-processing is missing."""
    if find_spec("dv_processing") is None:
        raise NotInstalledError("this needs dv-processing: pip install 'perception-runtime[events]'")


def need_metavision() -> None:
    """Raise NotInstalledError where the Metavision SDK is missing."""
    if find_spec("metavision_core") is None:
        raise NotInstalledError(METAVISION)


def dv_network(address: str, port: int) -> Iterator[Item | None]:
    """Read the event stream that a program on iniVation's libraries serves over TCP."""
    import dv_processing as dv

    yield from _dv(lambda: dv.io.NetworkReader(address, port), f"{address}:{port}")


def dv_camera(serial: str) -> Iterator[Item | None]:
    """Read an iniVation camera on USB: that of a serial number, or the first."""
    import dv_processing as dv

    yield from _dv(lambda: dv.io.camera.open(serial) if serial else dv.io.camera.open(), serial or "camera")


def _dv(connect: Any, what: str) -> Iterator[Item | None]:
    try:
        device = connect()
    except RuntimeError as error:
        raise ConnectionError(f"{what}: {_first_line(error)}") from None
    size = device.getEventResolution()
    if size is None:
        raise ConnectionError(f"{what}: gives no events")
    has_triggers, quiet = device.isTriggerStreamAvailable(), 0
    while True:
        try:
            events = device.getNextEventBatch()
            triggers = device.getNextTriggerBatch() if has_triggers else None
        except RuntimeError as error:
            raise ConnectionError(f"{what}: {_first_line(error)}") from None
        for trigger in triggers or ():
            if trigger.type.name in EDGES:
                yield Edge(int(trigger.timestamp), 0, EDGES[trigger.type.name])
        if events is not None and len(events):
            quiet = 0
            rows = events.numpy()
            yield Batch(
                rows["timestamp"].astype(np.int64), rows["x"].astype(np.uint16), rows["y"].astype(np.uint16),
                rows["polarity"].astype(np.uint8), int(size[0]), int(size[1]),
            )  # fmt: skip
            continue
        if not device.isRunningAny():
            return
        quiet += 1
        time.sleep(POLL_S)
        if quiet % QUIET_POLLS == 0:
            yield None


def metavision_camera(serial: str, packet_ms: float) -> Iterator[Item]:
    """Read a Prophesee camera: that of a serial number, or the first. Blocks while the camera says nothing."""
    from metavision_core.event_io import EventsIterator

    try:
        events = EventsIterator(input_path=serial, delta_t=round(packet_ms * 1000))
        height, width = events.get_size()
        for rows in events:
            if len(rows):
                yield Batch(
                    rows["t"].astype(np.int64), rows["x"].astype(np.uint16), rows["y"].astype(np.uint16),
                    rows["p"].astype(np.uint8), int(width), int(height),
                )  # fmt: skip
    except (RuntimeError, OSError) as error:  # the SDK's exceptions are RuntimeErrors in Python
        raise ConnectionError(f"{serial or 'camera'}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    """Return what a library says, without its stack trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("RuntimeError:")] or lines or [type(error).__name__]
    return said[0].removeprefix("RuntimeError: ").partition(" [system:")[0]


__all__ = ["Batch", "Edge", "dv_camera", "dv_network", "metavision_camera", "need_dv", "need_metavision"]
