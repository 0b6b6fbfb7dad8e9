"""Who owns an array that leaves a node.

A message that a node or a source gives out may be queued, published and recorded after that goes on, so its arrays must
not change any more. An array that owns its memory is frozen where it is: a node that writes to it later gets numpy's
"read-only" error instead of changing a message under its readers. A view of frozen memory (of a received record) passes
as it is and keeps that memory alive. A view of memory that may still change, such as an engine's output buffer or a
driver's ring buffer, is copied, and counted; `frozen` says of a whole message that its memory does not change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.messages import Message, Span, host
from perception.messages.layout import layout_of

if TYPE_CHECKING:
    from perception.runtime.places import Places

M = TypeVar("M", bound=Message)


def settled(message: M, places: Places | None = None) -> tuple[M, int]:
    """Return the message with arrays that cannot change any more, and how many had to be copied.

    Args:
        message: as the node gave it out.
        places: where the node may have made them: what lies where its record will be is looked after there.
    """
    copies: dict[str, Any] = {}
    for name in layout_of(type(message)).arrays:
        value = getattr(message, name)
        if isinstance(value, np.ndarray):
            if value.base is None or (places is not None and places.hold(value)):
                value.setflags(write=False)
            elif not _is_frozen(value):
                copies[name] = _copy(value)
    return (msgspec.structs.replace(message, **copies) if copies else message), len(copies)


def frozen(message: M) -> M:
    """Return the message, whose arrays nobody writes any more, nor the memory that they are views of.

    For a source whose messages each have memory of their own, such as a log's: what it gives out is not copied then.
    """
    for name in layout_of(type(message)).arrays:
        owner: Any = getattr(message, name)
        while isinstance(owner, np.ndarray):
            owner.flags.writeable = False
            owner = owner.base
    return message


def on_host(message: M, process: str, clock_ns: Callable[[], int]) -> M:
    """Return the message for readers outside its process: device arrays copied to the host, as a span of its own."""
    device: dict[str, Any] = {}
    for name in layout_of(type(message)).arrays:
        value = getattr(message, name)
        if value is not None and not isinstance(value, np.ndarray):
            device[name] = value
    if not device:
        return message
    started_ns = clock_ns()
    copies: dict[str, Any] = {name: host(value) for name, value in device.items()}
    span = Span(f"{process} copies to host", started_ns, clock_ns() - started_ns)
    timing = msgspec.structs.replace(message.timing, spans=(*message.timing.spans, span))
    return msgspec.structs.replace(message, **copies, timing=timing)


def _is_frozen(array: NDArray[Any]) -> bool:
    """True where nobody can write to the memory through numpy: no writeable array up to its owner."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return False
        if owner.base is None:
            return True
        owner = owner.base
    # The memory belongs to something else, such as a record's bytes or a shared-memory sample. `decode` gives read-only
    # views of those; anything writeable was caught above.
    return isinstance(owner, bytes) or (isinstance(owner, memoryview) and not array.flags.writeable)


def _copy(array: NDArray[Any]) -> NDArray[Any]:
    copy = np.array(array, copy=True)
    copy.flags.writeable = False
    return copy


__all__ = ["frozen", "on_host", "settled"]
