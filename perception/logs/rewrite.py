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


def write_attachments(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the files that a log holds into a new folder.

    Raises:
        LogError: the folder exists or cannot be written, or a file's name leads out of it.
    """
    for name in files:
        if not name or ".." in Path(name).parts or Path(name).is_absolute():
            raise LogError(f"the log holds a file '{name}', whose name leads out of {folder}: nothing is written")
    try:
        folder.mkdir(parents=True)
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    except FileExistsError:
        raise LogError(f"{folder}: exists already; nothing is overwritten. Give another name.") from None
    except (OSError, ValueError) as error:
        raise LogError(f"{folder}: the files of the log cannot be written there: {error}") from None


__all__ = ["Rewritten", "rewrite", "write_attachments"]
