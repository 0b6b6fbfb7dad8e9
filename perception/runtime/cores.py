"""Which of the machine's cores a process uses: those that it was given, or every other one while it does little."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

LIGHT_NS = 1_000_000
"""A message that takes less of a thread's time is light."""
KEPT_AT, RELEASED_AT, LEAST = 30, 0, -100
"""What light messages must count up to, what heavy ones must count down to, and where that ends."""


def keep_to_cores(cores: Iterable[int]) -> set[int]:
    """Let every thread of this process, and all that it starts from now on, run on `cores` alone.

    Cores that the machine lacks, or that this process may not use, are left out; without any left nothing changes.

    Returns:
        The cores that the process may use from now on.
    """
    if not hasattr(os, "sched_setaffinity"):  # only Linux has it
        return set(range(os.cpu_count() or 1))
    allowed = os.sched_getaffinity(0)
    wanted = set(cores) & allowed
    if not wanted:
        return allowed
    _let_threads_run_on(wanted)
    return wanted


def _let_threads_run_on(cores: set[int], instead_of: set[int] | None = None) -> None:
    """Let all threads of this process run on these cores; with `instead_of`, those that may run on exactly these."""
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it ended meanwhile
            if instead_of is None or os.sched_getaffinity(int(thread.name)) == instead_of:
                os.sched_setaffinity(int(thread.name), cores)


class EveryOtherCore:
    """Keeps a thread that does little to every other core, so that it never has the one of whom it reads.

    A reader is woken before its record is written, and wakes up beside that if it has a core of its own. Left alone it
    is often given the writer's, since that one is awake, and holds up what it waits for: a way through three small
    stages took 1.4 times as long. Who computes for long is better placed by the kernel, which knows what else runs.

    Args:
        distance: of the thread's process from the sources; those of neighbours are odd and even in turn. None: keep it
            nowhere.
    """

    def __init__(self, distance: int | None) -> None:
        self._all = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self._mine = set() if distance is None else set(sorted(self._all)[distance % 2 :: 2])
        self._used_ns = time.thread_time_ns()
        self._score = 0
        self._is_kept = False

    def leave_out(self) -> None:
        """Take that what the calling thread did until now was for no message."""
        self._used_ns = time.thread_time_ns()

    def settle(self) -> None:
        """Take how long the calling thread was busy since the last message; for when there is time."""
        used_ns = time.thread_time_ns()
        took_ns, self._used_ns = used_ns - self._used_ns, used_ns
        counted = 1 if took_ns < LIGHT_NS else -(took_ns // LIGHT_NS)
        self._score = max(LEAST, min(KEPT_AT, self._score + counted))
        if self._is_kept and self._score <= RELEASED_AT:
            self._is_kept = False
            _let_threads_run_on(self._all, instead_of=self._mine)  # and those that this one started meanwhile
        elif not self._is_kept and self._score == KEPT_AT and self._mine:
            self._is_kept = True
            with contextlib.suppress(OSError):  # a core was taken from this process
                os.sched_setaffinity(0, self._mine)


__all__ = ["EveryOtherCore", "keep_to_cores"]
