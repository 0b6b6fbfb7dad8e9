"""Write a part as ONNX: standard operators, named inputs and outputs, dynamic axes where the part has them."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from perception.engines.engine import resized_example
from perception.engines.tensorrt_operators import operator_table, rewritten, unsupported
from perception.errors import EngineError
from perception.networks.part import Axis, Part

OPSET = 20
EXTERNAL_ABOVE_BYTES = 1 << 30
"""Weights above 1 GiB go into a file beside the graph (a protobuf file ends at 2 GiB)."""


def export_onnx(part: Part, path: Path) -> None:
    """Write `part` to `path` with torch's dynamo exporter (the older one writes wrong values for scatters, in silence).

    What TensorRT's parser lacks is said with other operators, or is an `EngineWarning`: such a part is no engine there.

    Raises:
        EngineError: the exporter refuses the module.
    """
    example = _export_example(part)
    buffers = [*part.module.parameters(), *part.module.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in buffers)
    try:
        with _quiet():
            program = torch.onnx.export(
                part.module,
                example,
                dynamo=True,
                dynamic_shapes=_dynamic_shapes(part),
                input_names=list(part.inputs),
                output_names=list(part.outputs),
                opset_version=OPSET,
                verbose=False,
            )
            assert program is not None, "the dynamo exporter returns its program"
            program.save(path, external_data=size > EXTERNAL_ABOVE_BYTES)
    except Exception as error:  # torch raises its own errors, RuntimeError, ValueError and others
        reason = str(error).strip().splitlines()[:1]
        raise EngineError(f"part '{part.name}' cannot be exported to ONNX: {''.join(reason)}") from error
    model = onnx.load(path, load_external_data=False)
    if rewritten(model):
        onnx.save(model, path)
    if lacking := unsupported(model):
        warnings.warn(
            f"part '{part.name}': the ONNX parser of TensorRT {operator_table().version} does not read "
            f"{'; '.join(lacking)}: no TensorRT engine can be built of it",
            EngineWarning,
            stacklevel=2,
        )


class EngineWarning(UserWarning):
    """An exported graph that some engines cannot hold."""


def _export_example(part: Part) -> tuple[Tensor, ...]:
    """Return the part's example with every free axis of size 1 doubled: the exporter takes a size of 1 as fixed."""
    doubled = {
        axis.name: 2
        for tensor, spec in zip(part.example(), part.inputs.values(), strict=True)
        for dim, axis in enumerate(spec.shape)
        if isinstance(axis, Axis) and tensor.shape[dim] == 1
    }
    return resized_example(part, doubled)


def _dynamic_shapes(part: Part) -> Any:
    dims: dict[str, Any] = {}
    shapes: list[dict[int, Any]] = []
    for spec in part.inputs.values():
        axes = {dim: axis for dim, axis in enumerate(spec.shape) if isinstance(axis, Axis)}
        for axis in axes.values():
            dims.setdefault(axis.name, torch.export.Dim(axis.name, min=axis.minimum, max=axis.maximum))
        shapes.append({dim: dims[axis.name] for dim, axis in axes.items()})
    return tuple(shapes) if dims else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its notes about packages that are not installed off the screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
