"""Keep a process to some of the machine's cores, so that two nodes' threads do not take turns on the same ones."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


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
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it ended meanwhile
            os.sched_setaffinity(int(thread.name), wanted)
    return wanted
