"""A drive on several processes: each renders some of the instants, and their records are put in order.

What a sensor says at an instant depends on nothing else, so the records are equal bytes for any number of processes.
Python's lock is why these are processes: a part of the work is in Python between the kernels.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import multiprocessing
import os
import queue
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from typing import TypeAlias

from perception.errors import PerceptionError
from perception.messages.codec import encode
from perception.simulation.drive import Drive, Instant

Record: TypeAlias = tuple[str, bytes | bytearray, int]
"""Topic, encoded message, stamp."""
Measured: TypeAlias = tuple[Instant, list[Record]]
AHEAD = 48
"""Instants that a process may be ahead of the slowest."""
PIPE_BYTES = 1 << 20
"""Of a process's pipe, so that a picture goes through at once."""


def records(drive: Drive, duration_s: float, processes: int = 1) -> Iterator[Record]:
    """Yield the encoded messages of a drive, in the order of stamps, rendered by so many processes.

    Raises:
        PerceptionError: a process died.
    """
    if processes <= 1:
        for topic, message in drive.messages(duration_s):
            yield topic, encode(message).to_bytes(), message.header.t_sensor_ns
        return
    context = multiprocessing.get_context("fork")  # nothing runs yet that a fork could catch half done
    workers, streams, taken = [], [], context.Value("q", 0)
    for owned in _event_cameras(drive, processes):
        receiver, sender = context.Pipe(duplex=False)
        with contextlib.suppress(OSError):  # the system has no more room for pipes: it is slower, no more
            fcntl.fcntl(sender.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        worker = context.Process(target=_render, args=(drive, owned, taken, duration_s, sender), daemon=True)
        worker.start()
        sender.close()
        workers.append(worker)
        streams.append(_received(receiver))
    try:
        for _, found in heapq.merge(*streams, key=lambda measured: measured[0]):
            yield from found
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _event_cameras(drive: Drive, processes: int) -> list[frozenset[int]]:
    """Return the event cameras of each process: their pixels go on from one instant to the next."""
    found = [index for index, sensor in enumerate(drive.sensors) if sensor.kind == "event_camera"]
    return [frozenset(found[process::processes]) for process in range(processes)]


def _render(
    drive: Drive, owned: frozenset[int], taken: Synchronized[int], duration_s: float, sender: Connection
) -> None:
    """Send the records of some instants, one by one, then None; the body of a process.

    All processes go through the same instants. Those of an event camera are its owner's, each of the others is whose it
    is by `taken`, the number of the next that nobody has; so all have to do until the end, whatever it costs.
    """
    try:
        mine = _take(taken)
        for number, at in enumerate(drive.instants(duration_s)):
            is_free = drive.sensors[at.index].kind != "event_camera"
            if at.index in owned or (is_free and number == mine):
                _send(sender, at, [(topic, encode(message).to_bytes(), message.header.t_sensor_ns)
                                   for topic, message in drive.measured(at)])  # fmt: skip
            if number == mine:
                mine = _take(taken)
        sender.send(None)
    except (BrokenPipeError, KeyboardInterrupt):  # the reader has gone
        pass


def _take(taken: Synchronized[int]) -> int:
    with taken.get_lock():
        taken.value += 1
        return taken.value - 1


def _send(sender: Connection, at: Instant, found: list[Record]) -> None:
    """Send records: what they are, then their bytes as they stand, which saves the copies of pickling."""
    sender.send((at, [(topic, len(data), t_ns) for topic, data, t_ns in found]))
    for _, data, _ in found:
        left = memoryview(data)
        while left:
            left = left[os.write(sender.fileno(), left) :]


def _receive(receiver: Connection) -> Measured | None:
    """Return what `_send` sent, or None at the end. Raises EOFError where the process has gone."""
    announced: tuple[Instant, list[tuple[str, int, int]]] | None = receiver.recv()
    if announced is None:
        return None
    found: list[Record] = []
    for topic, size, t_ns in announced[1]:
        data = bytearray(size)
        left = memoryview(data)
        while left:
            count = os.readv(receiver.fileno(), [left])
            if count == 0:
                raise EOFError
            left = left[count:]
        found.append((topic, data, t_ns))
    return announced[0], found


def _received(receiver: Connection) -> Iterator[Measured]:
    """Yield what a process sends; a thread reads ahead, so that a fast process need not wait for a slow one."""
    waiting: queue.Queue[Measured | Exception | None] = queue.Queue(AHEAD)

    def read() -> None:
        try:
            while (measured := _receive(receiver)) is not None:
                waiting.put(measured)
            waiting.put(None)
        except EOFError:
            waiting.put(PerceptionError("a process of the simulation died; its own message stands above"))

    threading.Thread(target=read, name="simulation reader", daemon=True).start()
    while (measured := waiting.get()) is not None:
        if isinstance(measured, Exception):
            raise measured
        yield measured


__all__ = ["Record", "records"]
