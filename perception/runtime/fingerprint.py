"""What a run's numbers depend on besides its input: versions of libraries, and the processor's instructions.

Equal bytes of two lockstep runs are promised for equal fingerprints: another instruction set changes the last bits.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path

PACKAGES = ("perception-runtime", "torch", "numpy", "numba", "onnxruntime", "openvino", "scipy", "simplejpeg")
INSTRUCTIONS = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve")


def fingerprint() -> dict[str, object]:
    """Return versions by package, the machine and its instruction sets."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "instructions": instruction_sets(),
        "packages": versions,
    }


def fingerprint_file() -> bytes:
    """Return the fingerprint as the file that a recording holds."""
    return json.dumps(fingerprint(), indent=1, sort_keys=True).encode()


def instruction_sets() -> list[str]:
    """Return those of INSTRUCTIONS that the processor has; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    words = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [name for name in INSTRUCTIONS if name in words]


__all__ = ["fingerprint", "fingerprint_file", "instruction_sets"]
