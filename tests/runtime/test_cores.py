"""A process keeps to its cores: its threads too, and whatever the machine has; one that does little, off others'."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from perception.runtime.cores import keep_to_cores

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


LIGHT = """
import os, threading, time
from perception.runtime.cores import KEPT_AT, LIGHT_NS, EveryOtherCore
every = os.sched_getaffinity(0)

def burn(ns):
    until = time.thread_time_ns() + ns
    while time.thread_time_ns() < until:
        pass

for distance in (4, 7):
    place = EveryOtherCore(distance)
    for _ in range(KEPT_AT - 1):
        place.settle()
    assert os.sched_getaffinity(0) == every
    place.settle()
    mine = set(sorted(every)[distance % 2 :: 2])
    assert os.sched_getaffinity(0) == mine
    release = threading.Event()
    helper = threading.Thread(target=release.wait)
    helper.start()
    assert os.sched_getaffinity(helper.native_id) == mine
    for _ in range(KEPT_AT):
        burn(LIGHT_NS)
        place.settle()
    assert os.sched_getaffinity(0) == every == os.sched_getaffinity(helper.native_id)
    burn(50 * LIGHT_NS)
    place.settle()
    for _ in range(KEPT_AT):
        place.settle()
    assert os.sched_getaffinity(0) == every  # who computed for long was not light for long enough
    release.set()

place = EveryOtherCore(4)
for _ in range(KEPT_AT):
    burn(LIGHT_NS)
    place.leave_out()
    place.settle()
assert os.sched_getaffinity(0) == set(sorted(every)[::2])  # tidying up makes no message heavy
os.sched_setaffinity(0, every)

place = EveryOtherCore(None)
for _ in range(2 * KEPT_AT):
    place.settle()
assert os.sched_getaffinity(0) == every
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds processes to cores")
@pytest.mark.skipif(len(keep_to_cores([])) < 2, reason="one core cannot be shared out")
def test_a_thread_that_does_little_keeps_to_every_other_core_until_it_does_more() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True, timeout=60)
