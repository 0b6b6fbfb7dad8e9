"""Names of what engines compute in and run on."""

from __future__ import annotations

from typing import Literal, TypeAlias

Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]
Compatibility: TypeAlias = Literal["none", "same_compute_capability", "ampere_plus"]
"""GPUs that run a TensorRT engine: the one it was built on, all of its compute capability, or Ampere and later."""
