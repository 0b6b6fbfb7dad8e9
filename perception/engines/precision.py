"""Names of engines, and of what they compute in and run on; importing them costs nothing."""

from __future__ import annotations

from typing import Literal, TypeAlias

EngineName: TypeAlias = Literal[
    "auto", "torch", "torch-cuda", "onnxruntime", "onnxruntime-cuda", "openvino", "tensorrt"
]
Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]
Compatibility: TypeAlias = Literal["none", "same_compute_capability", "ampere_plus"]
"""GPUs that run a TensorRT engine: the one it was built on, all of its compute capability, or Ampere and later."""
