"""A drive on several processes: each renders some of the sensors, and their records are put in order.

What a sensor says does not depend on the others, so the records are equal bytes for any number of processes. Python's
lock is why these are processes: half of the work is in Python between the kernels.
"""

from __future__ import annotations

import heapq
import multiprocessing
import queue
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import TypeAlias

from perception.errors import PerceptionError
from perception.messages.codec import encode
from perception.simulation.drive import Drive, Instant
from perception.simulation.world import is_in_cabin

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
    workers, streams = [], []
    for share in _shares(drive, processes):
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=_render, args=(drive, share, duration_s, sender), daemon=True)
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


def _shares(drive: Drive, processes: int) -> list[frozenset[int]]:
    """Return the sensors of each process, so that all have about as much to do: the costliest first to the freest."""
    costs = sorted(((_cost(drive, index), index) for index in range(len(drive.sensors))), reverse=True)
    shares: list[set[int]] = [set() for _ in range(min(processes, len(costs)))]
    loads = [0.0] * len(shares)
    for cost, index in costs:
        freest = loads.index(min(loads))
        shares[freest].add(index)
        loads[freest] += cost
    return [frozenset(share) for share in shares]


def _cost(drive: Drive, index: int) -> float:
    """Return about what a second of a sensor costs, in rays."""
    sensor = drive.sensors[index]
    if sensor.lidar is not None:
        return sensor.lidar.rings * sensor.lidar.columns * sensor.rate_hz * 2.0
    if sensor.camera is None:
        return sensor.rate_hz * 100.0
    pixels = float(sensor.camera.width_px * sensor.camera.height_px)
    if sensor.kind == "event_camera":
        return pixels * (25.0 if is_in_cabin(drive.rig, sensor) else 120.0)
    return pixels * sensor.rate_hz * (1.5 if is_in_cabin(drive.rig, sensor) else 1.0)


def _render(drive: Drive, share: frozenset[int], duration_s: float, sender: Connection) -> None:
    """Send the records of some sensors, instant by instant, then None; the body of a process."""
    try:
        for at in drive.instants(duration_s):
            if at.index in share:
                found = [
                    (topic, encode(message).to_bytes(), message.header.t_sensor_ns)
                    for topic, message in drive.measured(at)
                ]
                sender.send((at, found))
        sender.send(None)
    except (BrokenPipeError, KeyboardInterrupt):  # the reader has gone
        pass


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
