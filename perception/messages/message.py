"""What every message has: a header that is a function of the input alone, and a timing that is not."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self, TypeAlias

import msgspec
import numpy as np

from perception.messages.array import Array

SensorState: TypeAlias = Literal["ok", "late", "frozen", "lost"]


class ModelId(msgspec.Struct, frozen=True):
    """The network behind an output: `id` names card and weights hash, `engine` what ran it."""

    id: str
    engine: str
    trained: bool = True  # False: filled or random weights, the output means nothing

    @property
    def card(self) -> str:
        """The name before the hash of the weights, `dsvt_compact sha256:...`, or before a version, `dsvt@1`."""
        return self.id.partition(" ")[0].partition("@")[0]


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Who speaks of which instant, in which frame, and how far it can be trusted.

    In `lockstep` it is bit-identical from run to run. A node fills `frame_id`, `t_sensor_ns` and what it knows;
    `schema`, `run`, `epoch`, `seq` and `topic` are written by the runtime when the message is published.
    """

    frame_id: str  # coordinate frame of every number in the message
    t_sensor_ns: int  # sensor time, nanoseconds since the Unix epoch, in `clock`
    clock: str = "host"  # "assumed" where a log holds no times
    schema: str = ""  # for example "perception.tracked_objects/1"
    run: str = ""
    epoch: int = 0  # beginnings of this publisher in this run: starts, and seeks or loops of a replay
    seq: int = 0  # counts up by one in an epoch; a gap is a dropped message
    sync_residual_ns: dict[str, int] = msgspec.field(default_factory=dict)  # input -> its stamp minus t_sensor_ns
    sensors: dict[str, SensorState] = msgspec.field(default_factory=dict)  # sensor -> its state at that instant
    degraded: tuple[str, ...] = ()  # reasons; empty is good
    adaptations: tuple[str, ...] = ()  # what was done to meet a model card
    calibration: str = ""  # content hash of rig and calibration
    models: tuple[ModelId, ...] = ()


class Span(msgspec.Struct, frozen=True, array_like=True):
    """One stage on the way of a message; `start_ns` is host time."""

    stage: str
    start_ns: int
    duration_ns: int


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """When the message passed through this host; not part of its identity."""

    t_received_ns: int = 0  # host time at which the sensor's data arrived
    t_published_ns: int = 0  # host time of publication
    spans: tuple[Span, ...] = ()
    deadline_met: bool | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A typed record. Subclasses add fields; fields of type `Array` travel as aligned buffers."""

    SCHEMA: ClassVar[str] = ""
    header: Header
    timing: Timing = Timing()

    def keep(self) -> Self:
        """Return a copy whose arrays are its own and stay valid after the node's method returns."""
        changes: dict[str, Any] = {
            name: np.array(value, copy=True)
            for name in self.__struct_fields__
            if isinstance(value := getattr(self, name), np.ndarray)
        }
        return msgspec.structs.replace(self, **changes) if changes else self


def array_bytes(message: Message) -> int:
    """Return the bytes of a message's arrays on the host: what a queue of such messages holds on to."""
    return sum(
        value.nbytes for name in message.__struct_fields__ if isinstance(value := getattr(message, name), np.ndarray)
    )


def derived(*sources: Header, frame_id: str | None = None, t_sensor_ns: int | None = None) -> Header:
    """Return the header of an output made from messages with these headers; the first is the reference.

    Stamp, clock and frame are the first's unless given. Reasons, adaptations, models and sensor states of all sources
    are joined (the worst state of a sensor wins).
    """
    order: tuple[SensorState, ...] = ("ok", "late", "frozen", "lost")
    sensors: dict[str, SensorState] = {}
    for header in sources:
        for sensor, state in header.sensors.items():
            sensors[sensor] = max(sensors.get(sensor, "ok"), state, key=order.index)
    first = sources[0]
    residuals = {key: value for header in sources for key, value in header.sync_residual_ns.items()}
    return Header(
        frame_id=first.frame_id if frame_id is None else frame_id,
        t_sensor_ns=first.t_sensor_ns if t_sensor_ns is None else t_sensor_ns,
        clock=first.clock,
        run=first.run,
        sync_residual_ns=residuals,
        sensors=sensors,
        degraded=tuple(dict.fromkeys(reason for header in sources for reason in header.degraded)),
        adaptations=tuple(dict.fromkeys(text for header in sources for text in header.adaptations)),
        calibration=next((header.calibration for header in sources if header.calibration), ""),
        models=tuple(dict.fromkeys(model for header in sources for model in header.models)),
    )


__all__ = ["Array", "Header", "Message", "ModelId", "SensorState", "Span", "Timing", "array_bytes", "derived"]
