"""A drive on several processes: each renders some of the instants, and their records are put in order.

What a sensor says at an instant depends on nothing else, so the records are equal bytes for any number of processes.
Python's lock is why these are processes: a part of the work is in Python between the kernels.
"""

from __future__ import annotations

import heapq
import multiprocessing
import queue
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from typing import TypeAlias

from perception.errors import PerceptionError
from perception.messages.codec import encode
from perception.simulation.drive import Drive, Instant

Record: TypeAlias = tuple[str, bytes, int]
"""Topic, encoded message, stamp."""
Measured: TypeAlias = tuple[Instant, list[Record]]
AHEAD = 48
"""Instants that a process may be ahead of the slowest."""


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
                found = [
                    (topic, encode(message).to_bytes(), message.header.t_sensor_ns)
                    for topic, message in drive.measured(at)
                ]
                sender.send((at, found))
            if number == mine:
                mine = _take(taken)
        sender.send(None)
    except (BrokenPipeError, KeyboardInterrupt):  # the reader has gone
        pass


def _take(taken: Synchronized[int]) -> int:
    with taken.get_lock():
        taken.value += 1
        return taken.value - 1


def _received(receiver: Connection) -> Iterator[Measured]:
    """Yield what a process sends; a thread reads ahead, so that a fast process need not wait for a slow one."""
    waiting: queue.Queue[Measured | Exception | None] = queue.Queue(AHEAD)

    def read() -> None:
        try:
            while (measured := receiver.recv()) is not None:
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
