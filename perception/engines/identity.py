"""What an engine is made of: a hash of the weights, and one of the code and settings that make the graph."""

from __future__ import annotations

import hashlib
import inspect
import platform
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perception.engines.engine import described
from perception.networks.part import Part


def part_identity(
    part: Part, engine: str, precision: str, versions: Mapping[str, str], device: str | None = None
) -> dict[str, Any]:
    """Return everything that decides the bytes and the numbers of an engine, as JSON, to be hashed into its key.

    `device` is this machine's processor if None; a GPU by name, capability and driver (`gpu_name`).
    """
    return {
        "part": part.name,
        "network": type(part.module).__name__,
        "engine": engine,
        "precision": precision,
        "weights": weights_hash(part.module),
        "graph": graph_hash(part.module),
        "inputs": {name: described(spec) for name, spec in part.inputs.items()},
        "outputs": {name: described(spec) for name, spec in part.outputs.items()},
        "versions": {"torch": torch.__version__, "python": platform.python_version(), **versions},
        "device": device or cpu_name(),
        **({"samples": part.samples_hash} if part.samples_hash else {}),
    }


def weights_hash(module: nn.Module) -> str:
    """Hash names and values of all parameters and buffers, those that no checkpoint holds included."""
    digest = hashlib.sha256()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def graph_hash(module: nn.Module) -> str:
    """Hash what turns weights into a graph: the modules, their plain settings, and the source files of the networks.

    Exporting to hash the graph itself would cost every start seconds.
    """
    digest = hashlib.sha256(repr(module).encode())
    for name, inner in module.named_modules():
        for key, value in sorted(vars(inner).items()):
            if not key.startswith("_") or isinstance(value, Tensor):
                digest.update(f"{name}.{key}=".encode())
                digest.update(_bytes_of(value) if isinstance(value, Tensor) else repr(value).encode())
    sources = {inspect.getsourcefile(type(inner)) for inner in module.modules()}
    package = Path(__file__).parents[1]
    files = {Path(file) for file in sources if file is not None and "torch" not in Path(file).parts}
    files |= {*(package / "networks").rglob("*.py"), *(package / "ops").rglob("*.py")}
    for file in sorted(files):
        digest.update(_file_hash(file))
    return digest.hexdigest()


@cache
def cpu_name() -> str:
    """Return the processor's name, or what the platform says where the system does not tell."""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def gpu_name(index: int = 0) -> str:
    """Return name, compute capability and driver of a CUDA device: "NVIDIA H100 80GB HBM3 sm90 driver 580.65.06"."""
    major, minor = torch.cuda.get_device_capability(index)
    return f"{torch.cuda.get_device_name(index)} sm{major}{minor} driver {_driver()}"


def _driver() -> str:
    try:
        stated = Path("/proc/driver/nvidia/version").read_text(errors="replace")
    except OSError:  # a Jetson's driver belongs to its kernel
        return platform.release()
    numbers = [word for word in stated.splitlines()[0].split() if word.count(".") >= 1 and word[0].isdigit()]
    return numbers[0] if numbers else stated.splitlines()[0]


@cache
def _file_hash(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()


def _bytes_of(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
