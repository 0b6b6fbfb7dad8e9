"""A torch tensor as a message array: DLPack on its device, the event of its producer, a pinned way to the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from perception.messages.array import Array, DeviceArray


class TensorArray:
    """A `DeviceArray` around a tensor that work on a CUDA stream may still be filling (see `messages.array`).

    The memory is the producer's: an engine's outputs are valid until its next run, as everywhere.
    """

    def __init__(self, tensor: Tensor, ready: torch.cuda.Event | None = None) -> None:
        """Wrap `tensor`; `ready` was recorded behind the work that fills it, None where that is done."""
        self.tensor = tensor
        self.shape: tuple[int, ...] = tuple(tensor.shape)
        self.dtype: np.dtype[Any] = np.dtype(str(tensor.dtype).removeprefix("torch."))
        self._ready = ready

    def wait(self, stream: Any = None) -> None:
        """Make `stream` (a torch.cuda.Stream or, if None, the host) wait for the producer."""
        if self._ready is None:
            return
        if stream is None:
            self._ready.synchronize()
        else:
            stream.wait_event(self._ready)

    def to_host(self) -> NDArray[Any]:
        """Copy to page-locked memory of the caller's own, on the caller's stream, and wait for that copy."""
        if self.tensor.device.type != "cuda":
            return np.array(self.tensor.numpy())
        with torch.cuda.device(self.tensor.device):
            stream = torch.cuda.current_stream()
            self.wait(stream)
            pinned = torch.empty(self.shape, dtype=self.tensor.dtype, pin_memory=True)  # torch keeps such blocks
            pinned.copy_(self.tensor, non_blocking=True)
            stream.synchronize()
        return pinned.numpy()

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.tensor.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, index = self.tensor.__dlpack_device__()
        return int(kind), index


def device_tensor(array: DeviceArray, device: torch.device) -> Tensor:
    """Return a device array as a tensor on `device`, without a copy where it lies there.

    The current stream of `device` waits for the array's producer; the host does not.
    """
    if device.type == "cuda":
        array.wait(torch.cuda.current_stream(device))
    else:
        array.wait()
    tensor = array.tensor if isinstance(array, TensorArray) else from_dlpack(array)
    return tensor.to(device, non_blocking=True)


class OnHost(Mapping[str, Tensor]):
    """An engine's outputs as tensors on the host, each copied when it is first asked for: most callers need few."""

    def __init__(self, outputs: Mapping[str, Array]) -> None:
        self._outputs = outputs
        self._copied: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._copied:
            array = self._outputs[name]
            self._copied[name] = host_tensor(array.to_host() if isinstance(array, DeviceArray) else array)
        return self._copied[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)


def host_tensor(array: NDArray[Any]) -> Tensor:
    """Return the array as a tensor that shares its memory, read-only arrays included: whoever asks only reads.

    It keeps the array's order of axes in memory, such as channels last; only reversed axes, which torch has not, are
    copied.
    """
    values = array if min(array.strides, default=0) >= 0 else np.ascontiguousarray(array)
    return torch.from_numpy(values if values.flags.writeable else np.asarray(_Writable(values)))


class _Writable:
    """Lets numpy see a read-only array's memory as writable, since torch warns about the others."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array  # keeps the memory alive
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
