"""Bring an exported ONNX file into the precision that an engine shall compute in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from torch import Tensor

from perception.engines.onnx_precision import narrowed
from perception.engines.onnx_quantization import quantized
from perception.engines.precision import Precision
from perception.errors import EngineError
from perception.networks.part import Part


def in_precision(path: Path, part: Part, precision: Precision, samples: Sequence[Sequence[Tensor]]) -> list[str]:
    """Rewrite the float32 file at `path`, and return the names of the nodes that keep float32 for their values' size.

    Args:
        path: of `export_onnx`.
        part: what it was exported from.
        precision: fp32 leaves the file alone; int8 quantises convolutions and matrix products (Q/DQ), the rest is fp32.
        samples: inputs of the part that show the ranges inside.

    Raises:
        EngineError: the graph cannot be brought into this precision.
    """
    if precision == "fp32":
        return []
    named = [dict(zip(part.inputs, (tensor.numpy() for tensor in sample), strict=True)) for sample in samples]
    if precision == "int8":
        quantized(path, named)
        return []
    model, wide = narrowed(onnx.load(path), named, precision)
    for file in path.parent.glob(f"{path.name}.data*"):
        file.unlink()
    try:
        onnx.save(model, path)
    except ValueError as error:  # beyond what one protobuf file holds
        raise EngineError(f"part '{part.name}': its {precision} graph is too large for one file ({error})") from error
    return wide
