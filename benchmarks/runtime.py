"""`perception bench runtime`: three hops between processes, ours beside dora-rs, zenoh, pyzmq and Ray object refs."""

from __future__ import annotations

import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from perception.benchmarks.links import dora_dataflow
from perception.benchmarks.payload import Plan

SIZES = {64: "64 B", 16 << 10: "16 KiB", 1 << 20: "1 MiB", 6 << 20: "6 MiB"}
SYSTEMS = ("ours", "dora", "zenoh_shm", "zmq_ipc", "ray_refs")
NEEDS = {"dora": "dora", "zenoh_shm": "zenoh"}
TIMEOUT_S = 180
Say = Callable[[str], None]


@dataclass
class Measured:
    """One system over all rounds: by size the p50 and p99 of each round, and what was lost or torn."""

    p50_ms: dict[int, list[float]] = field(default_factory=dict)
    p99_ms: dict[int, list[float]] = field(default_factory=dict)
    lost: int = 0
    torn: int = 0
    failed: str = ""


def measure(rounds: int, seconds: float, systems: Sequence[str] = SYSTEMS, say: Say = print) -> dict[str, Measured]:
    """Run every system in turn, `rounds` times, the order rotated."""
    results = {system: Measured() for system in systems}
    for system in systems:
        package = NEEDS.get(system)
        if package is not None and importlib.util.find_spec(package) is None:
            results[system].failed = "not measured: pip install .[bench]"
    for number in range(rounds):
        order = [*systems[number % len(systems) :], *systems[: number % len(systems)]]
        for system in order:
            if results[system].failed:
                continue
            plan = Plan(sizes=tuple(SIZES), seconds=seconds)
            try:
                _take(results[system], one_run(system, plan), plan)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                results[system].failed = f"not measured: {error}"
            say(f"round {number + 1} of {rounds}: {system} {results[system].failed or 'done'}")
    return results


def _take(result: Measured, rows: NDArray[np.int64], plan: Plan) -> None:
    first = 0
    for size in plan.sizes:
        counted = range(first + plan.warm_up, first + plan.warm_up + plan.counted)
        found = rows[(rows[:, 1] >= counted.start) & (rows[:, 1] < counted.stop)]
        ages = found[:, 2] / 1e6
        result.p50_ms.setdefault(size, []).append(float(np.percentile(ages, 50)))
        result.p99_ms.setdefault(size, []).append(float(np.percentile(ages, 99)))
        result.lost += plan.counted - len(found)
        result.torn += int((found[:, 3] == 0).sum())
        first = counted.stop


def one_run(system: str, plan: Plan) -> NDArray[np.int64]:
    """Start a system, let it carry the plan's messages and return what its sink saw.

    Raises:
        RuntimeError: it gave no result.
    """
    with tempfile.TemporaryDirectory(prefix="pcnb") as name:
        folder = Path(name)
        plan.write(folder)
        _run(system, folder)
        rows = folder / "rows.npy"
        if not rows.is_file():
            raise RuntimeError(f"{system} gave no result")
        loaded: NDArray[np.int64] = np.load(rows)
        return loaded


def _run(system: str, folder: Path) -> None:
    python = [sys.executable, "-m"]
    if system == "ours":
        _wait([_start([*python, "perception.benchmarks.own_graph", str(folder)])])
    elif system == "ray_refs":
        _wait([_start([*python, "perception.benchmarks.ray_calls", str(folder)])])
    elif system == "dora":
        flow = folder / "flow.yml"
        flow.write_text(dora_dataflow(folder))
        command = str(Path(sys.executable).parent / "dora")
        _wait([_start([command, "run", str(flow)], DORA_NODE_SHM_POOL_SIZE=str(128 << 20))])
    else:
        stages = [
            _start([*python, "perception.benchmarks.links", system, str(role), str(folder)]) for role in (3, 2, 1, 0)
        ]
        _wait(stages)


def _start(command: list[str], **environment: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    given = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=given)


def _wait(processes: list[subprocess.Popen[bytes]]) -> None:
    try:
        for process in processes:
            _, err = process.communicate(timeout=TIMEOUT_S)
            if process.returncode:
                last = err.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
                raise RuntimeError(last[0])
    finally:
        for process in processes:
            process.kill()


def table(results: dict[str, Measured]) -> list[str]:
    """Return lines: medians over rounds, and ours over each peer."""
    lines = [f"{'':<10}" + "".join(f"{name:>18}" for name in SIZES.values()) + "   lost  torn"]
    for system, result in results.items():
        if result.failed:
            lines.append(f"{system:<10} {result.failed}")
            continue
        cells = [
            f"{statistics.median(result.p50_ms[size]):8.2f} /{statistics.median(result.p99_ms[size]):7.2f}"
            for size in SIZES
        ]
        lines.append(f"{system:<10}" + "".join(f"{cell:>18}" for cell in cells) + f"{result.lost:7}{result.torn:6}")
    lines.append("p50 / p99 in ms, medians of rounds. Ours over theirs (below 1 is faster):")
    ours = results.get("ours")
    for system, result in results.items():
        if system == "ours" or result.failed or ours is None or ours.failed:
            continue
        cells = [
            f"{ratio(ours.p50_ms, result.p50_ms, size):8.2f} /{ratio(ours.p99_ms, result.p99_ms, size):7.2f}"
            for size in SIZES
        ]
        lines.append(f"{system:<10}" + "".join(f"{cell:>18}" for cell in cells))
    return lines


def ratio(ours: dict[int, list[float]], theirs: dict[int, list[float]], size: int) -> float:
    """Return the ratio of medians."""
    return statistics.median(ours[size]) / statistics.median(theirs[size])


def slow_stage(seconds: float = 6.0) -> dict[str, float]:
    """Feed 1 MiB at 100 Hz to a stage that needs 20 ms, keep: latest; return the age at the sink in ms."""
    plan = Plan(sizes=(1 << 20,), seconds=seconds, slow_ms=20.0)
    rows = one_run("ours", plan)
    ages = rows[rows[:, 1] >= plan.warm_up, 2] / 1e6
    return {"p50_ms": float(np.percentile(ages, 50)), "p99_ms": float(np.percentile(ages, 99)), "messages": len(ages)}


def idle_cores(processes: int, seconds: float = 15.0) -> dict[str, float]:
    """Return the cores that an idle graph of ten nodes takes, launcher and Ray included, and its start-up time."""
    with _idle_graph(processes) as (launcher, started_s):
        time.sleep(3.0)
        family = [launcher, *launcher.children(recursive=True)]
        before = {process.pid: _cpu_s(process) for process in family}
        time.sleep(seconds)
        used = sum(_cpu_s(process) - before[process.pid] for process in family)
    return {"cores": used / seconds, "start_s": started_s, "processes": len(family)}


@contextmanager
def _idle_graph(processes: int) -> Iterator[tuple[psutil.Process, float]]:
    with tempfile.TemporaryDirectory(prefix="pcnb") as name:
        Plan(sizes=(64,)).write(Path(name))
        began_s = time.monotonic()
        command = [sys.executable, "-m", "perception.benchmarks.own_graph", name, str(processes)]
        launcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            while not (Path(name) / "running").exists():
                if launcher.poll() is not None or time.monotonic() - began_s > TIMEOUT_S:
                    raise RuntimeError("the idle graph did not start")
                time.sleep(0.05)
            yield psutil.Process(launcher.pid), time.monotonic() - began_s
        finally:
            launcher.communicate(timeout=30)


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def memory_growth(messages: int = 10_000, size: int = 16 << 10) -> dict[str, float]:
    """Send so many messages through every topic; return resident and shared memory after a tenth and at the end, MB."""
    with tempfile.TemporaryDirectory(prefix="pcnb") as name:
        folder = Path(name)
        plan = Plan(sizes=(size,), rate_hz=500.0, seconds=messages / 500.0)
        plan.write(folder)
        launcher = _start([sys.executable, "-m", "perception.benchmarks.own_graph", name])
        samples: list[tuple[float, float, float]] = []
        began_s = time.monotonic()
        while launcher.poll() is None:
            samples.append((time.monotonic() - began_s, _worker_memory_mb(launcher.pid), _shared_mb()))
            time.sleep(0.5)
        rows = np.load(folder / "rows.npy")
    end_s = samples[-1][0] - 4.0
    run_s = messages / 500.0
    middle = [sample for sample in samples if end_s - run_s * 0.8 < sample[0] < end_s]
    first, last = middle[0], middle[-1]
    return {
        "messages": float(len(rows)), "rss_before_mb": first[1], "rss_after_mb": last[1],
        "shared_before_mb": first[2], "shared_after_mb": last[2],
    }  # fmt: skip


def _worker_memory_mb(pid: int) -> float:
    total = 0.0
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if "ray::" in " ".join(process.cmdline()):
                total += process.memory_info().rss / 1e6
        except psutil.Error:
            continue
    return total


def _shared_mb() -> float:
    found = [path.stat().st_size for path in Path("/dev/shm").glob("pcn_*") if path.is_file()]
    return sum(found) / 1e6


def machine() -> dict[str, Any]:
    """Say on what this was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]}


__all__ = ["Measured", "idle_cores", "machine", "measure", "memory_growth", "slow_stage", "table"]
