"""What a channel replaced before it was read: it reports nothing itself, but publishers number what they send."""

from __future__ import annotations

from perception.messages import Header


class SequenceGaps:
    """Remembers the last message of each topic."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}

    def lost(self, topic: str, header: Header, *, was_there: bool = True) -> int:
        """Return how many messages are missing before this one; less than 0 if it comes again.

        Args:
            topic: where it came.
            header: its own. Who publishes begins at 0, and at 0 again in a new epoch.
            was_there: whether this reader was there when the publisher began: one that was started anew comes in
                between, and misses nothing before its first message.
        """
        before = self._last.get(topic)
        self._last[topic] = header.epoch, header.seq
        if before is None:
            return header.seq if was_there else 0
        epoch, seq = before
        return header.seq - (seq if epoch == header.epoch else -1) - 1


__all__ = ["SequenceGaps"]
