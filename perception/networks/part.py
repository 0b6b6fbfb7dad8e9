"""The exportable parts of a network, and how they are run.

A network keeps what an engine cannot hold (voxelisation, partition and sort, index building, decode, NMS) in its own
methods, and everything else in parts: plain modules of tensors in and tensors out. Whoever runs the network passes a
`RunPart`; `run_in_torch` is the reference, an engine compiled from the same part is the product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor, nn


@dataclass(frozen=True)
class Axis:
    """A dimension that the data decides, with the sizes that an engine is built for."""

    name: str
    minimum: int
    typical: int
    maximum: int


@dataclass(frozen=True)
class TensorSpec:
    """Dtype (a torch name such as "float32") and shape of one named input or output."""

    dtype: str
    shape: tuple[int | Axis, ...]


@dataclass(frozen=True)
class Part:
    """One exportable piece of a network.

    `module` takes the inputs by position in the order of `inputs` and returns one tensor, or a tuple in the order of
    `outputs`. `example` holds one valid input each, for export and for the agreement test of an engine; `samples` gives
    inputs that a log brought, those that fit the part that it is given, and `samples_hash` tells them from others.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    example: Callable[[], tuple[Tensor, ...]] = field(repr=False)
    samples: Callable[[Part], Sequence[tuple[Tensor, ...]]] = field(default=lambda part: (), repr=False)
    samples_hash: str = ""


RunPart: TypeAlias = Callable[[str, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Runs the part of the given name; outputs belong to the runner and are valid until its next run of that part."""


def run_in_torch(parts: Mapping[str, Part]) -> RunPart:
    """Return the reference runner: each part's own module, eager, without gradients."""

    def run(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        part = parts[name]
        outputs = part.module(*(inputs[key] for key in part.inputs))
        values = (outputs,) if isinstance(outputs, Tensor) else outputs
        return dict(zip(part.outputs, values, strict=True))

    return run
