"""How a process that waits is woken by others of its host: a named pipe a process, which any of them rings.

A byte in the pipe says that there is something to look at, never what; whoever is woken looks at all of its channels.
Another byte says that there will be in a moment: waking takes as long as writing a small record, or running a small
node, and goes on beside it where whoever writes says so before. Its record is rung all the same, since the one that was
woken looks for it only so long.

Whoever has written for a process that answers at once announces the answer, too, to those who read it: they wake up
while it is made, and that costs nobody whom anybody waits for. Whether a process does stands in a byte beside its pipe.

A pipe costs one system call to ring and one to wait, with less code behind them than an event service has, which counts
in a process that has just been asleep: every piece of code is slow the first time.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import select
import time
import weakref
from pathlib import Path
from urllib.parse import quote

from perception.errors import ChannelError

RING = b"\0"
ANNOUNCEMENT = b"\1"
EXPECTED_S = 0.0005
"""What was announced is looked for so long; it is rung when it comes later."""
ALL = 1 << 16
"""Bytes that a pipe holds: what is read at once."""


def _opened(folder: Path, process: str) -> int:
    """Return the pipe of a process, made by whoever needs it first; open at both ends, so nobody waits.

    Raises:
        ChannelError: the pipe cannot be made.
    """
    path = folder / f"wake_{quote(process, safe='')}"
    try:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path)
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ChannelError(f"the pipe that wakes process '{process}' cannot be opened: {error}") from None


def _mapped(folder: Path, process: str) -> mmap.mmap:
    """Return the byte that says whether a process answers at once, made by whoever needs it first.

    Raises:
        ChannelError: it cannot be made.
    """
    path = folder / f"answers_{quote(process, safe='')}"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file, 1)
            return mmap.mmap(file, 1)
        finally:
            os.close(file)
    except OSError as error:
        raise ChannelError(f"the file of process '{process}' cannot be made: {error}") from None


class Waker:
    """Wakes one process.

    Args:
        folder: of the run.
        process: whom to wake.

    Raises:
        ChannelError: the pipe cannot be made.
    """

    def __init__(self, folder: Path, process: str) -> None:
        self._pipe = _opened(folder, process)
        self._answers = _mapped(folder, process)
        weakref.finalize(self, os.close, self._pipe)

    @property
    def answers_at_once(self) -> bool:
        """Whether the process gives out something in a moment for all that it is given."""
        return self._answers[0] != 0

    def wake(self) -> None:
        """Wake the process; one that is gone, or whose pipe is full of rings, is none of our business."""
        self._write(RING)

    def announce(self) -> None:
        """Wake the process for what is about to be written for it."""
        self._write(ANNOUNCEMENT)

    def _write(self, byte: bytes) -> None:
        try:
            os.write(self._pipe, byte)
        except BlockingIOError:
            return


class Sleeper:
    """Waits for wake-ups; arguments and errors as of `Waker`, the process being this one."""

    def __init__(self, folder: Path, process: str) -> None:
        self._pipe = _opened(folder, process)
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)
        self._is_announced, self._expected_until_s = False, 0.0
        self._answers = _mapped(folder, process)
        self._answers[0] = 0
        weakref.finalize(self, os.close, self._pipe)

    @property
    def answers_at_once(self) -> bool:
        """What this process says of itself, see `Waker`."""
        return self._answers[0] != 0

    @answers_at_once.setter
    def answers_at_once(self, answers: bool) -> None:
        self._answers[0] = answers

    @property
    def is_announced(self) -> bool:
        """Whether the last wake-up was for something that is about to be written, which is not looked for yet."""
        return self._is_announced

    @property
    def is_expecting(self) -> bool:
        """Whether what was announced may come any moment."""
        return self._is_announced or self._expected_until_s > time.monotonic()

    def is_rung(self) -> bool:
        """True where the next sleep ends at once."""
        return bool(self._poll.poll(0))

    def sleep(self, seconds: float) -> None:
        """Wait until this process is woken, or so long; the GIL is free meanwhile. Look at all channels after that.

        Returns at once as long as what was announced may come any moment: to sleep and wake again takes longer.
        """
        if self._is_announced:
            self._is_announced, self._expected_until_s = False, time.monotonic() + EXPECTED_S
        if is_expected := self._expected_until_s > time.monotonic():
            os.sched_yield()  # whoever writes it may need this core
        self._wait(0 if is_expected else math.ceil(seconds * 1000))

    def sleep_precisely(self, seconds: float) -> None:
        """Wait until this process is woken, or so long and not up to 1 ms longer; what is rung in the last ms waits."""
        until_s = time.monotonic() + seconds
        whole_ms = int(seconds * 1000)
        if not (whole_ms and self._wait(whole_ms)):
            time.sleep(max(0.0, until_s - time.monotonic()))

    def _wait(self, milliseconds: int) -> bool:
        """Return whether this process was woken."""
        if not self._poll.poll(milliseconds):
            return False
        with contextlib.suppress(BlockingIOError):  # another thread of this process was faster
            rung = os.read(self._pipe, ALL)
            self._is_announced, self._expected_until_s = rung.endswith(ANNOUNCEMENT), 0.0
        return True


__all__ = ["Sleeper", "Waker"]
