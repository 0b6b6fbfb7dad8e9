"""A network's parts on a GPU: half precision, each size recorded once as a CUDA graph.

A graph holds fixed shapes, so free axes are filled up to the next multiple of a step. What is filled up is never read:
rows and sets of their own, whose results are cut off, and indices that mean "none" keep that meaning.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perception.networks.part import Axis, Part

STEPS = {"points": 16_384, "voxels": 2048, "pillars": 2048, "samples": 16_384, "most": 64}
STEP = 128
"""For axes without a step of their own: sets and groups."""
AUTOCAST = ("interaction", "decoder")
"""Parts that hold geometry, which must not be in half precision; in all others every number may be."""
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


class RecordedParts:
    """Runs parts; the result belongs to the runner until that part's next run.

    With `record` off they run eagerly, at their own sizes: the reference.
    """

    def __init__(self, parts: Mapping[str, Part], device: str, *, half: bool = True, record: bool = True) -> None:
        self.parts, self.device, self.half, self.record = parts, torch.device(device), half, record
        self.modules = {name: _placed(part, self.device, half) for name, part in parts.items()}
        self._recorded: dict[tuple[str, tuple[int, ...]], _Recorded] = {}

    def __call__(self, name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        part = self.parts[name]
        if not self.record:
            return self.eager(name, inputs)
        sizes = _sizes(part, inputs)
        wide = {axis: _up(size, STEPS.get(axis.rstrip("01234"), STEP)) for axis, size in sizes.items()}
        key = (name, tuple(wide.values()))
        if key not in self._recorded:
            self._recorded[key] = _Recorded(part, self.modules[name], wide, self.device, half=self.half)
        return self._recorded[key].run(inputs, sizes)

    def eager(self, name: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run a part without a graph, at the sizes that are given."""
        values = _forward(name, self.modules[name], [inputs[key] for key in self.parts[name].inputs], half=self.half)
        return dict(zip(self.parts[name].outputs, values, strict=True))

    @property
    def graphs(self) -> int:
        """How many were recorded."""
        return len(self._recorded)


@dataclass
class _Recorded:
    """One part at one size: buffers for its inputs, and the graph that reads them."""

    part: Part
    module: nn.Module
    wide: Mapping[str, int]
    device: torch.device
    half: bool

    def __post_init__(self) -> None:
        whole = self.half and self.part.name not in AUTOCAST
        self.buffers: dict[str, Tensor] = {}
        for name, spec in self.part.inputs.items():
            dtype = getattr(torch, spec.dtype)
            shape = [self.wide[side.name] if isinstance(side, Axis) else side for side in spec.shape]
            buffer = torch.zeros(shape, dtype=torch.float16 if whole and dtype.is_floating_point else dtype)
            layout = torch.channels_last if buffer.dim() == 4 else torch.contiguous_format
            self.buffers[name] = buffer.to(self.device, memory_format=layout)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.outputs: tuple[Tensor, ...] = ()

    def run(self, inputs: Mapping[str, Tensor], sizes: Mapping[str, int]) -> dict[str, Tensor]:
        for name, value in inputs.items():
            self._take(name, value, sizes)
        if self.device.type != "cuda":
            self.outputs = self._run()
        elif self.graph is None:
            self._record()
        if self.graph is not None:
            self.graph.replay()
        return {
            name: _cut(value, self.part, name, sizes)
            for name, value in zip(self.part.outputs, self.outputs, strict=True)
        }

    def _take(self, name: str, value: Tensor, sizes: Mapping[str, int]) -> None:
        buffer, axis = self.buffers[name], _points_into(self.part.name, name, sizes)
        if axis is not None:
            value = torch.where(value == sizes[axis], self.wide[axis], value)
        if value.shape != buffer.shape:
            buffer.fill_(0 if axis is None else self.wide[axis])
        buffer[tuple(slice(side) for side in value.shape)].copy_(value)

    def _run(self) -> tuple[Tensor, ...]:
        return _forward(self.part.name, self.module, list(self.buffers.values()), half=self.half)

    def _record(self) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._run()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = self._run()


def _forward(name: str, module: nn.Module, inputs: Sequence[Tensor], *, half: bool) -> tuple[Tensor, ...]:
    cast = half and name in AUTOCAST
    with torch.autocast(inputs[0].device.type, torch.float16, enabled=cast, cache_enabled=False):
        values = module(*inputs)
    values = (values,) if isinstance(values, Tensor) else values
    return tuple(value.float() if value.dtype == torch.float16 else value for value in values)


def _placed(part: Part, device: torch.device, half: bool) -> nn.Module:
    module = copy.deepcopy(part.module).to(device).eval()
    module = module.to(memory_format=torch.channels_last) if device.type == "cuda" else module  # type: ignore[call-overload]
    if half and part.name not in AUTOCAST:
        return module.half()
    if half:
        for layer in module.modules():
            if isinstance(layer, LAYERS):
                layer.half()
    return module


def _sizes(part: Part, inputs: Mapping[str, Tensor]) -> dict[str, int]:
    return {
        side.name: size
        for name, spec in part.inputs.items()
        for side, size in zip(spec.shape, inputs[name].shape, strict=True)
        if isinstance(side, Axis)
    }


def _up(size: int, step: int) -> int:
    return size if size <= 1 else -(-size // step) * step


def _cut(value: Tensor, part: Part, name: str, sizes: Mapping[str, int]) -> Tensor:
    sides = part.outputs[name].shape
    return value[tuple(slice(sizes[side.name]) if isinstance(side, Axis) else slice(None) for side in sides)]


def _points_into(part: str, name: str, axes: Mapping[str, int]) -> str | None:
    """Return the axis whose rows an input points into, if one past the last of them means "none"."""
    if part == "interaction":
        return {"pillar_samples": "samples", "cell_pillar": "pillars"}.get(name)
    if part != "sparse_encoder" or name == "voxels":
        return None
    return max(axes) if name == "dense" else f"voxels{name[-1]}"


__all__ = ["RecordedParts"]
