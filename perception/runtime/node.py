"""A node: a plain class with ports, settings and one method per input.

A node never reads a clock, sleeps, opens sockets or starts threads; time is inside the messages. Tests, the inline
runner and the Ray runner call the same methods:

    class Painter(Node):
        Config = PainterConfig
        scene = Join(sweep=PointCloud, masks=Many[SegmentationMask], tolerance_ms=50, deadline_ms=80)
        ego = Lookup[Odometry]()
        painted = Out[PaintedPoints]

        def on_scene(self, sweep: PointCloud, masks: Sequence[SegmentationMask]) -> PaintedPoints: ...

Inputs are `On`, `Join`, `Lookup` and `Every`; the method of port `x` is `on_x`. It returns a message for the node's
only output, `None`, or yields `(port, message)`. `warm_up`, `reset` and `finish` are optional. A `PerceptionError` out
of a method is one counted drop with its text as the reason. Arrays of a received message are read-only views that are
valid until the method returns; what lives longer is taken with `message.keep()`, or is declared by `holds`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeAlias, TypeVar, get_args, get_origin

import numpy as np
from pydantic import BaseModel, ConfigDict

from perception.errors import UserError
from perception.messages import Message

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from perception.geometry.rig import Rig
    from perception.runtime.places import Places

T = TypeVar("T", bound=Message)
Keep: TypeAlias = Literal["latest", "all"]
OnMissing: TypeAlias = Literal["continue", "skip"]


class NodeConfig(BaseModel):
    """Settings of a node as they stand in the launch file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class _Port(Generic[T]):
    """What `On`, `Lookup` and `Out` share: the message type in the brackets."""

    @property
    def message_type(self) -> type[T]:
        alias = getattr(self, "__orig_class__", None)
        if alias is None:
            raise TypeError(f"{type(self).__name__} needs its message type: write {type(self).__name__}[PointCloud]")
        return get_args(alias)[0]  # type: ignore[no-any-return]


class On(_Port[T]):
    """One call per message. `keep` and `bound` are defaults that a launch file may change.

    `holds` is how many messages of this input the node keeps beyond its method, as views. One that is `optional` may
    be left unconnected.

    With `batch`, a call takes one message of each of the input's topics, as a mapping by sensor (the topic without its
    last word): live, what waits when the node is free, and it never waits for more; in lockstep, the messages of one
    stamp. The method may yield a `Drop` for a message that is not usable, and goes on with the others.
    """

    def __init__(
        self, *, keep: Keep = "latest", bound: int = 10, holds: int = 0, optional: bool = False, batch: bool = False
    ) -> None:
        self.keep, self.bound, self.holds, self.optional, self.batch = keep, bound, holds, optional, batch


class Lookup(_Port[T]):
    """No call of its own; `at(t_ns)` interpolates.

    The runtime calls the node only when the answer for the stamp of the message will not change, or `deadline_ms` of
    sensor time has passed: a message at or after the stamp is there, or the lookup's bound has passed the stamp (of ego
    motion also the deadline, since the message after the stamp is wanted to interpolate). In lockstep a call sees no
    more than that, however much has arrived, and nothing older than `history_ms`.
    """

    def __init__(self, *, deadline_ms: float = 100.0, history_ms: float = 2000.0) -> None:
        self.deadline_ms, self.history_ms = deadline_ms, history_ms

    def at(self, t_ns: int) -> T | None:
        """Return the message interpolated to `t_ns`, or None where there is nothing around it."""
        raise RuntimeError("a Lookup answers only inside a runner: it is bound to the node when the node is made")


class Many(Generic[T]):
    """A member of a join that stands for any number of topics of one type; the method gets those that came."""


class Maybe(Generic[T]):
    """A member of a join that may be missing; the method gets None then."""


class Join:
    """One call per set of messages of one instant. The first member is the reference: its stamp is the set's.

    A member is a message type, `Maybe[T]` or `Many[T]`. A message belongs to the set when its stamp (plus the input's
    offset, given in the launch file) differs by at most `tolerance_ms`; of several the nearest is taken. The set is
    decided when every member is there or cannot come any more (its bound passed), or `deadline_ms` of sensor time after
    the reference. Then, with members missing, `on_missing` says whether to go on without them or to skip the set; a
    missing member that is a plain type always skips it.

    With `early`, names of members that come before the others, the node has a method `prepare_<port>` that takes those
    alone and gives out nothing: live, it is called with them once they are there, while nothing else waits, so that
    what can be done beforehand is. It may be called for a set that never comes or comes with other members, or not at
    all, as in lockstep: it must change nothing but how long the call for the set takes.
    """

    def __init__(
        self,
        *,
        tolerance_ms: float = 50.0,
        deadline_ms: float = 100.0,
        on_missing: OnMissing = "continue",
        history_ms: float | None = None,
        early: tuple[str, ...] = (),
        **members: Any,
    ) -> None:
        self.tolerance_ms, self.deadline_ms, self.on_missing, self.history_ms = (
            tolerance_ms, deadline_ms, on_missing, history_ms,
        )  # fmt: skip
        self.members = {name: Member.of(declared) for name, declared in members.items()}
        self.early = early


@dataclass(frozen=True)
class Member:
    """One member of a join."""

    message_type: type[Message]
    many: bool = False
    optional: bool = False

    @classmethod
    def of(cls, declared: Any) -> Self:
        origin = get_origin(declared)
        if origin is Many:
            return cls(get_args(declared)[0], many=True, optional=True)
        if origin is Maybe:
            return cls(get_args(declared)[0], optional=True)
        return cls(declared)


class Every:
    """A call every `period_ns` of sensor time: `on_<port>(t_ns)`, at whole multiples of the period."""

    def __init__(self, period_ns: int) -> None:
        self.period_ns = period_ns


class Out(_Port[T]):
    """An output. Its topic is `<node>/<port>` unless the launch file names another.

    With `per`, the name of an `On` input, there is one output per topic of that input, so that what is made of each
    sensor leaves on a topic of its own: port `<port>/<sensor>`, topic `<node>/<sensor>/<port>`.
    """

    def __init__(self, *, per: str | None = None) -> None:
        self.per = per


@dataclass(frozen=True)
class NodeSetup:
    """What the runtime hands to a node that is being made."""

    name: str
    rig: Rig | None
    """Sensors with calibration; None only for graphs that need none."""
    inputs: Mapping[str, tuple[str, ...]]
    """Topics by input; the members of a join are inputs of their own."""
    search_folders: tuple[Path, ...]
    """Where relative paths (weights, worlds) are looked up, first match wins."""
    lockstep: bool = False
    threads: int = 1
    """Threads an engine may use; one in lockstep, where the numbers must not depend on how many there are."""


@dataclass(frozen=True)
class Drop:
    """One message of a batch that the node could not use: a counted drop of its topic with this reason."""

    sensor: str
    reason: str


Output: TypeAlias = "Message | Iterator[tuple[str, Message] | Drop] | None"


class Node:
    """Base of all nodes; see the module's text."""

    Config: ClassVar[type[NodeConfig]] = NodeConfig
    rig: Rig
    degraded: tuple[str, ...] = ()
    """What makes its outputs worth less, such as "untrained weights"; the graph is degraded by it."""
    notes: tuple[str, ...] = ()
    """Facts for the status."""
    _places: Places | None = None
    bound_shift_ns: int = 0
    """Added to the bounds of its inputs for its outputs; not 0 where it gives them the stamps of another clock."""

    @classmethod
    def create(cls, config: Any, setup: NodeSetup) -> Self:
        """Make the node from its settings; nodes that need a network or the rig override this."""
        return cls(config)

    def __init__(self, config: Any = None) -> None:
        self.config = config

    def empty(self, output: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array for an output, to be filled and given out by the call that asked for it.

        Where it can be it lies where other processes will read it, so that giving out an image or a mask copies
        nothing. That holds for one array of a message, the first that its class declares. What a node keeps of it is
        copied after all; a source may go on with the array, which is read-only from then on, but a part of it that it
        could still write to is copied, too. Write to nothing else that has the memory, such as a tensor made of the
        array. It is plain memory wherever there is no place for it.

        A source asks once its data is there: who reads the topic is woken then, where that was filled quickly before.

        Args:
            output: the name of the port; of a source, the topic.
            shape: of the array.
            dtype: of the array.
        """
        return np.empty(shape, dtype) if self._places is None else self._places.empty(output, shape, dtype)

    def placed_in(self, places: Places) -> None:
        """Take the memory for outputs; for whoever runs the node."""
        self._places = places

    def warm_up(self) -> None:
        """Run once on made-up input before the first message."""

    def reset(self, reason: str) -> None:
        """Forget what belongs to the past: after a seek, a loop, a clock jump or a restart."""

    def finish(self) -> Output:
        """Give out what is left; no message comes any more."""
        return None

    @classmethod
    def inputs(cls) -> dict[str, On[Any] | Join | Lookup[Any] | Every]:
        """Input ports by name, in the order of their declaration."""
        return {name: port for name, port in _ports(cls) if isinstance(port, On | Join | Lookup | Every)}

    @classmethod
    def outputs(cls) -> dict[str, Out[Any]]:
        """Output ports by name."""
        return {name: port for name, port in _ports(cls) if isinstance(port, Out)}


class Source(Node):
    """A driver, a simulator or a log: it has no inputs and yields what its sensors measure.

    `messages` runs in a thread that the runtime owns. A source that is `paced` yields as fast as it is asked and the
    runtime waits for each stamp's turn; a driver blocks on its device. A source may yield a `Bound` to promise that a
    topic has nothing before an instant any more.

    After a seek, and where `wraps` says so at its end, `messages` is called again: everything downstream has forgotten
    what was before.
    """

    paced: ClassVar[bool] = False

    @classmethod
    def topics(cls, config: Any, setup: NodeSetup) -> Mapping[str, type[Message]]:
        """Topics it will publish, without starting anything."""
        raise NotImplementedError(f"{cls.__name__} must say what it publishes")

    def messages(self) -> Iterator[tuple[str, Message | Bound]]:
        """Yield (topic, message) in the order of arrival."""
        raise NotImplementedError(f"{type(self).__name__} must yield messages")

    def seek(self, t_ns: int) -> None:
        """Let the next `messages` begin at this time of the log.

        Raises:
            UserError: there is no such time, or the source cannot seek.
        """
        raise UserError(f"a {type(self).__name__} cannot seek; a log can")

    def place(self) -> Position | None:
        """Return where in its log it is; None where it has none."""
        return None

    def wraps(self) -> bool:
        """True where `messages` shall be called again after its end."""
        return False


@dataclass(frozen=True)
class Position:
    """Where in its log a source is, by the log's own times."""

    start_ns: int
    end_ns: int
    now_ns: int


@dataclass(frozen=True)
class Bound:
    """A promise: nothing with a stamp below `t_ns` comes on the topic any more."""

    t_ns: int


def _ports(cls: type[Node]) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            origin = get_origin(value)
            port = value() if origin in (On, Lookup, Out) else value
            if isinstance(port, On | Join | Lookup | Every | Out) and name not in seen:
                seen.add(name)
                yield name, port


__all__ = [
    "Bound", "Drop", "Every", "Join", "Keep", "Lookup", "Many", "Maybe", "Member", "Node", "NodeConfig", "NodeSetup",
    "On", "OnMissing", "Out", "Output", "Position", "Source",
]  # fmt: skip
