"""DeepInteraction++ alone in a process of its own: the peak of its memory, and whether a limit is enough.

`perception bench networks --only deepinteraction_nuscenes --within-gib 8`. The process may not have more private memory
than that (RLIMIT_DATA of Linux, which counts what is mapped to be written, used or not). It loads filled weights and
runs frames of the fusion benchmark. The peak is what was resident at most: Python, torch, weights and all.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from perception.errors import EngineError

GIB = 1 << 30


@dataclass(frozen=True)
class AloneRow:
    """One network in one process."""

    network: str
    what: str
    threads: int
    precision: str
    limit_gib: float
    peak_gib: float
    """Resident, of the whole process."""
    frame_ms: float
    """The second frame."""

    def line(self) -> str:
        return (
            f"{self.network:<26} {self.what}  {self.threads} threads  torch {self.precision}, alone: peak "
            f"{self.peak_gib:.2f} GiB, {self.limit_gib:g} allowed; {self.frame_ms:.1f} ms a frame"
        )


def alone(card: str, points: int, threads: int, precision: str, limit_gib: float) -> AloneRow:
    """Run frames of a network in a process of its own.

    Raises:
        EngineError: it does not run within the limit.
    """
    given = (card, str(points), str(threads), precision, str(limit_gib))
    done = subprocess.run([sys.executable, "-m", __name__, *given], capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip() or f"signal {-done.returncode}").splitlines()[-1]
        raise EngineError(f"{card} alone does not run within {limit_gib:g} GiB: {why}")
    return AloneRow(**json.loads(done.stdout.splitlines()[-1]))


def _run(card: str, points: int, threads: int, precision: str, limit_gib: float) -> AloneRow:
    limit = int(limit_gib * GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    import torch

    from perception.benchmarks.fusion import VIEWS, made_up_frame
    from perception.engines.fusion_engines import bfloat16_engines, mixed_runner
    from perception.networks.card import find_card
    from perception.networks.deepinteraction import DeepInteraction
    from perception.networks.load import load_network
    from perception.networks.part import run_in_torch
    from perception.runtime.allocator import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(threads)
    network = load_network(f"filled:{find_card(card).name}", DeepInteraction).network
    parts, frame = network.parts(1, VIEWS), made_up_frame(network.config, points)
    run = run_in_torch(parts)
    if precision == "bf16":
        run = mixed_runner(bfloat16_engines(parts), run)
    with torch.inference_mode():
        for _ in range(2):
            start_s = time.perf_counter()
            network.detect(frame.images, [frame.cloud], frame.projection, frame.poses, run, VIEWS)
            frame_ms = (time.perf_counter() - start_s) * 1e3
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    what = f"{VIEWS} x {' x '.join(str(side) for side in network.config.image_size)}, {points} points"
    return AloneRow(card, what, threads, precision, limit_gib, peak_gib, frame_ms)


__all__ = ["AloneRow", "alone"]

if __name__ == "__main__":
    name, count, cores, numbers, most = sys.argv[1:]
    print(json.dumps(asdict(_run(name, int(count), int(cores), numbers, float(most)))))
