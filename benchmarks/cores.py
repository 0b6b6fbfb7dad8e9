"""Do threads and cores per node matter? The whole graph of car.yaml with and without: python -m benchmarks.cores

Rates of the outputs at the end of a run, in turns; on two cores, each network in a process of its own: threads that
share both cores freely, and one core each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

OUTPUTS = ("objects", "lidar/detections", "cam_front/mask")
APART = ("nodes.segmenter.process=segmenter", "nodes.detector.process=detector")
WAYS = {
    "as shipped, one process, 1 thread": (),
    "own processes, 1 thread each": APART,
    "own processes, 2 threads each": (*APART, "nodes.segmenter.threads=2", "nodes.detector.threads=2"),
    "own processes, a core each": (*APART, "nodes.segmenter.cores=[0]", "nodes.detector.cores=[1]"),
}


def rates(sets: tuple[str, ...], seconds: float) -> dict[str, float]:
    """Run the graph and return messages per second of each output."""
    command = [sys.executable, "-m", "perception", "launch", "car.yaml", "--duration", str(seconds), "--json"]
    for item in sets:
        command += ["--set", item]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    summary: dict[str, Any] = json.loads(done.stdout)
    return {name: summary["outputs"].get(name, 0) / seconds for name in OUTPUTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way, sets in WAYS.items():
            found[way].append(rates(sets, arguments.seconds))
    print(f"{'':<36} " + " ".join(f"{name:>18}" for name in OUTPUTS))
    for way, each in found.items():
        medians = [statistics.median(rate[name] for rate in each) for name in OUTPUTS]
        print(f"{way:<36} " + " ".join(f"{median:>15.2f} Hz" for median in medians))


if __name__ == "__main__":
    main()
