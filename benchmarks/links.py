"""Peers as one process per stage: pyzmq over ipc, zenoh with shared memory, dora-rs.

python -m perception.benchmarks.links SYSTEM ROLE FOLDER, with the roles 0 (source), 1, 2 (relays) and 3 (sink).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from perception.benchmarks.payload import END, Bytes, Collector, Plan, due, filled, number_of, relay, relayed

FIRST_PORT = 17_550
POOL_BYTES = 128 << 20


class Link(Protocol):
    """One stage's input and output.

    `give` sends a source's payload and `relay` a relay's answer, made in shared memory where a peer can do that.
    """

    def receive(self) -> Iterator[Bytes]: ...
    def send(self, data: Bytes) -> None: ...
    def give(self, size: int, number: int) -> None: ...
    def relay(self, data: Bytes) -> None: ...
    def close(self) -> None: ...


class ZmqLink:
    """PUSH and PULL over Unix sockets."""

    def __init__(self, role: int, folder: Path) -> None:
        import zmq

        self._context = zmq.Context()
        if role > 0:
            self._input = self._context.socket(zmq.PULL)
            self._input.bind(f"ipc://{folder}/{role}.ipc")
        if role < 3:
            self._output = self._context.socket(zmq.PUSH)
            self._output.setsockopt(zmq.SNDHWM, 10)
            self._output.connect(f"ipc://{folder}/{role + 1}.ipc")

    def receive(self) -> Iterator[Bytes]:
        while True:
            yield np.frombuffer(self._input.recv(copy=False).buffer, np.uint8)

    def send(self, data: Bytes) -> None:
        self._output.send(data.data, copy=False)

    def give(self, size: int, number: int) -> None:
        self.send(filled(np.empty(size, np.uint8), number))

    def relay(self, data: Bytes) -> None:
        self.send(relayed(data))

    def close(self) -> None:
        self._context.destroy(linger=2000)


class ZenohLink:
    """One key per hop, shared memory on; each receiver listens on loopback, its sender connects."""

    def __init__(self, role: int, folder: Path) -> None:
        import zenoh

        config = zenoh.Config()
        config.insert_json5("mode", '"peer"')
        config.insert_json5("scouting/multicast/enabled", "false")
        config.insert_json5("transport/shared_memory/enabled", "true")
        if role > 0:
            config.insert_json5("listen/endpoints", f'["tcp/127.0.0.1:{FIRST_PORT + role}"]')
        else:
            config.insert_json5("listen/endpoints", "[]")
        if role < 3:
            config.insert_json5("connect/endpoints", f'["tcp/127.0.0.1:{FIRST_PORT + role + 1}"]')
        self._zenoh, self._role = zenoh, role
        self._session = zenoh.open(config)
        if role > 0:
            self._subscriber = self._session.declare_subscriber(f"hop/{role}", zenoh.handlers.FifoChannel(64))
        if role < 3:
            self._provider = zenoh.shm.ShmProvider.default_backend(POOL_BYTES)
            self._publisher = self._session.declare_publisher(
                f"hop/{role + 1}", congestion_control=zenoh.CongestionControl.BLOCK
            )

    def receive(self) -> Iterator[Bytes]:
        for sample in self._subscriber:
            shared = sample.payload.as_shm()
            yield np.frombuffer(bytes(shared) if shared is not None else sample.payload.to_bytes(), np.uint8)

    def send(self, data: Bytes) -> None:
        shm = self._zenoh.shm
        buffer = self._provider.alloc(len(data), policy=shm.BlockOn(shm.GarbageCollect()))
        buffer[:] = data.tobytes()
        self._publisher.put(buffer)

    def give(self, size: int, number: int) -> None:
        self.send(filled(np.empty(size, np.uint8), number))  # its buffer takes bytes alone

    def relay(self, data: Bytes) -> None:
        self.send(relayed(data))

    def close(self) -> None:
        time.sleep(0.3)
        self._session.close()  # type: ignore[no-untyped-call,unused-ignore]


class DoraLink:
    """Raw samples in dora's shared-memory pool."""

    def __init__(self, role: int, folder: Path) -> None:
        import dora

        self._node = dora.Node()

    def receive(self) -> Iterator[Bytes]:
        for event in self._node:
            if event["type"] == "INPUT":
                yield event["value"].to_numpy(zero_copy_only=False)

    def send(self, data: Bytes) -> None:
        with self._node.send_output_raw("out", len(data)) as buffer:  # type: ignore[attr-defined,unused-ignore]
            view = np.frombuffer(buffer, np.uint8)
            view[:] = data
            del view

    def give(self, size: int, number: int) -> None:
        with self._node.send_output_raw("out", size) as buffer:  # type: ignore[attr-defined,unused-ignore]
            view = np.frombuffer(buffer, np.uint8)
            filled(view, number)
            del view

    def relay(self, data: Bytes) -> None:
        with self._node.send_output_raw("out", len(data)) as buffer:  # type: ignore[attr-defined,unused-ignore]
            view = np.frombuffer(buffer, np.uint8)
            relay(data, view)
            del view

    def close(self) -> None:
        time.sleep(0.3)


LINKS: dict[str, Callable[[int, Path], Link]] = {"zmq_ipc": ZmqLink, "zenoh_shm": ZenohLink, "dora": DoraLink}


def run_stage(link: Link, role: int, folder: Path) -> None:
    """Do the work of one stage until the last message."""
    plan = Plan.read(folder)
    if role == 0:
        time.sleep(1.5)  # the others have connected by then
        for size, number in due(plan):
            link.give(size, number)
        return
    collector = Collector(folder)
    for data in link.receive():
        if role == 3:
            if not collector.take(data):
                return
            continue
        if role == 2 and plan.slow_ms:
            time.sleep(plan.slow_ms / 1000)
        if number_of(data) == END:
            link.send(data)
            return
        link.relay(data)


def dora_dataflow(folder: Path) -> str:
    """Return the dataflow of four stages."""
    nodes = []
    for role in range(4):
        lines = [f"  - id: stage{role}", f"    path: {sys.executable}",
                 f"    args: -m perception.benchmarks.links dora {role} {folder}"]  # fmt: skip
        lines += [f"    inputs: {{in: stage{role - 1}/out}}"] if role else []
        lines += ["    outputs: [out]"] if role < 3 else []
        nodes.append("\n".join(lines))
    return "nodes:\n" + "\n".join(nodes) + "\n"


def main() -> None:
    system, role, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    link = LINKS[system](role, folder)
    try:
        run_stage(link, role, folder)
    finally:
        link.close()


if __name__ == "__main__":
    main()
