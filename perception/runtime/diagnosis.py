"""What a machine must have for a graph to run on it: the findings behind `perception doctor`."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

Verdict = Literal["ok", "note", "fail"]

SHARED_MEMORY = Path("/dev/shm")
MIN_SHARED_MEMORY_BYTES = 256 << 20
MIN_MEMORY_BYTES = 2 << 30
PACKAGES = (
    "torch", "numpy", "ray", "iceoryx2", "pyzmq", "msgspec", "onnxruntime", "mcap", "numba",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` is empty where nothing is to be done."""

    subject: str
    verdict: Verdict
    text: str
    remedy: str = ""


def diagnose() -> list[Finding]:
    """Look at this machine; starts nothing and changes nothing."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python, _memory, _shared_memory, _temporary_folder, _loopback, _packages, _sparse_convolution, _accelerators,
        _ray_ports,
    )  # fmt: skip
    return [finding for check in checks for finding in check()]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] < (3, 13)
    text = f"{version} on {platform.machine()}, {os.cpu_count()} cores"
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
    free = shutil.disk_usage(SHARED_MEMORY).free
    good = free >= MIN_SHARED_MEMORY_BYTES
    remedy = "" if good else "enlarge it (a container: --shm-size=1g)"
    yield Finding("shared memory", "ok" if good else "fail", f"{_size(free)} free in {SHARED_MEMORY}", remedy)


def _temporary_folder() -> Iterator[Finding]:
    folder = Path(tempfile.gettempdir())
    good = os.access(folder, os.W_OK)
    yield Finding(
        "temporary folder", "ok" if good else "fail", f"{folder}{'' if good else ' cannot be written'}",
        "" if good else "set TMPDIR to a folder that you can write",
    )  # fmt: skip


def _loopback() -> Iterator[Finding]:
    try:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        yield Finding("loopback", "ok", f"a port on 127.0.0.1 can be opened (got {port})")
    except OSError as error:
        yield Finding("loopback", "fail", f"no port on 127.0.0.1: {error.strerror}", "bring the interface 'lo' up")


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
    if ctypes.util.find_library("cuda") is None and not Path("/dev/nvidia0").exists():
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


def _ray_ports() -> Iterator[Finding]:
    """Ray's processes must answer on loopback only: who reaches their ports can run code."""
    exposed = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] not in ("gcs_server", "raylet", "ray::IDLE"):
            continue
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue
        exposed += [
            f"{process.info['name']} on {connection.laddr.ip}:{connection.laddr.port}"
            for connection in connections
            if connection.status == psutil.CONN_LISTEN and not connection.laddr.ip.startswith(("127.", "::1"))
        ]
    if exposed:
        yield Finding(
            "ray", "fail", f"Ray answers beyond this machine: {', '.join(sorted(exposed)[:5])}",
            "stop it (ray stop); a graph starts its own Ray, on loopback or on network: rig_interface",
        )  # fmt: skip
    else:
        yield Finding("ray", "ok", "no port of Ray answers beyond this machine")


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"


__all__ = ["Finding", "diagnose"]
