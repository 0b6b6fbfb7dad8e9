"""Do threads and cores per node matter? The whole graph of car.yaml: python -m perception.benchmarks.cores

Build the engines first: perception engine build car.yaml.
Rates of outputs, and how long a call of the slowest nodes takes, over runs in turns on a machine of two cores: one
thread for each engine, or two, and processes on any core, or the slowest network on a core of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception.runtime.launch_file.files import find_launch_file
from perception.runtime.launch_file.load import load_launch

if TYPE_CHECKING:
    from perception.runtime.graph import Graph

OUTPUTS = ("lidar/detections", "surround/detections", "objects", "cam_front/mask", "skeleton")
NODES = ("detector", "second")


def ways(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Return the settings to compare, by what they are."""
    engines = [spec.name for spec in graph.nodes if "engine" in type(spec.config).model_fields]

    def cores(**of_process: int) -> tuple[str, ...]:
        return tuple(
            f"nodes.{spec.name}.cores=[{of_process[process]}]"
            for process, specs in graph.processes().items()
            for spec in specs
        )

    return {
        "1 thread each, any core (as shipped)": (),
        "2 threads each, any core": tuple(f"nodes.{name}.threads=2" for name in engines),
        "1 thread each, surround alone on core 0": cores(surround=0, networks=1, sensors=1),
        "1 thread each, networks alone on core 0": cores(surround=1, networks=0, sensors=1),
    }


def run(file: Path, sets: Sequence[str], seconds: float) -> dict[str, float]:
    """Run the graph; returns messages per second of each output, and the median call of each node in ms.

    Raises:
        RuntimeError: the run failed.
    """
    command = [sys.executable, "-m", "perception", "launch", str(file), "--duration", str(seconds), "--json"]
    for item in sets:
        command += ["--set", item]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    summary: dict[str, Any] = json.loads(done.stdout)
    rates = {name: summary["outputs"].get(name, 0) / seconds for name in OUTPUTS}
    return rates | {name: summary["nodes"][name]["latency_p50_ms"] for name in NODES}


def main() -> None:
    """Print a line for each way: medians over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of ways, from 0; by default all")
    arguments = parser.parse_args()
    file = find_launch_file(Path("car.yaml"))
    chosen = list(ways(load_launch(file)).items())
    if arguments.only:
        chosen = [chosen[number] for number in arguments.only]
    print(f"{os.cpu_count()} cores, runs of {arguments.seconds:g} s: messages a second, ms a call")
    print(f"{'':<42} " + " ".join(f"{name:>19}" for name in (*OUTPUTS, *NODES)), flush=True)
    found: dict[str, list[dict[str, float]]] = {way: [] for way, _ in chosen}
    for _ in range(arguments.rounds):
        for way, sets in chosen:
            found[way].append(run(file, sets, arguments.seconds))
            print(line(way, found[way][-1]), flush=True)
    if arguments.rounds > 1:
        print("medians")
        for way, rounds in found.items():
            print(line(way, {name: statistics.median(each[name] for each in rounds) for name in (*OUTPUTS, *NODES)}))


def line(way: str, figures: Mapping[str, float]) -> str:
    """Return a row of the table."""
    rates = " ".join(f"{figures[name]:>16.2f} Hz" for name in OUTPUTS)
    return f"{way:<42} {rates} " + " ".join(f"{figures[name]:>16.0f} ms" for name in NODES)


if __name__ == "__main__":
    main()
