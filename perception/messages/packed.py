"""Values that stand in a message in another form than in its record."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Packed(ABC):
    """A field's value that writes itself; whoever decodes the record gets what the message type declares."""

    @abstractmethod
    def packed(self) -> memoryview:
        """Return the value as MessagePack."""


__all__ = ["Packed"]
