"""Sizes of free axes as a log has them, kept for the engines of this machine.

An engine with profiles (TensorRT) is fastest near the shapes that it was told, and its memory grows with the largest.
The network's own limits are wide; a log says what a rig really brings: the median is what the engine is built for, one
and a half times the largest is its limit. A shape outside is a counted drop, as everywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

from perception.engines.engine import Engine, described
from perception.messages.array import Array
from perception.networks.part import Axis, Part, TensorSpec


class ShapeWatch:
    """An engine around another one that notes the sizes of free axes, and shows its inputs to `seen`."""

    def __init__(
        self, engine: Engine, part: Part, seen: Callable[[Mapping[str, Array]], None] = lambda inputs: None
    ) -> None:
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self.part, self._engine, self._seen = part, engine, seen
        self.sizes: dict[str, list[int]] = {}

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the other engine; see `Engine.run`."""
        outputs = self._engine.run(inputs)
        self._seen(inputs)
        sizes = {
            axis.name: size
            for name, spec in self.inputs.items()
            for axis, size in zip(spec.shape, inputs[name].shape, strict=True)
            if isinstance(axis, Axis)
        }
        for name, size in sizes.items():
            self.sizes.setdefault(name, []).append(size)
        return outputs

    def limits(self) -> dict[str, Axis]:
        """Return the limits that the sizes so far suggest, within those of the part; its example still fits."""
        limits = {}
        for spec, tensor in zip(self.part.inputs.values(), self.part.example(), strict=True):
            for axis, size in zip(spec.shape, tensor.shape, strict=True):
                if isinstance(axis, Axis) and axis.name in self.sizes:
                    sizes = self.sizes[axis.name]
                    largest = min(axis.maximum, max(size, math.ceil(1.5 * max(sizes))))
                    limits[axis.name] = Axis(axis.name, axis.minimum, round(statistics.median(sizes)), largest)
        return limits


def store_limits(folder: Path, part: Part, limits: Mapping[str, Axis], source: str) -> None:
    """Keep limits for the engines of `part` in an engine cache's folder; empty ones forget what was kept."""
    file = _file(folder, part)
    if not limits:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    axes = {name: [axis.minimum, axis.typical, axis.maximum] for name, axis in limits.items()}
    file.write_text(json.dumps({"part": part.name, "from": source, "axes": axes}))


def stored_limits(folder: Path, part: Part) -> dict[str, Axis]:
    """Return what `store_limits` kept for `part`; nothing where that is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(_file(folder, part).read_text())["axes"]
        known = {axis.name: axis for axis in _axes(part.inputs)}
        found = {name: Axis(name, *(int(size) for size in sizes)) for name, sizes in stored.items()}
        inside = all(
            known[name].minimum <= axis.minimum <= axis.typical <= axis.maximum <= known[name].maximum
            for name, axis in found.items()
        )
        if inside:
            return found
    return {}


def part_key(part: Part) -> str:
    """Return what tells a part from others, whatever its weights: what a log brings does not depend on them."""
    stated = [part.name, type(part.module).__name__, repr(part.module)]
    stated += [f"{name} {described(spec)}" for name, spec in part.inputs.items()]
    return hashlib.sha256(json.dumps(stated).encode()).hexdigest()[:32]


def _file(folder: Path, part: Part) -> Path:
    return folder / ".shapes" / f"{part_key(part)}.json"


def _axes(specs: Mapping[str, TensorSpec]) -> list[Axis]:
    return [axis for spec in specs.values() for axis in spec.shape if isinstance(axis, Axis)]
