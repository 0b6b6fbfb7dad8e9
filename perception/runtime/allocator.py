"""How a process of a graph keeps its memory: freed frames stay with it.

By default glibc gives blocks above 128 KiB back to the kernel when they are freed, so that every fresh image or output
of a node costs a page fault per 4 KiB. Frames of one size come again and again: kept, they cost none.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
LARGEST_KEPT = 32 << 20  # the most that glibc takes for blocks of its own heap
KEPT_IN_ALL = 256 << 20


def keep_freed_memory() -> bool:
    """Let freed blocks of up to 32 MiB stay in this process; False where the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # One arena: those of threads are unmapped as soon as they are empty, whatever the thresholds say.
    wanted = ((_MMAP_THRESHOLD, LARGEST_KEPT), (_TRIM_THRESHOLD, KEPT_IN_ALL), (_ARENA_MAX, 1))
    done = [mallopt(option, value) == 1 for option, value in wanted]
    return all(done)


__all__ = ["keep_freed_memory"]
