"""The sources of one process: each is read in a thread of its own, which hands over what it measures."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

from perception.messages import Message
from perception.runtime.cadence import Cadence
from perception.runtime.cores import EveryOtherCore
from perception.runtime.graph import Graph, NodeSpec
from perception.runtime.histories import AFTER_ALL
from perception.runtime.node import Bound, Node, Source
from perception.runtime.output_stamper import OutputStamper, received
from perception.runtime.pacing import paced_topics
from perception.runtime.playback import Playback, PlaybackState

HandOver: TypeAlias = Callable[[NodeSpec, str, Message | Bound, int], None]


class SourceReader:
    """Reads one source until its end, and again after a seek or a loop.

    Args:
        spec: the source's.
        source: the source itself.
        playback: its pace, where it can be told.
        stamper: its output side.
        distance: of its process from the sources, see `EveryOtherCore`.
        hand_over: called with the source, a topic, what came on it, and the beginning that it belongs to.
    """

    def __init__(
        self,
        spec: NodeSpec,
        source: Source,
        playback: Playback | None,
        stamper: OutputStamper,
        distance: int | None,
        hand_over: HandOver,
    ) -> None:
        self.spec, self.source, self.playback = spec, source, playback
        self._stamper, self._distance, self._hand_over = stamper, distance, hand_over
        self.is_wrapping = self.is_stopping = self.has_ended = False
        self.cadence = Cadence()

    def read(self) -> None:
        """Hand over what the source measures until it ends; what it raises is its failure."""
        while not self.is_stopping and self._give_out():
            pass

    def stop(self) -> None:
        """Hand over nothing more."""
        self.is_stopping = True
        if self.playback is not None:
            self.playback.stop()

    def _give_out(self) -> bool:
        """Hand over what the source measures; a paced one waits for each stamp's turn. True where it begins again."""
        playback, stamper, core = self.playback, self._stamper, EveryOtherCore(self._distance)
        beginning = 0 if playback is None else playback.beginning
        for topic, item in self.source.messages():
            if playback is not None:
                turn = playback.turn(topic, item.t_ns if isinstance(item, Bound) else item.header.t_sensor_ns)
                if turn is None:
                    return playback.wait_for_go()
                beginning = turn
            if self.is_stopping:
                return False
            if isinstance(item, Bound):
                self._hand_over(self.spec, topic, item, beginning)
                continue
            self._hand_over(self.spec, topic, received(stamper.settled(item)), beginning)
            self.cadence.take(time.monotonic())
            core.settle()
            if stamper.places is not None:
                stamper.places.gave_out(topic)
        for topic in self.spec.outputs.values():
            self._hand_over(self.spec, topic, Bound(AFTER_ALL), beginning)
        if playback is None or not self.source.wraps():
            return False
        playback.hold()
        self.is_wrapping = True
        return playback.wait_for_go()


class Sources:
    """All sources of one process.

    Args:
        graph: the whole graph.
        nodes: the nodes of the process by name, sources among them.
        stampers: output side of each source, by its name.
        distance: as of `SourceReader`.
        hand_over: as of `SourceReader`.
        fail: called by a source's thread with who failed and why, before it counts as ended.
        on_end: called by it at its end.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Mapping[str, Node],
        stampers: Mapping[str, OutputStamper],
        distance: int | None,
        hand_over: HandOver,
        fail: Callable[[str, Exception], None],
        on_end: Callable[[], None],
    ) -> None:
        self._fail, self._on_end = fail, on_end
        self._readers: dict[str, SourceReader] = {}
        for spec in graph.nodes:
            source = nodes.get(spec.name)
            if isinstance(source, Source):
                playback = Playback(graph.rate, paced_topics(spec, graph)) if getattr(source, "paced", False) else None
                stamper = stampers[spec.name]
                self._readers[spec.name] = SourceReader(spec, source, playback, stamper, distance, hand_over)

    def start(self) -> None:
        """Start the threads."""
        for name, reader in self._readers.items():
            threading.Thread(target=self._read, args=(name, reader), name=name, daemon=True).start()

    def _read(self, name: str, reader: SourceReader) -> None:
        try:
            reader.read()
        except Exception as error:  # noqa: BLE001 - told as the process'
            self._fail(f"source '{name}'", error)
        finally:
            reader.has_ended = True
            self._on_end()

    def stop(self) -> None:
        """Ask the threads to end."""
        for reader in self._readers.values():
            reader.stop()

    def hold(self) -> None:
        """Hold those whose pace can be told, until `go`; what they gave out before is outdated."""
        for playback in self._playbacks():
            playback.begin_anew()

    def go(self, t_ns: int | None) -> None:
        """Let the sources begin, at this time of their log where one is given.

        Raises:
            UserError: a source cannot seek, or not there.
        """
        try:
            for reader in self._readers.values():
                if t_ns is not None and reader.playback is not None:
                    reader.source.seek(t_ns)
        finally:
            for reader in self._readers.values():
                reader.is_wrapping = False
            for playback in self._playbacks():
                playback.go()

    def play(self, action: str, value: float) -> list[PlaybackState]:
        """Let all sources do what `Playback.act` can, and return how they play then."""
        states: list[PlaybackState] = []
        for name, reader in self._readers.items():
            if reader.playback is not None:
                reader.playback.act(action, value)
                states.append(PlaybackState(name, reader.playback.rate, reader.playback.paused, reader.source.place()))
        return states

    def wrap(self) -> bool:
        """True where a source has come to its end and wants to begin again."""
        return any(reader.is_wrapping for reader in self._readers.values())

    def have_ended(self) -> bool:
        """True where all have handed over their last message."""
        return all(reader.has_ended for reader in self._readers.values())

    def due_s(self, after_s: float) -> float:
        """Return when the first message after this time is due, by the paces of all; infinity where none is steady."""
        return min((reader.cadence.due_s(after_s) for reader in self._readers.values()), default=math.inf)

    def is_paced(self, source: str) -> bool:
        """True where a source's pace can be told."""
        return self._readers[source].playback is not None

    def is_outdated(self, source: str, beginning: int) -> bool:
        """True for what a source handed over before it began anew."""
        playback = self._readers[source].playback
        return playback is not None and beginning != playback.beginning

    def _playbacks(self) -> list[Playback]:
        return [reader.playback for reader in self._readers.values() if reader.playback is not None]


__all__ = ["Sources"]
