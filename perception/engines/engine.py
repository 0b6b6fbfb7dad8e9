"""What every engine is: one exportable part of a network, compiled for a machine.

An engine takes arrays by name and returns arrays by name. Inputs are only read. Outputs belong to the engine and are
valid until its next `run`: whoever needs them longer takes `kept(outputs)`. A shape outside the profile (the limits
that the part's axes state) is a `ShapeError`, one counted drop in a graph, and never a rebuild.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.engines.tensor_array import OnHost, TensorArray, device_tensor, host_tensor
from perception.errors import EngineError, ShapeError
from perception.messages.array import Array, DeviceArray, host
from perception.networks.part import Axis, Part, RunPart, TensorSpec


class Engine(Protocol):
    """One part that runs."""

    @property
    def name(self) -> str:
        """What goes into message headers: library, version, device and precision."""

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What `run` takes."""

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """What `run` returns."""

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once.

        Raises:
            ShapeError: an input is missing, unknown, of another dtype, or of a shape outside the profile.
            EngineError: the machine failed.
        """


def check_inputs(specs: Mapping[str, TensorSpec], inputs: Mapping[str, Array]) -> None:
    """Compare arrays with what an engine takes.

    Raises:
        ShapeError: as `Engine.run`; also where two inputs disagree about an axis that they share.
    """
    if inputs.keys() != specs.keys():
        raise ShapeError(f"inputs {', '.join(sorted(inputs))}; expected {', '.join(sorted(specs))}")
    sizes: dict[str, tuple[int, str]] = {}
    for name, spec in specs.items():
        shape, dtype = tuple(inputs[name].shape), str(inputs[name].dtype)
        fits = dtype == spec.dtype and len(shape) == len(spec.shape)
        if not fits or not all(_fits(size, axis) for size, axis in zip(shape, spec.shape, strict=True)):
            raise ShapeError(f"input '{name}' {dtype} {shape}; this engine takes {described(spec)}")
        for size, axis in zip(shape, spec.shape, strict=True):
            if isinstance(axis, Axis) and sizes.setdefault(axis.name, (size, name))[0] != size:
                known, other = sizes[axis.name]
                raise ShapeError(f"input '{name}' has {size} {axis.name}, input '{other}' has {known}")


def described(spec: TensorSpec) -> str:
    """Return a spec for people: "float32 (batch 1..8, 3, height 64..1088)"."""
    sides = [
        f"{side.name} {side.minimum}..{side.maximum}" if isinstance(side, Axis) else str(side) for side in spec.shape
    ]
    return f"{spec.dtype} ({', '.join(sides)})"


def kept(outputs: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
    """Copy an engine's outputs to the host, to hold them beyond its next run."""
    return {name: np.array(host(array)) for name, array in outputs.items()}


def pinned(part: Part, sizes: Mapping[str, int]) -> Part:
    """Return the part with some axes fixed, which an engine can use to run faster.

    The example is cut or repeated along those axes, which suits inputs whose values do not point into them.

    Raises:
        EngineError: the part has no such axis, or the size is outside its limits.
    """
    axes = {axis.name: axis for spec in part.inputs.values() for axis in spec.shape if isinstance(axis, Axis)}
    for name, size in sizes.items():
        if name not in axes or not axes[name].minimum <= size <= axes[name].maximum:
            known = ", ".join(f"{axis.name} {axis.minimum}..{axis.maximum}" for axis in axes.values()) or "none"
            raise EngineError(f"part '{part.name}' cannot be built for {name} {size}; its axes: {known}")

    def fixed(spec: TensorSpec) -> TensorSpec:
        sides = (sizes.get(axis.name, axis) if isinstance(axis, Axis) else axis for axis in spec.shape)
        return TensorSpec(spec.dtype, tuple(sides))

    return replace(
        part,
        inputs={name: fixed(spec) for name, spec in part.inputs.items()},
        outputs={name: fixed(spec) for name, spec in part.outputs.items()},
        example=lambda: resized_example(part, sizes),
    )


def limited(part: Part, limits: Mapping[str, Axis]) -> Part:
    """Return the part with other limits of some of its free axes, by name."""

    def changed(spec: TensorSpec) -> TensorSpec:
        sides = (limits.get(axis.name, axis) if isinstance(axis, Axis) else axis for axis in spec.shape)
        return TensorSpec(spec.dtype, tuple(sides))

    if not limits:
        return part
    return replace(
        part,
        inputs={name: changed(spec) for name, spec in part.inputs.items()},
        outputs={name: changed(spec) for name, spec in part.outputs.items()},
    )


def axis_names(part: Part) -> set[str]:
    """Return the names of the free axes of a part's inputs."""
    return {axis.name for spec in part.inputs.values() for axis in spec.shape if isinstance(axis, Axis)}


def resized_example(part: Part, sizes: Mapping[str, int]) -> tuple[Tensor, ...]:
    """Return the part's example, cut or repeated to the given sizes of its axes."""
    tensors = []
    for tensor, spec in zip(part.example(), part.inputs.values(), strict=True):
        for dim, axis in enumerate(spec.shape):
            if isinstance(axis, Axis) and axis.name in sizes:
                tensor = tensor.index_select(dim, torch.arange(sizes[axis.name]) % tensor.shape[dim])  # noqa: PLW2901
        tensors.append(tensor)
    return tuple(tensors)


def part_samples(part: Part) -> list[tuple[Tensor, ...]]:
    """Return what a log brought, where that was kept.

    Otherwise the part's example; where no input holds indices, it is also cut to another size of each free axis.
    """
    if found := list(part.samples(part)):
        return found
    samples = [part.example()]
    if any(spec.dtype != "float32" for spec in part.inputs.values()):
        return samples
    smaller = {
        axis.name: max(axis.minimum, min(tensor.shape[dim] // 2, axis.maximum))
        for tensor, spec in zip(samples[0], part.inputs.values(), strict=True)
        for dim, axis in enumerate(spec.shape)
        if isinstance(axis, Axis)
    }
    return [*samples, resized_example(part, smaller)] if smaller else samples


def run_on(engines: Mapping[str, Engine]) -> RunPart:
    """Return the runner that a network's methods take, on engines by part name.

    Tensors on a device are read there, and answered by tensors there; tensors on the host by tensors on the host.
    """

    def run(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        outputs = engines[name].run({key: _array_of(tensor.detach()) for key, tensor in inputs.items()})
        devices = [tensor.device for tensor in inputs.values() if tensor.is_cuda]
        if not devices:
            return OnHost(outputs)
        return {
            key: device_tensor(array, devices[0])
            if isinstance(array, DeviceArray)
            else host_tensor(array).to(devices[0])
            for key, array in outputs.items()
        }

    return run


def _array_of(tensor: Tensor) -> Array:
    return TensorArray(tensor) if tensor.is_cuda else tensor.cpu().numpy()


def _fits(size: int, axis: int | Axis) -> bool:
    return axis.minimum <= size <= axis.maximum if isinstance(axis, Axis) else size == axis
