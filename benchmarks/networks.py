"""`perception bench networks`, LiDAR: each network on ONNX Runtime beside eager torch of the same commit, in one run.

Eager torch is in inference mode, convolutions channels_last, with the same threads. Medians of interleaved repeats.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perception.benchmarks.fusion import FusionRow, fusion
from perception.benchmarks.fusion_alone import AloneRow, alone
from perception.engines.cache import EngineCache
from perception.engines.choose import EngineSettings, compile_parts
from perception.engines.engine import run_on
from perception.engines.openvino_engine import is_installed
from perception.engines.precision import EngineName
from perception.geometry.rig import load_rig
from perception.messages import PointCloud, host
from perception.networks.card import find_card
from perception.networks.load import load_network
from perception.networks.part import RunPart, run_in_torch
from perception.ops.processor import MULTIPLIES_BFLOAT16
from perception.runtime.launch_file.files import CALIBRATION
from perception.simulation.drive import Drive

LIDAR_CARDS = ("dsvt_pillar_waymo", "flatformer_waymo_1f", "dsvt_compact", "flatformer_compact")
MORE_LIDAR_CARDS = ("dsvt_voxel_waymo", "dsvt_nuscenes")
FUSION_CARDS = {"deepinteraction_compact": 30_000, "deepinteraction_nuscenes": 300_000}
"""And the points of a frame, all sweeps together."""
POINT_COUNTS = (10_000, 30_000, 60_000, 120_000)


@dataclass(frozen=True)
class Row:
    """One network on one input."""

    network: str
    what: str
    threads: int
    torch_ms: float
    onnx_ms: float
    split_ms: float = 0.0
    """Voxelisation and partition, LiDAR only."""
    argsort_ms: float = 0.0
    """A stable argsort of as many cell keys."""
    openvino_ms: float | None = None
    """None where it is not installed; LiDAR only."""
    by_part: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Medians by engine of each part, and of all that lies outside; LiDAR only."""

    @property
    def speed_up(self) -> float:
        return self.torch_ms / self.onnx_ms

    def line(self) -> str:
        text = (
            f"{self.network:<26} {self.what:<26} {self.threads} threads  torch {self.torch_ms:8.1f} ms  "
            f"onnxruntime {self.onnx_ms:8.1f} ms  {self.speed_up:5.2f}x"
        )
        if self.openvino_ms is not None:
            text += f"  openvino {self.openvino_ms:8.1f} ms"
        if self.argsort_ms:
            factor, share = self.split_ms / self.argsort_ms, self.split_ms / self.onnx_ms
            text += f"  voxels+partition {self.split_ms:6.1f} ms = {factor:.1f} argsorts, {share:.0%} of the whole"
        return text

    def part_lines(self) -> list[str]:
        """Return a line for each part."""
        return [
            f"{'':<26} {name:<26} {'':<9} " + " ".join(f" {engine} {ms:8.1f} ms" for engine, ms in times.items())
            for name, times in self.by_part.items()
        ]


def rows(
    card: str, threads: int, repeats: int, points: Sequence[int], *, torch_only: bool = False
) -> Iterator[Row | FusionRow]:
    """Measure one network, on each of the point counts (by default the usual ones)."""
    if card in FUSION_CARDS:
        cache = None if torch_only else Path(_cache_folder().name)
        for count in points or [FUSION_CARDS[card]]:
            yield fusion(card, count, threads, min(repeats, 3), cache)
    else:
        for count in points or POINT_COUNTS:
            yield lidar(card, count, threads, repeats)


def alone_rows(card: str, threads: int, points: Sequence[int], limit_gib: float) -> Iterator[AloneRow]:
    """Run a fusion network alone in processes that may have so much memory."""
    for count in points or [FUSION_CARDS[card]]:
        for precision in ("fp32", "bf16") if MULTIPLIES_BFLOAT16 else ("fp32",):
            yield alone(card, count, threads, precision, limit_gib)


def lidar(card: str, points: int, threads: int, repeats: int) -> Row:
    """Measure one LiDAR network on a simulated cloud of so many points."""
    network: Any = _loaded(card)
    cloud = torch.from_numpy(simulated_cloud(points))
    torch.set_num_threads(threads)
    runs = {"torch": Stopwatch(run_in_torch(_channels_last(network).parts()))}
    engines: list[EngineName] = ["onnxruntime"]
    if is_installed():
        engines.append("openvino")
    for engine in engines:
        runs[engine] = Stopwatch(_engine(network, threads, {}, engine))
    cells = _cell_keys(network, cloud)
    with torch.inference_mode():
        voxels = len(_split(network, cloud))
        times = _medians(
            {
                **{name: partial(network.detect, cloud, run) for name, run in runs.items()},
                "split": lambda: _split(network, cloud),
                "argsort": lambda: np.argsort(cells, kind="stable"),
            },
            repeats,
        )
    parts = {name: {runner: run.median_ms(name) for runner, run in runs.items()} for name in runs["torch"].times_ms}
    outside = {name: times[name] - sum(part[name] for part in parts.values()) for name in runs}
    return Row(
        card, f"{points} points, {voxels} voxels", threads, times["torch"], times["onnxruntime"], times["split"],
        times["argsort"], times.get("openvino"), {**parts, "outside the parts": outside},
    )  # fmt: skip


class Stopwatch:
    """Runs parts by another runner and notes how long each takes."""

    def __init__(self, run: RunPart) -> None:
        self._run = run
        self.times_ms: dict[str, list[float]] = {}

    def __call__(self, name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        start_s = time.perf_counter()
        outputs = self._run(name, inputs)
        self.times_ms.setdefault(name, []).append((time.perf_counter() - start_s) * 1e3)
        return outputs

    def median_ms(self, name: str) -> float:
        """Return the median of all runs but the first, which warms up."""
        return statistics.median(self.times_ms[name][1:])


def _loaded(card: str) -> nn.Module:
    return load_network(f"filled:{find_card(card).name}", nn.Module).network


def _channels_last(network: Any) -> Any:
    return network.to(memory_format=torch.channels_last)


def _engine(network: Any, threads: int, axes: Mapping[str, int], engine: EngineName = "onnxruntime") -> RunPart:
    settings = EngineSettings(engine, "fp32", threads, axes)
    return run_on(compile_parts(network.parts(), settings, EngineCache(Path(_cache_folder().name))))


@lru_cache(maxsize=1)
def _cache_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that is removed at the end: what is measured is built anew."""
    return tempfile.TemporaryDirectory(prefix="pcnb-engines-")


def _split(network: Any, cloud: Tensor) -> Tensor:
    """Voxelise and partition, as `detect` does before its first part runs; returns the coordinates."""
    batched = torch.cat((cloud.new_zeros(len(cloud), 1), cloud), dim=1)
    if hasattr(network, "groups"):
        coords: Tensor = network.pillars(batched).coords
        network.groups(coords)
        return coords
    coords = network.voxels(batched).coords
    network.stage_inputs(coords, 0)
    return coords


def _cell_keys(network: Any, cloud: Tensor) -> NDArray[np.int64]:
    low = np.array(network.config.minimum_m[:2])
    cells = np.floor((cloud[:, :2].numpy() - low) / 0.32).astype(np.int64)
    return np.asarray(cells[:, 1] * 468 + cells[:, 0])


def _medians(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Run each once to warm up, then all in turn; return medians in ms."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start_s = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - start_s) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


@lru_cache(maxsize=8)
def simulated_cloud(points: int) -> NDArray[np.float32]:
    """Return (points, 5) of simulated sweeps: x, y, z in the vehicle frame, tanh of intensity, zero."""
    rig = load_rig(CALIBRATION / "simulated_car")
    mount = rig.base_link_from("lidar")
    random = np.random.default_rng(0)
    found: list[NDArray[np.float32]] = []
    count = 0
    for topic, message in Drive(rig, 11, 0).messages():
        if topic != "lidar/points" or not isinstance(message, PointCloud) or message.intensity is None:
            continue
        xyz = mount.apply(host(message.xyz_m)) + random.normal(0, 0.05, (len(host(message.xyz_m)), 3))
        found.append(np.column_stack((xyz, np.tanh(host(message.intensity)), np.zeros(len(xyz)))).astype(np.float32))
        count += len(xyz)
        if count >= points:
            break
    cloud = np.concatenate(found)
    return np.ascontiguousarray(cloud[random.permutation(len(cloud))[:points]])


__all__ = [
    "FUSION_CARDS", "LIDAR_CARDS", "MORE_LIDAR_CARDS", "POINT_COUNTS", "AloneRow", "FusionRow", "Row", "alone_rows",
    "lidar", "rows", "simulated_cloud",
]  # fmt: skip
