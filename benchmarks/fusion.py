"""DeepInteraction++ stage by stage: time and peak memory of ours beside the published loops, in one run.

Ours is eager torch in float32 and, where node and processor take it, in bfloat16, and ONNX Runtime; the loops
(`published_fusion`) have the same weights and are compared before they are timed. Weights are filled, images noise,
sweeps made up. Medians of runs in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.benchmarks.clouds import spinning_sweep
from perception.benchmarks.published_fusion import PublishedFusion, without_blocks
from perception.engines.cache import EngineCache
from perception.engines.choose import EngineSettings, compile_parts
from perception.engines.engine import run_on
from perception.engines.fusion_engines import IN_BFLOAT16, bfloat16_engines, mixed_runner
from perception.engines.task_agreement import found_boxes
from perception.errors import EngineError
from perception.networks.card import find_card
from perception.networks.deepinteraction import (
    DeepInteraction,
    DeepInteractionConfig,
    Detections,
    group_pillars,
    join_pillars,
    voxel_means,
)
from perception.networks.layers.interaction_geometry import frame_geometry, view_geometry
from perception.networks.layers.interaction_parts import (
    IN_TORCH,
    Sizes,
    example_rig,
    geometry_inputs,
    sparse_inputs,
)
from perception.networks.layers.sparse_encoder import sparse_tables
from perception.networks.load import load_network
from perception.networks.part import RunPart, run_in_torch
from perception.ops.processor import MULTIPLIES_BFLOAT16
from perception.ops.sparse_backend import sparse_backend
from perception.runtime.allocator import keep_freed_memory

VIEWS = 6
MIB = 1 << 20


@dataclass(frozen=True)
class StageRow:
    """One stage: median times in ms, 0 where not measured, and what memory rose by, MiB."""

    stage: str
    torch_ms: float
    onnx_ms: float
    published_ms: float
    torch_mib: float
    published_mib: float
    bfloat16_ms: float = 0.0

    def line(self) -> str:
        published, factor = "not measured", ""
        if self.published_ms:
            published = f"{self.published_ms:9.1f} ms {self.published_mib:6.0f} MiB"
            best = min(value for value in (self.torch_ms, self.onnx_ms) if value)
            factor = f"  {self.published_ms / best:5.2f}x"
        onnx = f"{self.onnx_ms:9.1f} ms" if self.onnx_ms else "not measured"
        small = f"  bfloat16 {self.bfloat16_ms:9.1f} ms" if self.bfloat16_ms else ""
        return (
            f"  {self.stage:<22} torch {self.torch_ms:9.1f} ms {self.torch_mib:6.0f} MiB  onnxruntime {onnx}  "
            f"published {published}{factor}{small}"
        )


@dataclass(frozen=True)
class FusionRow:
    """One network."""

    network: str
    what: str
    threads: int
    stages: tuple[StageRow, ...]
    frame_ms: float
    """A frame from points and pictures to boxes, each part on the engine that the node takes on a CPU."""
    peak_gib: float
    """Of the whole process while ours runs a frame in torch."""
    bfloat16_frame_ms: float
    """The same frame with `IN_BFLOAT16` in bfloat16; 0 where the processor does not multiply it."""
    bfloat16_boxes: float
    """Share of the boxes of float32 that are found in bfloat16, too."""

    def line(self) -> str:
        head = f"{self.network:<26} {self.what}  {self.threads} threads, peak of the process {self.peak_gib:.2f} GiB"
        factor = self.stages[-1].published_ms / self.frame_ms
        in_torch = ", ".join(IN_TORCH) if self.stages[-1].onnx_ms else "all of it"
        frame = f"  a frame as the node runs it: {self.frame_ms:.1f} ms, {factor:.2f}x; in torch {in_torch}"
        also = "  in bfloat16 not measured: this processor does not multiply it"
        if self.bfloat16_frame_ms:
            small = self.stages[-1].published_ms / self.bfloat16_frame_ms
            also = (
                f"  with {', '.join(IN_BFLOAT16)} in bfloat16: {self.bfloat16_frame_ms:.1f} ms, {small:.2f}x; "
                f"{self.bfloat16_boxes:.1%} of the boxes"
            )
        return "\n".join([head, *(stage.line() for stage in self.stages), frame, also])


def fusion(card: str, points: int, threads: int, repeats: int, cache: Path | None) -> FusionRow:
    """Measure one network; engines are built in `cache`, without it all runs in torch."""
    keep_freed_memory()  # as every process of a graph does, ours and the loops alike
    torch.set_num_threads(threads)
    network = load_network(f"filled:{find_card(card).name}", DeepInteraction).network
    parts, scene = network.parts(1, VIEWS), _Scene(network, points)
    eager = run_in_torch(parts)
    with torch.inference_mode():
        _reset_peak()  # before engines and loops are there, which hold on to memory of their own
        scene.frame(eager)
        peak = _peak_bytes() / 2**30
    onnx: RunPart | None = None
    as_the_node = eager
    if cache is not None:
        engines = compile_parts(parts, EngineSettings("onnxruntime", "fp32", threads), EngineCache(cache))
        onnx = run_on(engines)
        as_the_node = mixed_runner({name: engines[name] for name in parts if name not in IN_TORCH}, eager)
    with torch.inference_mode():
        small = mixed_runner(bfloat16_engines(parts), as_the_node) if MULTIPLIES_BFLOAT16 else None
        stages = _stages(scene, eager, onnx, small, repeats)
        frames = {"float32": partial(scene.frame, as_the_node)}
        frames |= {} if small is None else {"bfloat16": partial(scene.frame, small)}
        times, _, found = _measured(frames, repeats, warm=True)
    boxes = 0.0 if small is None else found_boxes(found["bfloat16"], found["float32"]).share
    what = f"{VIEWS} x {' x '.join(str(side) for side in network.config.image_size)}, {points} points"
    return FusionRow(card, what, threads, stages, times["float32"], peak, times.get("bfloat16", 0.0), boxes)


@dataclass(frozen=True)
class Frame:
    """What a network is given."""

    images: Tensor
    """(1, V, 3, H, W)."""
    cloud: NDArray[np.float32]
    """(N, 5)."""
    projection: Tensor
    """(1, V, 4, 4)."""
    poses: Tensor
    """(1, V, 4, 4)."""


def made_up_frame(config: DeepInteractionConfig, points: int) -> Frame:
    """Return noise for images and a made-up sweep, on a ring of cameras."""
    random = np.random.default_rng(0)
    xyz = spinning_sweep(points) - np.array((0, 0, 1.84), np.float32)
    cloud = np.column_stack((xyz, random.uniform((0, 0), (255, 0.5), (points, 2)))).astype(np.float32)
    images = torch.randn(1, VIEWS, 3, *config.image_size, generator=torch.Generator().manual_seed(0))
    return Frame(images, cloud, *example_rig(Sizes(1, VIEWS, config.image_size, config.geometry)))


class _Scene:
    """One made-up frame, and ours and the loops on it; each stage leaves its result for the next."""

    def __init__(self, network: DeepInteraction, points: int) -> None:
        self.network, config = network, network.config
        frame = made_up_frame(config, points)
        self.images, self.cloud, self.projection, self.poses = frame.images, frame.cloud, frame.projection, frame.poses
        pillars = join_pillars(group_pillars([self.cloud], config), config)
        self.published = PublishedFusion(network, torch.from_numpy(self.cloud), pillars, self.projection, self.poses)
        self.found: dict[str, Tensor] = {}

    def frame(self, run: RunPart) -> Detections:
        return self.network.detect(self.images, [self.cloud], self.projection, self.poses, run, VIEWS)[0]

    def image(self, run: RunPart) -> Mapping[str, Tensor]:
        return run("image", {"images": self.images[0]})

    def sparse(self, run: RunPart) -> Mapping[str, Tensor]:
        features, coordinates = voxel_means([self.cloud], self.network.config)
        tables = sparse_tables(coordinates, self.network.config.sparse, 1)
        return run("sparse_encoder", sparse_inputs(features[tables.order], tables))

    def map(self, run: RunPart) -> Mapping[str, Tensor]:
        return run("bev_backbone", {"bev": self.found["bev"]})

    def interaction(self, run: RunPart) -> Mapping[str, Tensor]:
        config = self.network.config
        size, geometry = config.image_size, config.geometry
        pillars = join_pillars(group_pillars([self.cloud], config), config)
        views = view_geometry(self.projection, self.poses, size, geometry)
        frame = frame_geometry([torch.from_numpy(self.cloud)], pillars, self.projection, size, geometry)
        maps = {name: self.found[name] for name in ("image0", "image1", "up0", "up1")}
        return run("interaction", {**maps, **geometry_inputs(views, frame)})

    def decoder(self, run: RunPart) -> Mapping[str, Tensor]:
        maps = {name: self.found[name] for name in ("image", "lidar", "fused")}
        return run("decoder", {**maps, "image_from_lidar": self.projection})


def _stages(
    scene: _Scene, eager: RunPart, onnx: RunPart | None, small: RunPart | None, repeats: int
) -> tuple[StageRow, ...]:
    rows = []
    ours: dict[str, Callable[[RunPart], Mapping[str, Tensor]]] = {
        "image": scene.image, "voxels, sparse encoder": scene.sparse, "bird's-eye map": scene.map,
        "geometry, interaction": scene.interaction, "decoder": scene.decoder,
    }  # fmt: skip
    for stage, use in ours.items():
        looped = _published(scene, stage, eager)
        functions: dict[str, Callable[[], Any]] = {"torch": partial(use, eager)}
        functions |= {} if onnx is None else {"onnx": partial(use, onnx)}
        functions |= {} if looped is None else {"published": looped}
        if small is not None and any(name in stage for name in IN_BFLOAT16):
            functions["bfloat16"] = partial(use, small)
        times, memory, found = _measured(functions, repeats)
        if looped is not None:
            _compare(stage, found["published"], found["torch"])
        scene.found |= found["torch"]
        rows.append(
            StageRow(
                stage, times["torch"], times.get("onnx", 0.0), times.get("published", 0.0), memory["torch"],
                memory.get("published", 0.0), times.get("bfloat16", 0.0),
            )
        )  # fmt: skip
    total = StageRow(
        "all",
        sum(row.torch_ms for row in rows),
        sum(row.onnx_ms for row in rows),
        sum(row.published_ms or row.torch_ms for row in rows),
        max(row.torch_mib for row in rows),
        max(row.published_mib for row in rows),
        0.0 if small is None else sum(row.bfloat16_ms or row.torch_ms for row in rows),
    )
    return (*rows, total)


def _published(scene: _Scene, stage: str, eager: RunPart) -> Callable[[], dict[str, Tensor]] | None:
    """Return the loops of a stage, None where they are the same as ours (the map).

    Without spconv its steps stand for it: for each kernel position rows are gathered, multiplied and added, in tensors.
    """
    found, loops = scene.found, scene.published
    fused = type("Given", (), {})

    def image() -> dict[str, Tensor]:
        return dict(zip(("image0", "image1"), loops.image(scene.images[0]), strict=True))

    def sparse() -> dict[str, Tensor]:
        features, coordinates = voxel_means([scene.cloud], scene.network.config)
        return {"bev": scene.network.pts_middle_encoder.encode(features, coordinates, 1, backend)}

    def interaction() -> dict[str, Tensor]:
        result = loops.interaction((found["image0"], found["image1"]), (found["up0"], found["up1"]))
        return {"image": result.image, "lidar": result.lidar, "fused": result.fused}

    def decoder() -> dict[str, Tensor]:
        given: Any = fused
        given.lidar, given.fused = found["lidar"], found["fused"]
        decoded = loops.decoder(found["image"], given)
        return {f"pred_{name}": value for name, value in decoded.fields._asdict().items()}

    def whole_rows(function: Callable[[], dict[str, Tensor]]) -> Callable[[], dict[str, Tensor]]:
        def run() -> dict[str, Tensor]:
            with without_blocks():
                return function()

        return run

    if stage.startswith("voxels"):
        try:
            backend = sparse_backend("spconv")
        except EngineError:
            return whole_rows(lambda: dict(scene.sparse(eager)))
        return sparse
    loops_of = {"image": whole_rows(image), "geometry, interaction": whole_rows(interaction), "decoder": decoder}
    return loops_of.get(stage)


def _compare(stage: str, got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> None:
    for name, value in got.items():
        bound = 1e-3 * want[name].abs() + 1e-3 * float(want[name].std()) + 1e-5
        worst = float(((value - want[name]).abs() / bound).max())
        if worst > 1:
            raise EngineError(f"the published loops of '{stage}' give another {name}: {worst:.3g} times the tolerance")


def _measured(
    functions: Mapping[str, Callable[[], Any]], repeats: int, *, warm: bool = False
) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
    """Return median ms, and of the first run by how much memory rose, MiB, and what it returned.

    The first run counts only where everything has run before (`warm`).
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    memory: dict[str, float] = {}
    found: dict[str, Any] = {}
    for name, function in functions.items():
        before, start_s = _reset_peak(), time.perf_counter()
        found[name] = function()
        times[name] += [(time.perf_counter() - start_s) * 1e3] if warm else []
        memory[name] = max(0, _peak_bytes() - before) / MIB
    for _ in range(repeats - 1 if warm else repeats):
        for name, function in functions.items():
            start_s = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - start_s) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}, memory, found


def _reset_peak() -> int:
    """Let the system forget this process's peak memory; returns what it holds now, bytes (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def _peak_bytes() -> int:
    return _status_bytes("VmHWM")


def _status_bytes(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


__all__ = ["Frame", "FusionRow", "StageRow", "fusion", "made_up_frame"]
