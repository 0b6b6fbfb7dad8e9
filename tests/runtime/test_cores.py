"""A process keeps to its cores: its threads too, and whatever the machine has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, threading
from perception.runtime.cores import keep_to_cores
release = threading.Event()
early = threading.Thread(target=release.wait)
early.start()
first = min(os.sched_getaffinity(0))
assert keep_to_cores([first, 4096]) == {first}
assert os.sched_getaffinity(early.native_id) == {first}
later = []
thread = threading.Thread(target=lambda: later.append(os.sched_getaffinity(0)))
thread.start(); thread.join()
assert later == [{first}]
assert keep_to_cores([4096]) == {first} == keep_to_cores([])
release.set()
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds processes to cores")
def test_a_process_and_its_threads_keep_to_the_cores_that_are_there() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
