"""Write what a log holds, or a part of it, as a recording of ours."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from perception.errors import LogError, did_you_mean
from perception.logs.log import Log
from perception.logs.mcap_writer import McapWriter
from perception.messages.codec import encode


@dataclass(frozen=True)
class Rewritten:
    """What was written, and what could not be read, by reason."""

    messages: int
    skipped: Mapping[str, int]


def rewrite(
    log: Log,
    out: Path,
    *,
    from_ns: int | None = None,
    until_ns: int | None = None,
    topics: Collection[str] | None = None,
) -> Rewritten:
    """Write the messages of a log, by stamp, with its attachments and its rig.

    Args:
        log: any log.
        out: the file to make; it must not exist.
        from_ns: the first stamp wanted.
        until_ns: the first stamp not wanted any more.
        topics: the topics wanted; None is all.

    Raises:
        LogError: `out` exists or cannot be written, or the log has no such topic.
    """
    known = log.topics()
    for topic in topics or ():
        if topic not in known:
            raise LogError(f"{log.path}: has no topic '{topic}'.{did_you_mean(topic, known)}")
    files = dict(log.attachments())
    if not any(name.startswith("calibration/") for name in files) and log.rig is not None:
        files |= {f"calibration/{name}": data for name, data in log.rig.files.items()}
    written = 0
    with McapWriter(out, files) as writer:
        for topic, message in log.messages(from_ns, until_ns, topics):
            writer.write(topic, encode(message).to_bytes(), message.header.t_sensor_ns)
            written += 1
    return Rewritten(written, dict(log.skipped))


__all__ = ["Rewritten", "rewrite"]
