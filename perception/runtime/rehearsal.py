"""What a process does once more before a record comes that was announced, so that it does it at speed when it is there.

Every piece of code is slow the first time after its core was halted: what takes 4 us in a loop takes 40 then, and a
record's way through a process is hardly anything else. Who was woken ahead has the time to go that way once before. A
small record goes round through a channel of the process' own: it is taken and decoded, a node that does nothing answers
it, and the answer is laid out and written, all by the code that the real one goes through; the nodes see nothing of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np

from perception.errors import ChannelError
from perception.messages import Header, Image, Message, Span, Timing
from perception.messages.codec import decode
from perception.runtime.executor import NodeExecutor
from perception.runtime.graph import Edge, NodeSpec
from perception.runtime.node import Node, NodeConfig, On, Out
from perception.runtime.output_stamper import RunContext
from perception.runtime.shared_memory import Reader, Writer

COLD_S = 0.003
"""A process that had nothing to do for so long is slow at first."""
TOPIC = "rehearsal"


class Echo(Node):
    """Gives out a picture for each, with spans of its own: what goes round does not grow."""

    data = On[Image](keep="all", bound=1)
    out = Out[Image]()

    def on_data(self, data: Image) -> Image:
        spans = (Span("rehearsal waits", data.header.t_sensor_ns, 0),)
        return Image(
            header=data.header, encoding="mono8", height_px=1, width_px=1, data=data.data, timing=Timing(spans=spans)
        )


class Rehearsal:
    """The record that goes round.

    Args:
        opened: opens both ends of a channel of this process alone; asked when they are needed first.
        context: of the run; headers are as long as real ones.
        reads: whether this process reads records.
        writes: whether it writes any.
    """

    def __init__(
        self, opened: Callable[[], tuple[Writer, Reader]], context: RunContext, *, reads: bool, writes: bool
    ) -> None:
        self._opened, self._reads, self._writes = opened, reads, writes
        self._ends: tuple[Writer, Reader] | None = None
        spec = NodeSpec(
            name="rehearsal", target=f"{__name__}:Echo", config=NodeConfig(), process="",
            edges=(Edge(TOPIC, "data", Image, keep="all", bound=1),), outputs={"out": TOPIC},
        )  # fmt: skip
        self._executor = NodeExecutor(spec, Echo(NodeConfig()), {TOPIC: 0}, context)
        header = Header(frame_id="rehearsal", t_sensor_ns=0)
        data = np.zeros((1, 1), np.uint8)
        self._first = Image(header=header, encoding="mono8", height_px=1, width_px=1, data=data)
        self._next: Message | None = self._first
        self._is_settled = True

    def go_round(self, is_over: Callable[[], bool]) -> None:
        """Let the record go round once, or as far as it comes; what only writes answers the first one ever again.

        The first time nothing is there yet, and `settle` makes it.

        Args:
            is_over: whether the real one is there.
        """
        self._is_settled = False
        if self._ends is None:
            return
        writer, reader = self._ends
        record = reader.take() if self._reads else None
        if record is not None:
            self._executor.offer(TOPIC, decode(record, Image))
        elif not self._reads:
            self._executor.offer(TOPIC, self._first)
        if is_over():
            return
        self._run()
        if self._writes and not is_over():
            self._write(writer)

    def settle(self) -> None:
        """Make ready for the next time; for when there is time."""
        if self._is_settled:
            return
        self._is_settled = True
        with contextlib.suppress(ChannelError):  # shared memory is full, which real records tell
            writer, reader = self._ends = self._ends or self._opened()
            self._run()
            self._write(writer)
            reader.give_back()
        self._executor.settle()

    def _run(self) -> None:
        for _, message in self._executor.run_next() or ():
            self._next = message

    def _write(self, writer: Writer) -> None:
        if self._next is not None:
            with contextlib.suppress(ChannelError):
                writer.write(writer.laid_out(self._next))
                self._next = None


__all__ = ["COLD_S", "Rehearsal"]
