"""Batches: one call with a message of each of several topics of one `On` input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perception.messages import Message


@dataclass(frozen=True)
class Batch:
    """Messages by sensor, the topic without its last word."""

    messages: Mapping[str, Message]
    topics: Mapping[str, str]
    """Topic by sensor."""

    def sources(self, port: str) -> tuple[Message, ...]:
        """Return what an output was made of: for port "mask/cam_front" the message of cam_front, else all."""
        own = self.messages.get(port.partition("/")[2])
        return tuple(self.messages.values()) if own is None else (own,)


def sensor_of(topic: str) -> str:
    """Return the sensor's part of a topic: "cam_front" of "cam_front/image"."""
    return topic.rpartition("/")[0] or topic


__all__ = ["Batch", "sensor_of"]
