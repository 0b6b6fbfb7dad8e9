"""What a machine must have for a graph to run on it: the findings behind `perception doctor`."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import ipaddress
import os
import platform
import resource
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from perception.runtime.machine import MachineWatch, clock_is_synchronised, used_share

Verdict = Literal["ok", "note", "fail"]

SHARED_MEMORY = Path("/dev/shm")
MIN_SHARED_MEMORY_BYTES = 256 << 20
MIN_MEMORY_BYTES = 2 << 30
MIN_FILES = 1024
PACKAGES = (
    "torch", "numpy", "ray", "iceoryx2", "pyzmq", "msgspec", "msgpack", "pydantic", "onnxruntime", "mcap", "numba",
    "safetensors",
)  # fmt: skip
RAY_NAMES = ("gcs_server", "raylet", "ray::")
"""How the names of Ray's processes begin."""


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` is empty where nothing is to be done."""

    subject: str
    verdict: Verdict
    text: str
    remedy: str = ""


def diagnose() -> list[Finding]:
    """Look at this machine; starts nothing and changes nothing that lasts."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _system, _python, _memory, _shared_memory, _folders, _files, _loopback, _clock, _packages, _iceoryx2,
        _sparse_convolution, _accelerators, _priority, _machine, _runs, _ray_ports,
    )  # fmt: skip
    return [finding for check in checks for finding in check()]


def _system() -> Iterator[Finding]:
    system = platform.system()
    if system != "Linux":
        yield Finding("system", "fail", f"{system}: shared memory and processes are Linux's", "use Linux")


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] < (3, 13)
    text = f"{version} on {platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    yield Finding("python", "ok" if good else "fail", text, "" if good else "use Python 3.11 or 3.12")


def _memory() -> Iterator[Finding]:
    free = psutil.virtual_memory().available
    good = free >= MIN_MEMORY_BYTES
    remedy = (
        "" if good else f"stop other programs: {_size(MIN_MEMORY_BYTES)} should be free for the smallest shipped graph"
    )
    yield Finding("memory", "ok" if good else "fail", f"{_size(free)} free", remedy)


def _shared_memory() -> Iterator[Finding]:
    if not SHARED_MEMORY.is_dir() or not os.access(SHARED_MEMORY, os.W_OK):
        yield Finding(
            "shared memory", "fail", f"{SHARED_MEMORY} cannot be written", "mount a tmpfs there, writable for you"
        )
        return
    found = os.statvfs(SHARED_MEMORY)
    free = found.f_bavail * found.f_frsize
    good = free >= MIN_SHARED_MEMORY_BYTES
    remedy = "" if good else "enlarge it (a container: --shm-size=1g)"
    yield Finding("shared memory", "ok" if good else "fail", f"{_size(free)} free in {SHARED_MEMORY}", remedy)


def _folders() -> Iterator[Finding]:
    """The runtime's sockets lie in /tmp, whatever TMPDIR says: the names of sockets must stay short."""
    for subject, folder, remedy in (
        ("sockets", Path("/tmp"), "make it writable for you"),
        ("temporary folder", Path(tempfile.gettempdir()), "set TMPDIR to a folder that you can write"),
    ):
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            yield Finding(subject, "fail", f"{folder} cannot be written: {error.strerror}", remedy)
            continue
        share = used_share(folder)
        full = share is not None and share > 0.95
        yield Finding(
            subject, "note" if full else "ok", f"{folder}{f', {share:.0%} full' if full else ''}",
            "make room: recordings stop on a disk that is 95 % full" if full else "",
        )  # fmt: skip


def _files() -> Iterator[Finding]:
    """Each topic takes some seven file descriptors in each process that reads or writes it."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    good = limit >= MIN_FILES
    yield Finding(
        "open files", "ok" if good else "fail", f"{limit} a process",
        "" if good else f"ulimit -n {min(most, 4 * MIN_FILES)}",
    )  # fmt: skip


def _loopback() -> Iterator[Finding]:
    try:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        yield Finding("loopback", "ok", f"a port on 127.0.0.1 can be opened (got {port})")
    except OSError as error:
        yield Finding("loopback", "fail", f"no port on 127.0.0.1: {error.strerror}", "bring the interface 'lo' up")


def _clock() -> Iterator[Finding]:
    if clock_is_synchronised() is False:
        yield Finding(
            "clock", "note", "not synchronised: fine for one host, not for several or for PTP sensors",
            "run chrony, ntpd or ptp4l",
        )  # fmt: skip
    else:
        yield Finding("clock", "ok", "synchronised")


def _packages() -> Iterator[Finding]:
    versions, missing = [], []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding("packages", "fail", f"not installed: {', '.join(missing)}", "pip install -c constraints.txt .")
    yield Finding("packages", "ok", ", ".join(versions))


def _iceoryx2() -> Iterator[Finding]:
    """Send a record through shared memory, as a graph does."""
    if importlib.util.find_spec("iceoryx2") is None:
        return
    import numpy as np

    from perception.errors import PerceptionError
    from perception.messages import Header, PointCloud
    from perception.messages.codec import encode
    from perception.runtime.shared_memory import SharedMemoryHost, TopicLimits, remove_leftovers

    run = f"{os.getpid():08x}"
    try:
        memory = SharedMemoryHost(run, "doctor", {"doctor": TopicLimits(1, 2, 2)}, 1)
        writer, reader = memory.writer("doctor"), memory.reader("doctor", 2, 2)
        writer.write(
            encode(PointCloud(header=Header(frame_id="", t_sensor_ns=0), xyz_m=np.zeros((1000, 3), np.float32)))
        )
        arrived = reader.take() is not None
        yield Finding(
            "channels", "ok" if arrived else "fail", "a record went through" if arrived else "a record did not arrive"
        )
    except PerceptionError as error:
        yield Finding("channels", "fail", str(error), "see 'shared memory' and 'sockets'")
    finally:
        remove_leftovers(run)


def _sparse_convolution() -> Iterator[Finding]:
    found = sorted(
        name
        for distribution in importlib.metadata.distributions()
        if (name := distribution.metadata["Name"] or "").lower().startswith("spconv")
    )
    if len(found) > 1:
        yield Finding(
            "spconv",
            "fail",
            f"{' and '.join(found)} own the same module",
            f"pip uninstall {' '.join(found)}, then one of them",
        )
    elif found:
        yield Finding("spconv", "ok", f"{found[0]} (our own sparse convolution stays the default)")


def _accelerators() -> Iterator[Finding]:
    if not (_loads("libcuda.so.1") or Path("/dev/nvidia0").exists()):
        yield Finding("accelerator", "note", "no NVIDIA driver: networks run on ONNX Runtime, on the CPU")
        return
    try:
        version = importlib.metadata.version("tensorrt-cu12")
        yield Finding("accelerator", "ok", f"NVIDIA driver found, TensorRT {version}")
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "accelerator", "note", "NVIDIA driver found, but no TensorRT: networks run on torch or ONNX Runtime",
            "pip install 'perception-runtime[tensorrt]' --extra-index-url https://pypi.nvidia.com",
        )  # fmt: skip


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _priority() -> Iterator[Finding]:
    """Workers run at nice 0; one of a running graph that does not is slower than everything else."""
    lazy = sorted({process.info["name"] for process in _ray_processes() if _nice(process) > 0})
    if lazy:
        yield Finding(
            "priority", "fail", f"at a lower priority than other programs: {', '.join(lazy)}",
            "start the graph at nice 0, and Ray by the graph itself",
        )  # fmt: skip


def _machine() -> Iterator[Finding]:
    faults = MachineWatch().faults()
    for fault in faults:
        yield Finding("machine", "fail", fault, "cool it, or free what is full, before a drive")


def _runs() -> Iterator[Finding]:
    """What graphs left behind whose launcher is gone; the next launch of any name cleans it up."""
    from perception.runtime.run_lock import dead_runs

    dead = dead_runs()
    if dead:
        yield Finding(
            "runs", "note", f"left behind by a launch that was killed: {', '.join(dead)}", "the next launch cleans up"
        )


def _ray_ports() -> Iterator[Finding]:
    """Ray's processes must answer on loopback only: who reaches their ports can run code."""
    seen = exposed = 0
    where: list[str] = []
    unseen = False
    for process in _ray_processes():
        seen += 1
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            unseen = True
            continue
        open_to_others = [
            f"{process.info['name']} on {connection.laddr.ip}:{connection.laddr.port}"
            for connection in connections
            if connection.status == psutil.CONN_LISTEN and not is_loopback(connection.laddr.ip)
        ]
        exposed += len(open_to_others)
        where += open_to_others
    if exposed:
        yield Finding(
            "ray", "fail", f"Ray answers beyond this machine: {', '.join(sorted(where)[:5])}",
            "stop it (ray stop); a graph starts its own Ray, on loopback, several hosts or one",
        )  # fmt: skip
    elif unseen:
        yield Finding("ray", "note", "processes of Ray run whose ports cannot be seen", "run doctor as their user")
    else:
        yield Finding("ray", "ok", f"no port of Ray answers beyond this machine ({seen} processes of Ray)")


def _ray_processes() -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["name"]):
        if (process.info["name"] or "").startswith(RAY_NAMES):
            yield process


def _nice(process: psutil.Process) -> int:
    try:
        return int(process.nice())
    except psutil.Error:
        return 0


def is_loopback(address: str) -> bool:
    """True for 127.0.0.0/8 and ::1, also where IPv4 is written as IPv6."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"


__all__ = ["Finding", "diagnose", "is_loopback"]
