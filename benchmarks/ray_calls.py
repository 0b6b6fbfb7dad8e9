"""Plain Ray actor calls that pass object refs: python -m perception.benchmarks.ray_calls FOLDER."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import ray

from perception.benchmarks.payload import Bytes, Collector, Plan, messages, relayed


class Relay:
    """Makes a fresh payload of each."""

    def __init__(self, slow_ms: float) -> None:
        self._slow_ms = slow_ms

    def relay(self, data: Bytes) -> Bytes:
        if self._slow_ms:
            time.sleep(self._slow_ms / 1000)
        return relayed(data) if len(data) > 16 else data


class Sink:
    """Collects."""

    def __init__(self, folder: str) -> None:
        self._collector = Collector(Path(folder))

    def take(self, data: Bytes) -> bool:
        return self._collector.take(data)


class Source:
    """Calls the relays for each payload, without waiting."""

    def run(self, folder: str, first: object, second: object, sink: object) -> None:
        last = None
        for data in messages(Plan.read(Path(folder))):
            last = sink.take.remote(second.relay.remote(first.relay.remote(ray.put(data))))  # type: ignore[attr-defined]
        ray.get(last)


def main() -> None:
    folder = sys.argv[1]
    plan = Plan.read(Path(folder))
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=1 << 30)
    remote: Any = ray.remote(num_cpus=0)
    relay, sink, source = (remote(stage) for stage in (Relay, Sink, Source))
    stages = relay.remote(0.0), relay.remote(plan.slow_ms), sink.remote(folder)
    ray.get(source.remote().run.remote(folder, *stages))
    ray.shutdown()


if __name__ == "__main__":
    main()
