"""What the synthetic world costs: the shipped rig as a whole, and each of its sensors.

python -m perception.benchmarks.simulation --seconds 20
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from pathlib import Path

import perception
from perception.geometry.rig import load_rig
from perception.simulation.drive import Drive
from perception.simulation.parallel import records

RIG = Path(perception.__file__).parent / "share" / "calibration" / "simulated_car"


def main(seconds: float, processes: int) -> None:
    """Print times real time for one and for several processes, and milliseconds of CPU per second of driving."""
    rig = load_rig(RIG)
    list(Drive(rig, 1, 0).messages(0.3))  # kernels are compiled or read, blocks of the street are made
    for count in (1, processes):
        start_s = time.perf_counter()
        size = sum(len(record) for _, record, _ in records(Drive(rig, 1, 0), seconds, count))
        took_s = time.perf_counter() - start_s
        print(
            f"{count} process(es): {seconds / took_s:.1f} times real time, {size / seconds / 1e6:.1f} MB/s of driving"
        )
    drive, cost = Drive(rig, 1, 0), Counter[str]()
    for at in drive.instants(seconds):
        start_s = time.thread_time()
        drive.measured(at)
        cost[drive.sensors[at.index].name] += time.thread_time() - start_s  # type: ignore[assignment]
    for name, spent_s in cost.most_common():
        print(f"  {name:<12} {spent_s / seconds * 1e3:7.1f} ms of CPU per second of driving")
    print(f"  {'all':<12} {sum(cost.values()) / seconds * 1e3:7.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    main(arguments.seconds, arguments.processes)
