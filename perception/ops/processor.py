"""Which instructions this processor has: they decide how something is computed, never what."""

from __future__ import annotations

from llvmlite import binding

_FEATURES = binding.get_host_cpu_features()
HAS_AVX512 = bool(_FEATURES.get("avx512f", False))
"""32 registers of 16 floats."""
MULTIPLIES_BFLOAT16 = any(_FEATURES.get(name, False) for name in ("avx512bf16", "amx-bf16", "bf16"))
"""On others every product in bfloat16 is one in float32, and what goes in and comes out is turned into the other."""

__all__ = ["HAS_AVX512", "MULTIPLIES_BFLOAT16"]
