"""Frames per second of the LiDAR and fusion networks on one GPU: python -m benchmarks.gpu_networks

Every part runs in half precision from a CUDA graph (`recorded_parts`) and is compared with eager float32 on the same
GPU, from the same inputs, before anything is timed; disagreement is printed and makes the exit code 1. Weights are
filled by name, sweeps made up. Needs torch, numpy, numba and safetensors alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.benchmarks.clouds import spinning_sweep
from perception.benchmarks.recorded_parts import RecordedParts
from perception.networks.deepinteraction import DEEPINTERACTION_COMPACT, DeepInteraction, DeepInteractionConfig
from perception.networks.dsvt import DSVT, DSVTConfig, StageConfig
from perception.networks.flatformer import FlatFormer, FlatFormerConfig
from perception.networks.layers.bev_backbone import BevBackboneConfig
from perception.networks.layers.center_head import CenterHeadConfig
from perception.networks.layers.interaction_parts import Sizes, example_rig
from perception.networks.part import Part, RunPart
from perception.networks.weights import fill

VIEWS = 6
HEAT = 2.0
VOXEL_STAGES = tuple(
    StageConfig(((12, 12, z), (24, 24, z)), (6, 6, 0), 48, blocks=1, pool_z=pool)
    for z, pool in ((32, 4), (8, 4), (2, 2), (1, 1))
)
NUSCENES = DSVTConfig(
    (-54.0, -54.0, -5.0), (0.3, 0.3, 8.0), (360, 360, 1), test_z=False, channels=128, hidden=256,
    stages=(StageConfig(((30, 30, 1), (30, 30, 1)), (15, 15, 0), 90, blocks=4),),
    backbone=BevBackboneConfig(128, up_strides=(0.5, 1, 2)), head="transfusion",
)  # fmt: skip
TINY_DSVT = DSVTConfig(
    (-12.8, -12.8, -2.0), grid=(80, 80, 1), channels=32, heads=4, hidden=64, center_head=CenterHeadConfig(96),
    backbone=BevBackboneConfig(32, channels=(32, 32, 32), up_channels=(32, 32, 32)),
)  # fmt: skip
TINY_FUSION = replace(
    DEEPINTERACTION_COMPACT, image_size=(64, 96), voxel_size=(1.6, 1.6, 0.4), pillar_size=(6.4, 6.4, 8.0),
    sparse=replace(DEEPINTERACTION_COMPACT.sparse, grid=(21, 64, 64)),
    decoder=replace(DEEPINTERACTION_COMPACT.decoder, queries=40, cell=(6.4, 6.4)),
)  # fmt: skip
Use = Callable[[RunPart], Any]


@dataclass(frozen=True)
class Subject:
    """A network with one input: its parts, and how a frame goes through them."""

    name: str
    size: str
    parts: Mapping[str, Part]
    use: Use


@dataclass
class Result:
    """What came out of one network."""

    network: str
    size: str
    frame_ms: float = 0.0
    """Median wall time of a whole frame, from points to boxes in the memory of the host."""
    frame_p90_ms: float = 0.0
    parts_ms: dict[str, float] = field(default_factory=dict)
    """Median time of each part on the GPU; what a frame costs beside their sum is outside of parts."""
    eager_fp32_ms: float = 0.0
    worst: dict[str, float] = field(default_factory=dict)
    """By part, the largest error over the tolerance of half precision, 0.02 of value and deviation."""
    memory_gib: float = 0.0
    boxes: int = 0

    @property
    def agrees(self) -> bool:
        return all(error <= 1 for error in self.worst.values())

    def lines(self) -> list[str]:
        parts = "  ".join(f"{name} {ms:.2f}" for name, ms in self.parts_ms.items())
        worst = "  ".join(f"{name} {error:.2f}" for name, error in self.worst.items())
        inside = sum(self.parts_ms.values())
        speed = f"{1000 / self.frame_ms:.1f} frames per second, {self.frame_ms:.2f} ms a frame"
        more = f"p90 {self.frame_p90_ms:.2f} ms, eager fp32 {self.eager_fp32_ms:.2f} ms, {self.memory_gib:.2f} GiB"
        return [
            f"{self.network}: {speed} ({more}); {self.size}, {self.boxes} boxes",
            f"  parts {inside:.2f} ms: {parts}",
            f"  error over tolerance{'' if self.agrees else ' DISAGREES'}: {worst}",
        ]


def lidar_subject(name: str, network: Any, points: int, device: str) -> Subject:
    """Return a LiDAR network on a made-up sweep."""
    fill(network)
    with torch.no_grad():
        for parameter, values in network.named_parameters():
            if parameter.endswith(("hm.1.bias", "heatmap.1.bias")):
                values.sub_(HEAT)  # filled weights see something everywhere, which suppression would be busy with
    network = network.eval().requires_grad_(False).to(device)
    xyz = spinning_sweep(points)
    cloud = torch.from_numpy(np.column_stack((xyz, np.zeros((len(xyz), 2)))).astype(np.float32)).to(device)
    batched = torch.cat((cloud.new_zeros(len(cloud), 1), cloud), dim=1)
    cells = network.pillars(batched) if isinstance(network, FlatFormer) else network.voxels(batched)
    size = f"{len(cloud)} points, {len(cells.coords)} voxels"
    return Subject(name, size, network.parts(), lambda run: network.detect(cloud, run))


def fusion_subject(name: str, config: DeepInteractionConfig, points: int, device: str) -> Subject:
    """Return DeepInteraction++ with noise for images and made-up sweeps for points."""
    network = DeepInteraction(config)
    fill(network)
    network = network.eval().requires_grad_(False).to(device)
    xyz = spinning_sweep(points) - np.array((0, 0, 1.84), np.float32)
    random = np.random.default_rng(0)
    cloud = np.column_stack((xyz, random.uniform(0, 255, len(xyz)), random.uniform(0, 0.5, len(xyz)))).astype(
        np.float32
    )
    rig = [x.to(device) for x in example_rig(Sizes(1, VIEWS, config.image_size, config.geometry))]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, VIEWS, 3, *config.image_size, generator=generator).to(device)
    size = f"{VIEWS} views of {config.image_size[0]} x {config.image_size[1]}, {points} points"
    parts = network.parts(1, VIEWS)
    return Subject(name, size, parts, lambda run: network.detect(images, [cloud], rig[0], rig[1], run, VIEWS))


def subjects(tiny: bool, points: int, device: str) -> dict[str, Callable[[], Subject]]:
    """Return what can be measured, made when asked for."""
    flat = FlatFormerConfig()
    if tiny:
        narrow = replace(
            flat, minimum_m=(-12.8, -12.8, -2), maximum_m=(12.8, 12.8, 4), grid=(80, 80), vfe_channels=(16, 32), heads=4
        )
        return {
            "dsvt": lambda: lidar_subject("dsvt", DSVT(TINY_DSVT), points, device),
            "flatformer": lambda: lidar_subject("flatformer", FlatFormer(narrow), points, device),
            "deepinteraction": lambda: fusion_subject("deepinteraction", TINY_FUSION, points, device),
        }
    voxel = DSVTConfig(voxel_m=(0.32, 0.32, 0.1875), grid=(468, 468, 32), stages=VOXEL_STAGES)
    return {
        "dsvt_pillar": lambda: lidar_subject("dsvt_pillar", DSVT(DSVTConfig()), points, device),
        "flatformer": lambda: lidar_subject("flatformer", FlatFormer(flat), points, device),
        "deepinteraction": lambda: fusion_subject("deepinteraction", DeepInteractionConfig(), 2 * points, device),
        "dsvt_voxel": lambda: lidar_subject("dsvt_voxel", DSVT(voxel), points, device),
        "dsvt_nuscenes": lambda: lidar_subject("dsvt_nuscenes", DSVT(NUSCENES), 2 * points, device),
    }


def measure(subject: Subject, device: str, repeats: int, *, half: bool) -> Result:
    """Compare, then time."""
    eager = RecordedParts(subject.parts, device, half=False, record=False)
    recorded = RecordedParts(subject.parts, device, half=half)
    result = Result(subject.name, subject.size)
    with torch.inference_mode():

        def compared(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            expected = {key: value.clone() for key, value in eager(name, inputs).items()}
            found = recorded(name, inputs)
            chosen = "query_pos" in expected
            error = decoder_error(recorded, inputs, expected) if chosen else part_error(found, expected)
            result.worst[name] = max(error, result.worst.get(name, 0.0))
            return expected

        subject.use(compared)
        found = subject.use(eager)
        result.boxes = len(found[0].boxes) if isinstance(found, list) else len(found)
        result.eager_fp32_ms, _ = timed(lambda: subject.use(eager), device, max(3, repeats // 5))
        result.frame_ms, result.frame_p90_ms = timed(lambda: subject.use(recorded), device, repeats)
        result.parts_ms = part_times(subject, recorded, device, repeats)
    if device == "cuda":
        result.memory_gib = torch.cuda.max_memory_allocated() / 2**30
    return result


def part_error(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest error over the tolerance."""
    return max(float(errors(got[name], want).max()) for name, want in expected.items() if want.dtype.is_floating_point)


def errors(got: Tensor, want: Tensor) -> Tensor:
    return (got.float() - want).abs() / (0.02 * (want.abs() + want.std()) + 1e-6)


def decoder_error(recorded: RecordedParts, inputs: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the error of the fusion decoder over the tolerance, for the queries that float32 chose.

    Half precision turns the order of queries that are alike and swaps the last few, which moves every other, as they
    see each other. And one that projects onto the border of a view is on it in one precision and not in the other: of
    100 queries, the two that differ most are left out.
    """
    decoder: Any = recorded.modules["decoder"].decoder
    column, row = (expected["query_pos"] - 0.5).round().long().unbind(-1)
    cells = row * inputs["lidar"].shape[3] + column
    decoder.choose_queries = lambda heat: (expected["query_scores"], expected["query_labels"], cells)
    got = recorded.eager("decoder", inputs)
    del decoder.choose_queries
    worst = 0.0
    for name, want in expected.items():
        if name.startswith("heatmap"):
            worst = max(worst, float(errors(got[name], want).max()))
        elif name.startswith("pred"):
            worst = max(worst, float(errors(got[name], want).amax(1).quantile(0.98)))
    return worst


def timed(function: Callable[[], object], device: str, repeats: int) -> tuple[float, float]:
    """Return median and 90th percentile of the wall time, ms, each run waited for."""
    times = []
    for number in range(repeats + 3):
        start_s = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= 3:
            times.append((time.perf_counter() - start_s) * 1e3)
    return statistics.median(times), sorted(times)[int(0.9 * (len(times) - 1))]


def part_times(subject: Subject, recorded: RecordedParts, device: str, repeats: int) -> dict[str, float]:
    """Return the median time of each part, ms, waited for before and after."""
    times: dict[str, list[float]] = {}

    def run(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if device == "cuda":
            torch.cuda.synchronize()
        start_s = time.perf_counter()
        outputs = recorded(name, inputs)
        if device == "cuda":
            torch.cuda.synchronize()
        times.setdefault(name, []).append((time.perf_counter() - start_s) * 1e3)
        return outputs

    for _ in range(repeats):
        subject.use(run)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="a network; may be repeated")
    parser.add_argument("--points", type=int, default=150_000, help="of a sweep (default 150000; nuScenes twice that)")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--tiny", action="store_true", help="small networks, to try the script")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cuda", "cpu"))
    parser.add_argument("--json", help="also write the results to this file")
    arguments = parser.parse_args()
    made = subjects(arguments.tiny, arguments.points, arguments.device)
    if unknown := set(arguments.only or ()) - set(made):
        parser.error(f"--only {', '.join(sorted(unknown))}: expected {', '.join(made)}")
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # the reference is float32
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU, float32: a trial of the script"
    print(f"{where}; torch {torch.__version__}, {arguments.repeats} repeats, medians", flush=True)
    results: list[Result | None] = []
    for name in arguments.only or made:
        try:
            subject = made[name]()
            result = measure(subject, arguments.device, arguments.repeats, half=arguments.device == "cuda")
        except RuntimeError as error:  # one network that does not run must not cost the figures of the others
            print(f"{name}: FAILED: {error}", flush=True)
            results.append(None)
            continue
        results.append(result)
        print("\n".join(result.lines()), flush=True)
        if arguments.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    if arguments.json:
        with open(arguments.json, "w") as file:  # noqa: PTH123
            json.dump([None if result is None else asdict(result) for result in results], file, indent=1)
    return 0 if all(result is not None and result.agrees for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
