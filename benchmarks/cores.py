"""Do threads and cores per node matter? The whole graph of car.yaml with and without: python -m benchmarks.cores

Rates of the outputs at the end of a run, in turns, on two cores: the slowest network with one thread or two, and with a
core of its own beside all others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

OUTPUTS = ("objects", "lidar/detections", "cam_front/mask")
OTHERS = ("segmenter", "sides", "detector", "second", "recognizer", "pose", "fuser", "tracker", "ground", "accuracy")
WAYS = {
    "as shipped, 1 thread each": (),
    "surround with 2 threads": ("nodes.surround.threads=2",),
    "surround on core 0, the others on 1": ("nodes.surround.cores=[0]", *(f"nodes.{n}.cores=[1]" for n in OTHERS)),
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
