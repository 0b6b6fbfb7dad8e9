"""Arrays inside messages: host numpy arrays, or arrays that live on a device.

Inside one process group a message may carry an array that a GPU is still writing. `DeviceArray` is what the runtime
needs of it: DLPack for a consumer on the same device, an event to wait for, and a copy to the host for a reader outside
the process. Everything read from a channel or a log is a host array: a read-only view that is valid until the node's
method returns (`message.keep()` takes a copy).
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class DeviceArray(Protocol):
    """An array on a device, with the event of the work that fills it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def wait(self, stream: Any = None) -> None:
        """Make `stream` (or, if None, the host) wait for the producer's event."""

    def to_host(self) -> NDArray[Any]:
        """Wait for the producer and copy to the host."""

    def __dlpack__(self, **kwargs: Any) -> Any:
        """Return the DLPack capsule."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return DLPack's (device type, device id)."""


Array: TypeAlias = NDArray[Any] | DeviceArray


def host(array: Array) -> NDArray[Any]:
    """Return the array on the host: itself, or a copy of a device array."""
    return array if isinstance(array, np.ndarray) else array.to_host()
