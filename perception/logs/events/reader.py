"""One camera's events in a recording: read from the start, piece by piece, as often as asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from perception.errors import LogError
from perception.logs.events.decoder import Decoded, Decoder
from perception.messages import Message

PIECE_BYTES = 1 << 19
LARGEST = 2048
"""Rows and columns where a file does not tell: what 11 bits of an address hold."""


class EventReader(ABC):
    """One camera of a recording."""

    name: str
    """Of the format, such as "prophesee_evt3"."""
    triggers = False
    """Whether the format can hold trigger edges."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        """What had to be assumed."""
        self.skipped: Counter[str] = Counter()
        """What could not be decoded in the last reading, by reason."""
        self.other_words: Counter[str] = Counter()
        """What was sound in the last reading, but is neither an event nor a trigger, by kind."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Rows and columns of the sensor."""

    @property
    def others(self) -> Mapping[str, type[Message]]:
        """Message type by the last part of a topic, of what else the camera may have measured."""
        return {}

    @abstractmethod
    def pieces(self, from_ns: int | None = None) -> Iterator[Decoded]:
        """Decode from the start; where the format has an index, what lies before `from_ns` may be left out.

        Raises:
            LogError: the recording cannot be read.
        """

    def sides(self) -> Sequence[Iterator[Decoded]]:
        """Triggers and other messages that a recording holds beside its events, each a stream in its own order."""
        return ()


class WordReader(EventReader):
    """A file of words behind a header."""

    def __init__(
        self, name: str, path: Path, offset: int, decoder: Callable[[int, int], Decoder], size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.name, self._path, self._offset, self._decoder, self._size = name, path, offset, decoder, size
        self.triggers = bool(getattr(decoder, "TRIGGERS", False))

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    def pieces(self, from_ns: int | None = None) -> Iterator[Decoded]:
        del from_ns
        decoder = self._decoder(*self._size)
        for piece in file_pieces(self._path, self._offset):
            yield decoder.feed(piece)
        yield decoder.finish()
        self.skipped, self.other_words = decoder.skipped, decoder.other_words


def file_pieces(path: Path, offset: int) -> Iterator[bytes]:
    """Read a file in pieces. Raises LogError where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            while piece := file.read(PIECE_BYTES):
                yield piece
    except OSError as error:
        raise LogError(f"{path}: cannot be read: {error.strerror}") from None


__all__ = ["LARGEST", "PIECE_BYTES", "EventReader", "WordReader", "file_pieces"]
