"""Records between the processes of one host, through iceoryx2's shared memory. The only file that imports iceoryx2.

One service per topic with overflow on, so that a slow reader loses its oldest record and never blocks the writer; one
service per writing process with the newest bounds of its topics, and in lockstep one per reading process with the
number of records that it has taken. Who has something to read is woken through `wakeups.py`.

A record that is read is a view of shared memory. The sample stays borrowed as long as any view of it lives. A reader
that is about to run out of what it may borrow copies the record instead, and counts it: whoever keeps too many views is
slower, and named, but never sees its data change.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import iceoryx2 as iox

from perception.errors import ChannelError
from perception.messages import Message
from perception.messages.codec import ALIGNMENT, Cuts, Record, encode
from perception.runtime.placing import MAX_HELD, PLACED_AT, Placing
from perception.runtime.rows import RowReader, RowWriter
from perception.runtime.slots import UNVIEWED, Extent, Slot, Slots, extent_of
from perception.runtime.wakeups import Sleeper, Waker

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
        self._run, self._limits, self._processes = run, limits, processes
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
        return self._writer(topic, self._topic_service(f"topic/{topic}", self._limits[topic]), first_bytes)

    @staticmethod
    def _writer(topic: str, service: Any, first_bytes: int = 4096) -> Writer:
        builder = service.publisher_builder().initial_max_slice_len(max(1, -(-first_bytes // ALIGNMENT)))
        builder = builder.allocation_strategy(iox.AllocationStrategy.PowerOfTwo).max_loaned_samples(2 + MAX_HELD)
        return Writer(topic, builder.create(), lambda: service.subscriber_builder().buffer_size(1).create())

    def reader(self, topic: str, buffer: int, borrowed: int) -> Reader:
        """Open a reading end.

        Args:
            topic: the topic.
            buffer: records that wait, 1 for the newest only.
            borrowed: records whose views may live at once.
        """
        service = self._topic_service(f"topic/{topic}", self._limits[topic])
        return Reader(topic, service.subscriber_builder().buffer_size(buffer).create(), borrowed)

    def loop(self, name: str) -> tuple[Writer, Reader]:
        """Open both ends of a channel of this process alone, for one record at a time."""
        service = self._topic_service(name, TopicLimits(readers=1, buffer=1, borrowed=1))
        return self._writer(name, service), Reader(name, service.subscriber_builder().buffer_size(1).create(), 1)

    def waker(self, process: str) -> Waker:
        """Open the writing end of a process' wake-up."""
        return Waker(root_of(self._run), process)

    def sleeper(self, process: str) -> Sleeper:
        """Open the waiting end of this process' wake-up."""
        return Sleeper(root_of(self._run), process)

    def row_writer(self, name: str, count: int) -> RowWriter:
        """Open the writing end of a row of numbers of which only the newest counts, such as a process' bounds."""
        return RowWriter(self._row_service(name).publisher_builder().initial_max_slice_len(count).create(), count)

    def row_reader(self, name: str, count: int) -> RowReader:
        """Open a reading end of a row of numbers."""
        return RowReader(self._row_service(name).subscriber_builder().create(), count)

    def _topic_service(self, name: str, limits: TopicLimits) -> Any:
        return self._opened(
            name,
            self._node.service_builder(iox.ServiceName.new(name))
            .publish_subscribe(iox.Slice[_Block])
            .payload_alignment(iox.Alignment.new(ALIGNMENT))
            .user_header(Extent)
            .enable_safe_overflow(True)
            .history_size(0)
            .subscriber_max_buffer_size(limits.buffer)
            .subscriber_max_borrowed_samples(max(limits.borrowed, MAX_HELD) + 1)
            .max_subscribers(limits.readers + 2)  # the writer itself, and one that was killed
            .max_publishers(2)
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
    """The writing end of a topic.

    Args:
        topic: the topic.
        publisher: of iceoryx2.
        subscribe: opens a reading end for this process itself, see `placing`.
    """

    def __init__(self, topic: str, publisher: Any, subscribe: Callable[[], Any]) -> None:
        self.topic, self._publisher = topic, publisher
        self._slots = Slots()
        self.placing = Placing(self._loaned, subscribe)
        self._blocks = self._blocks_before = self._most_blocks = 0
        """Of the last record, of the one before, and of the largest so far."""
        self._ready: tuple[int, Any, Slot] | None = None
        """What is loaned for the next record already: its blocks, and the place."""

    def laid_out(self, message: Message) -> Record:
        """Return a message as a record for `write`, its array where it is if that was placed here."""
        return encode(message, self.placing.array, PLACED_AT)

    def write(self, record: Record) -> None:
        """Write a record; it is with the readers when this returns.

        Raises:
            ChannelError: shared memory is full.
        """
        self.placing.catch_up()
        placed = self.placing.take(record) if record.is_in_place else None
        sample, slot = self._place_for(record) if placed is None else (placed.sample, placed.slot)
        assert slot.view is not None
        record.write_into(slot.view, but_first=placed is not None)
        slot.extent[0], (slot.extent[1], slot.extent[2]) = record.size, record.cuts
        sample.send()
        self.placing.sent(placed)

    def _place_for(self, record: Record) -> tuple[Any, Slot]:
        size, ready = record.size, self._ready
        blocks = -(-size // ALIGNMENT)
        self._ready, self._blocks, self._blocks_before = None, blocks, self._blocks
        if ready is not None and ready[0] == blocks:
            _, sample, slot = ready
            self._claim(slot, size)
        else:
            del ready
            sample, slot, _ = self._loaned(size)
        return sample, slot

    def settle(self) -> None:
        """Loan the place of the next record, where it will be as large as the last two; for when there is time."""
        self.placing.catch_up()
        self.placing.prepare()
        if self._ready is None and 0 < self._blocks == self._blocks_before:
            with contextlib.suppress(ChannelError):  # it is told when there is a record
                self._ready = self._blocks, *self._loaned_blocks(self._blocks)

    def _loaned(self, size: int) -> tuple[Any, Slot, int]:
        """Loan a place for so many bytes, which are there for certain."""
        blocks = -(-size // ALIGNMENT)
        sample, slot = self._loaned_blocks(blocks)
        self._claim(slot, size)
        return sample, slot, blocks * ALIGNMENT

    @staticmethod
    def _claim(slot: Slot, size: int) -> None:
        if size > slot.written:
            _ROOM.check(size)
            slot.written = size

    def _loaned_blocks(self, blocks: int) -> tuple[Any, Slot]:
        size = blocks * ALIGNMENT
        if blocks > self._most_blocks:  # a larger pool may lie where another one was
            _ROOM.check(size)
            self._most_blocks = blocks
            self._slots.clear()
        try:
            sample = self._publisher.loan_slice_uninit(blocks).assume_init()
        except iox.LoanError as error:
            raise ChannelError(f"no shared memory for {size} bytes on '{self.topic}': {error}") from None
        slot = self._slots.get(sample.payload_ptr)
        if slot is None or slot.room < size:
            slot = self._slots.add(sample, size)
            slot.view = slot.array.data
        return sample, slot


def free_bytes() -> int:
    """Return how much shared memory is left."""
    found = os.statvfs(SHARED_MEMORY)
    return found.f_bavail * found.f_frsize


class _Room:
    """Whether shared memory has room; asking the kernel for every small record would cost as much as writing it."""

    def __init__(self) -> None:
        self._plenty_until_s = 0.0

    def check(self, size: int) -> None:
        """Raise `ChannelError` where there is none: writing to a page that it lacks would end the process."""
        now_s = time.monotonic()
        if now_s < self._plenty_until_s and size < PLENTY_BYTES:
            return
        free = free_bytes()
        self._plenty_until_s = now_s + LOOK_S if free > PLENTY_BYTES else 0.0
        if free < size + RESERVE_BYTES:
            raise ChannelError("shared memory is full")


_ROOM = _Room()


class Reader:
    """A reading end of a topic."""

    def __init__(self, topic: str, subscriber: Any, borrowed: int) -> None:
        self.topic, self._subscriber, self._limit = topic, subscriber, borrowed
        self._slots = Slots()
        self._lent: list[Slot] = []
        self._last: Slot | None = None
        self.copied = 0

    def take(self) -> memoryview | None:
        """Return the oldest waiting record, or None; a read-only view that borrows the sample while any view lives."""
        sample = self._subscriber.receive()
        if sample is None:
            return None
        slot = self._slots.get(sample.payload_ptr)
        if slot is None or slot.room < slot.extent[0]:
            slot = self._slots.add(sample, extent_of(sample)[0])
            slot.array.flags.writeable = False
        view, self._last = slot.array.data[: slot.extent[0]], slot
        if len(self._lent) >= self._limit and not self.give_back():
            self.copied, self._last = self.copied + 1, None
            return memoryview(bytes(view))
        slot.sample = sample
        self._lent.append(slot)
        return view

    @property
    def cuts(self) -> Cuts | None:
        """Of the record that was taken last, as long as it is lent; None where they are not known."""
        return None if self._last is None else Cuts(self._last.extent[1], self._last.extent[2])

    def give_back(self) -> bool:
        """Return the samples of which no view lives any more; False where all are still viewed.

        Every view of a record refers to the array of its place. This is asked for when there is time, after the call.
        """
        lent = self._lent
        for slot in lent:
            if sys.getrefcount(slot.array) <= UNVIEWED:
                slot.sample = None
        self._lent = [slot for slot in lent if slot.sample is not None]
        return len(self._lent) < len(lent)


__all__ = [
    "Reader", "RowReader", "RowWriter", "SharedMemoryHost", "TopicLimits", "Writer", "memory_id", "prefix_of",
    "remove_leftovers", "root_of",
]  # fmt: skip
