"""Frames of one size reuse their memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNTED = """
import resource, sys
import numpy as np
from perception.runtime.allocator import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    print(-1)
    sys.exit()
np.ones(1 << 20, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    np.ones(1 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", COUNTED, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_hundred_frames_of_a_megabyte_cost_hardly_a_page_fault() -> None:
    kept, fresh = faults("kept"), faults("default")
    if kept < 0:
        pytest.skip("this C library is not glibc")
    assert kept < 100 < fresh
