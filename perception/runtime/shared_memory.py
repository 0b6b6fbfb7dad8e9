"""Records between the processes of one host, through iceoryx2's shared memory. The only file that imports iceoryx2.

One service per topic with overflow on, so that a slow reader loses its oldest record and never blocks the writer; one
event service per reading process to wake it; one service per writing process with the newest bounds of its topics, and
in lockstep one per reading process with the number of records that it has taken.

A record that is read is a view of shared memory. The sample stays borrowed as long as any view of it lives. A reader
that is about to run out of what it may borrow copies the record instead, and counts it: whoever keeps too many views is
slower, and named, but never sees its data change.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import iceoryx2 as iox
import numpy as np
from numpy.typing import NDArray

from perception.errors import ChannelError
from perception.messages.codec import ALIGNMENT, Record

ROOT = Path("/tmp")
SHARED_MEMORY = Path("/dev/shm")
RESERVE_BYTES = 4 << 20
"""Left free, for what others write at the same moment."""
PLENTY_BYTES = 256 << 20
LOOK_S = 0.05
"""Where there is plenty, room is looked for only so often."""


class _Block(ctypes.Structure):
    """64 bytes, so that records of any size are a slice of whole blocks and start at a multiple of 64."""

    _fields_ = [("data", ctypes.c_uint8 * ALIGNMENT)]

    @staticmethod
    def type_name() -> str:
        return "PerceptionBlock64"


@dataclass(frozen=True)
class TopicLimits:
    """What the service of a topic must hold; the same in every process, since whoever is first makes the service."""

    readers: int
    buffer: int
    borrowed: int


def memory_id(run: str, host: int) -> str:
    """Return the id of a run's shared memory on one host, 0 being the launch host; no two hosts of a run meet."""
    return f"{run}{host:02x}" if host else run


def prefix_of(run: str) -> str:
    """Return what every file of a run in /dev/shm and every name begins with."""
    return f"pcn_{run}_"


def root_of(run: str) -> Path:
    """Return the folder of a run's sockets; short, since root and names together are names of Unix sockets."""
    return ROOT / f"pcn_{run}"


def remove_leftovers(run: str) -> int:
    """Remove what a run left behind; only once none of its processes lives. Returns the number of files."""
    count = 0
    for file in SHARED_MEMORY.glob(f"{prefix_of(run)}*"):
        file.unlink(missing_ok=True)
        count += 1
    root = root_of(run)
    if root.is_dir():
        count += 1
        shutil.rmtree(root, ignore_errors=True)  # what its last owner removes meanwhile is no error
    return count


class SharedMemoryHost:
    """The entry of a process to the shared memory of one run.

    Args:
        run: the run id; processes of other runs never meet this one's services.
        process: the name of this process in the graph.
        limits: by topic, from the graph.
        processes: how many processes the graph has on this host.

    Raises:
        ChannelError: shared memory cannot be used.
    """

    def __init__(self, run: str, process: str, limits: Mapping[str, TopicLimits], processes: int) -> None:
        self._limits, self._processes = limits, processes
        iox.set_log_level(iox.LogLevel.Error)
        try:
            root_of(run).mkdir(parents=True, exist_ok=True)
            config = iox.config.default()
            config.global_cfg.root_path = iox.Path.new(str(root_of(run)))
            config.global_cfg.prefix = iox.FileName.new(prefix_of(run))
            self._node = (
                iox.NodeBuilder.new()
                .config(config)
                .signal_handling_mode(iox.SignalHandlingMode.Disabled)
                .name(iox.NodeName.new(process))
                .create(iox.ServiceType.Ipc)
            )
        except (OSError, iox.NodeCreationFailure) as error:
            raise ChannelError(
                f"process '{process}' cannot use shared memory ({error}); see what perception doctor says of it"
            ) from None

    def writer(self, topic: str, first_bytes: int = 4096) -> Writer:
        """Open the writing end of a topic; pools grow when larger records come."""
        service = self._topic_service(topic)
        builder = service.publisher_builder().initial_max_slice_len(max(1, -(-first_bytes // ALIGNMENT)))
        return Writer(topic, builder.allocation_strategy(iox.AllocationStrategy.PowerOfTwo).create())

    def reader(self, topic: str, buffer: int, borrowed: int) -> Reader:
        """Open a reading end.

        Args:
            topic: the topic.
            buffer: records that wait, 1 for the newest only.
            borrowed: records whose views may live at once.
        """
        subscriber = self._topic_service(topic).subscriber_builder().buffer_size(buffer).create()
        return Reader(topic, subscriber, borrowed)

    def waker(self, process: str) -> Waker:
        """Open the writing end of a process' wake-up."""
        return Waker(self._event_service(process).notifier_builder().create())

    def sleeper(self, process: str) -> Sleeper:
        """Open the waiting end of this process' wake-up."""
        return Sleeper(self._event_service(process).listener_builder().create())

    def row_writer(self, name: str, count: int) -> RowWriter:
        """Open the writing end of a row of numbers of which only the newest counts, such as a process' bounds."""
        return RowWriter(self._row_service(name).publisher_builder().initial_max_slice_len(count).create(), count)

    def row_reader(self, name: str, count: int) -> RowReader:
        """Open a reading end of a row of numbers."""
        return RowReader(self._row_service(name).subscriber_builder().create(), count)

    def _topic_service(self, topic: str) -> Any:
        limits = self._limits[topic]
        return self._opened(
            topic,
            self._node.service_builder(iox.ServiceName.new(f"topic/{topic}"))
            .publish_subscribe(iox.Slice[_Block])
            .payload_alignment(iox.Alignment.new(ALIGNMENT))
            .user_header(ctypes.c_uint64)
            .enable_safe_overflow(True)
            .history_size(0)
            .subscriber_max_buffer_size(limits.buffer)
            .subscriber_max_borrowed_samples(limits.borrowed + 1)
            .max_subscribers(limits.readers + 1)
            .max_publishers(2)
            .max_nodes(self._processes + 4),
        )

    def _event_service(self, process: str) -> Any:
        return self._opened(
            process,
            self._node.service_builder(iox.ServiceName.new(f"wake/{process}"))
            .event()
            .max_notifiers(self._processes + 4)
            .max_listeners(2)
            .max_nodes(self._processes + 4),
        )

    def _row_service(self, name: str) -> Any:
        return self._opened(
            name,
            self._node.service_builder(iox.ServiceName.new(name))
            .publish_subscribe(iox.Slice[ctypes.c_int64])
            .enable_safe_overflow(True)
            .history_size(0)
            .subscriber_max_buffer_size(1)
            .max_subscribers(self._processes + 4)
            .max_publishers(2)
            .max_nodes(self._processes + 4),
        )

    @staticmethod
    def _opened(name: str, builder: Any) -> Any:
        try:
            return builder.open_or_create()
        except Exception as error:  # noqa: BLE001 - iceoryx2 has an exception type per kind of service
            raise ChannelError(f"the shared memory of '{name}' cannot be opened: {error}") from None


class Writer:
    """The writing end of a topic."""

    def __init__(self, topic: str, publisher: Any) -> None:
        self.topic, self._publisher = topic, publisher

    def write(self, record: Record) -> None:
        """Write a record; it is with the readers when this returns.

        Raises:
            ChannelError: shared memory is full.
        """
        blocks = -(-record.size // ALIGNMENT)
        if not _ROOM.has(record.size):
            raise ChannelError("shared memory is full")  # writing to a page that it lacks would end the process
        try:
            sample = self._publisher.loan_slice_uninit(blocks)
        except iox.LoanError as error:
            raise ChannelError(f"no shared memory for {record.size} bytes on '{self.topic}': {error}") from None
        record.write_into(memoryview(_memory_at(sample.payload_ptr, record.size)).cast("B")[: blocks * ALIGNMENT])
        ctypes.c_uint64.from_address(sample.user_header_ptr).value = record.size
        sample.assume_init().send()


def free_bytes() -> int:
    """Return how much shared memory is left."""
    found = os.statvfs(SHARED_MEMORY)
    return found.f_bavail * found.f_frsize


class _Room:
    """Whether shared memory has room; asking the kernel for every small record would cost as much as writing it."""

    def __init__(self) -> None:
        self._plenty_until_s = 0.0

    def has(self, size: int) -> bool:
        now_s = time.monotonic()
        if now_s < self._plenty_until_s and size < PLENTY_BYTES:
            return True
        free = free_bytes()
        self._plenty_until_s = now_s + LOOK_S if free > PLENTY_BYTES else 0.0
        return free >= size + RESERVE_BYTES


_ROOM = _Room()


class Reader:
    """A reading end of a topic."""

    def __init__(self, topic: str, subscriber: Any, borrowed: int) -> None:
        self.topic, self._subscriber, self._limit = topic, subscriber, borrowed
        self._alive: dict[int, weakref.ref[Any]] = {}
        self.copied = 0

    def take(self) -> memoryview | None:
        """Return the oldest waiting record, or None; a read-only view that borrows the sample while it lives."""
        sample = self._subscriber.receive()
        if sample is None:
            return None
        size = ctypes.c_uint64.from_address(sample.user_header_ptr).value
        memory = _memory_at(sample.payload_ptr, size)
        memory._sample = sample  # lives as long as any view of this memory
        view = memoryview(memory).cast("B")[:size].toreadonly()
        if len(self._alive) >= self._limit:
            self.copied += 1
            return memoryview(bytes(view))
        reference = weakref.ref(memory, self._released)
        self._alive[id(reference)] = reference
        return view

    def _released(self, reference: weakref.ref[Any]) -> None:
        self._alive.pop(id(reference), None)


def _memory_at(address: int, size: int) -> Any:
    """Return `size` bytes of memory or more; their reader cuts them off. Few types: each takes long to make."""
    return _bytes_type((size - 1).bit_length()).from_address(address)


@functools.cache
def _bytes_type(bits: int) -> Any:
    return ctypes.c_uint8 * (1 << bits)


class Waker:
    """Wakes one process."""

    def __init__(self, notifier: Any) -> None:
        self._notifier = notifier

    def wake(self) -> None:
        """Wake the process; a process that is gone is none of our business."""
        try:
            self._notifier.notify()
        except iox.NotifierNotifyError:
            return


class Sleeper:
    """Waits for wake-ups."""

    def __init__(self, listener: Any) -> None:
        self._listener = listener

    def sleep(self, seconds: float) -> None:
        """Wait until this process is woken, or so long; the GIL is free meanwhile."""
        with contextlib.suppress(iox.ListenerWaitError):  # a signal came; whoever handles it is called next
            self._listener.timed_wait(iox.Duration.from_micros(max(1, round(seconds * 1e6))))


class RowWriter:
    """The writing end of a row of numbers."""

    def __init__(self, publisher: Any, count: int) -> None:
        self._publisher, self._count = publisher, count

    def write(self, row: Sequence[int]) -> None:
        """Write the newest numbers; what a reader has not read yet is replaced."""
        sample = self._publisher.loan_slice_uninit(self._count)
        memory = (ctypes.c_int64 * self._count).from_address(sample.payload_ptr)
        memory[:] = list(row)
        sample.assume_init().send()


class RowReader:
    """A reading end of a row of numbers."""

    def __init__(self, subscriber: Any, count: int) -> None:
        self._subscriber, self._count = subscriber, count

    def take(self) -> NDArray[np.int64] | None:
        """Return the newest row, or None where nothing is new."""
        sample = self._subscriber.receive()
        if sample is None:
            return None
        return np.array((ctypes.c_int64 * self._count).from_address(sample.payload_ptr), np.int64)


__all__ = [
    "Reader", "RowReader", "RowWriter", "SharedMemoryHost", "Sleeper", "TopicLimits", "Waker", "Writer", "memory_id",
    "prefix_of", "remove_leftovers", "root_of",
]  # fmt: skip
