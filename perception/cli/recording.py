"""What `perception launch --record` and `perception record` share: when a recording ends, and its files."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from perception.logs.vehicle_writers import SnapshotWriter, SplitWriter

    Writer: TypeAlias = SplitWriter | SnapshotWriter

MaxBytes = Annotated[int | None, typer.Option(min=1, help="End the recording when it is so large.")]
SplitBytes = Annotated[int | None, typer.Option(min=1, help="Begin a new file of the recording when one is so large.")]
SplitSeconds = Annotated[float | None, typer.Option("--split-seconds", min=0.1, help="And after so many seconds.")]
Last = Annotated[
    str | None,
    typer.Option(help="Hold so many seconds in memory, such as 30s; write them at each SIGUSR1 and at the end."),
]


def writer_of(
    out: Path, attachments: Mapping[str, bytes], *, split_bytes: int | None, split_s: float | None, last: str | None
) -> Writer:
    """Return what writes the recording; with `last` a snapshot follows each SIGUSR1.

    Raises:
        UserError: options that do not go together, or no time.
        LogError: the file exists or cannot be made.
    """
    from perception.errors import UserError
    from perception.logs.vehicle_writers import SnapshotWriter, SplitWriter

    if last is None:
        max_ns = None if split_s is None else round(split_s * 1e9)
        return SplitWriter(out, attachments, max_bytes=split_bytes, max_ns=max_ns)
    if split_bytes is not None or split_s is not None:
        raise UserError("--last holds the newest seconds, --split-... writes all of them: give one of the two")
    try:
        seconds = float(last.removesuffix("s"))
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:
        raise UserError(f"--last {last}: expected seconds, such as 30 or 30s")
    snapshots = SnapshotWriter(out, attachments, last_ns=round(seconds * 1e9))
    signal.signal(signal.SIGUSR1, lambda *_: snapshots.trigger())
    return snapshots


def end_of(writer: Writer) -> None:
    """Ask for the last snapshot; other writers have written all that they have."""
    from perception.logs.vehicle_writers import SnapshotWriter

    if isinstance(writer, SnapshotWriter):
        writer.trigger()


def remove_empty(writer: Writer) -> None:
    """Remove a recording that holds no message: of a graph that was refused, so that the next finds the name free."""
    if not writer.messages:
        for path in writer.files:
            path.unlink(missing_ok=True)


def files_written(writer: Writer) -> str:
    """Return how many files there are, for people; nothing where there is one."""
    return "" if len(writer.files) == 1 else f" in {len(writer.files)} files, the last {writer.path.name}"


__all__ = ["Last", "MaxBytes", "SplitBytes", "SplitSeconds", "end_of", "files_written", "remove_empty", "writer_of"]
