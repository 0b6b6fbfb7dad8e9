"""How the nodes of one process are doing, as the process says it once a second."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

import msgspec
import psutil

from perception.messages import Header, NodeStatus, Status
from perception.runtime.channels import Channels
from perception.runtime.graph import NodeSpec
from perception.runtime.group import Group
from perception.runtime.node import Node
from perception.runtime.output_stamper import RunContext
from perception.runtime.pacing import PacedSource


class StatusTeller:
    """Puts the status of one process together.

    Args:
        specs: the nodes of the process.
        nodes: the same, made.
        group: what runs them.
        channels: what the process reads and writes.
        pacers: by name, the sources whose instants are admitted.
        context: run and epoch.
    """

    def __init__(
        self,
        specs: Sequence[NodeSpec],
        nodes: Mapping[str, Node],
        group: Group,
        channels: Channels,
        pacers: Mapping[str, PacedSource],
        context: RunContext,
    ) -> None:
        self._specs, self._nodes, self._group, self._channels = specs, nodes, group, channels
        self._pacers, self._context = pacers, context
        self._seq = 0

    def begin_anew(self) -> None:
        """Number from 0 again: the epoch is another one."""
        self._seq = 0

    def status(self, *, sources_ended: bool) -> Status:
        """Return how the nodes of this process are doing."""
        memory_mb = psutil.Process().memory_info().rss / 1e6
        header = Header(
            frame_id="",
            t_sensor_ns=time.time_ns(),
            run=self._context.run,
            epoch=self._context.epoch,
            seq=self._seq,
        )
        self._seq += 1
        nodes = [self._noted(executor.status(memory_mb)) for executor in self._group.executors.values()]
        nodes += [self._source_status(spec, memory_mb) for spec in self._specs if spec.is_source]
        refused, now = self._channels.refused()
        if refused:
            nodes = [_with_refused(node, refused, now) for node in nodes]
        return Status(
            header=header, process=self._channels.process, host=os.uname().nodename, pid=os.getpid(),
            nodes=tuple(nodes), sources_ended=sources_ended, links=self._channels.links(),
        )  # fmt: skip

    def _noted(self, status: NodeStatus) -> NodeStatus:
        """Name a node that holds on to more views than it may, so that records had to be copied for it."""
        readers = self._channels.readers
        copied = sum(readers[entry.topic].copied for entry in status.inputs if entry.topic in readers)
        if not copied or self._context.lockstep:  # in lockstep what waits is the graph's doing, not a node's
            return status
        note = f"{status.node} keeps more views than it declared by holds: {copied} records copied"
        return msgspec.structs.replace(status, notes=(*status.notes, note))

    def _source_status(self, spec: NodeSpec, memory_mb: float) -> NodeStatus:
        stamper = self._group.sources[spec.name]
        return NodeStatus(
            node=spec.name, state="ok", epoch=self._context.epoch, inputs=(),
            published=dict(stamper.published), latency_p50_ms=0.0, latency_p99_ms=0.0,
            memory_mb=memory_mb, degraded=self._nodes[spec.name].degraded,
            notes=(*self._nodes[spec.name].notes, *stamper.notes(), *self._held_back(spec.name)),
        )  # fmt: skip

    def _held_back(self, source: str) -> tuple[str, ...]:
        pacing = self._pacers.get(source)
        if pacing is None or not pacing.pacer.held_back:
            return ()
        return tuple(f"paced by {pacing.paced_by}: {n} of {t} held back" for t, n in pacing.pacer.held_back.items())


def _with_refused(status: NodeStatus, refused: tuple[str, ...], now: bool) -> NodeStatus:
    if now:
        return msgspec.structs.replace(status, degraded=(*status.degraded, *refused))
    return msgspec.structs.replace(status, notes=(*status.notes, *refused))


__all__ = ["StatusTeller"]
