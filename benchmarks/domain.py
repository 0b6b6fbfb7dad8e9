"""How far the synthetic world is from real recordings: points per ring and range, image gradients, event rates.

    python -m perception.benchmarks.domain ../shared/data > report.md

The folder is that of the recordings (nuscenes_keyframe, kitti_raw_seq, camvid, events); nothing of it is stored. The
simulated sensors have the same beams, focal lengths and sizes as the real ones. docs/domain.md holds the last report.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import perception
from perception.geometry.cameras import Camera
from perception.geometry.rig import load_rig
from perception.geometry.rig_file import LidarFile
from perception.geometry.transforms import Transform
from perception.logs.open_log import open_log
from perception.messages import EventPacket, host
from perception.simulation.world import World

Float = NDArray[np.float64]
SECOND_NS = 1_000_000_000
SEEDS = range(1, 13)
RIG = Path(perception.__file__).parent / "share" / "calibration" / "simulated_car"
HDL32 = LidarFile(rings=32, range_m=(1.0, 100.0), vertical_fov_deg=(-30.67, 10.67), columns=1084)
HDL64 = LidarFile(rings=64, range_m=(1.0, 120.0), vertical_fov_deg=(-24.8, 2.0), columns=2083)
FORWARD = ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
"""Rotation of an optical frame that looks ahead."""


def main(data: Path) -> None:
    """Print the report."""
    print("| Statistic | Real | Simulated | Simulated / real |\n|---|---|---|---|")
    for rows in (_nuscenes_lidar(data), _kitti_lidar(data), _pictures(data), _events(data)):
        for name, real, made, form in rows:
            print(f"| {name} | {real:{form}} | {made:{form}} | {made / real:.2f} |")


Row = tuple[str, float, float, str]


def _nuscenes_lidar(data: Path) -> Iterator[Row]:
    (file,) = (data / "nuscenes_keyframe").glob("*LIDAR_TOP*.bin")
    points = np.fromfile(file, np.float32).reshape(-1, 5)
    own = np.linalg.norm(points[:, :3], axis=1) > 2.5  # the vehicle itself, which the simulator does not have
    real = {"xyz": points[own, :3], "ring": points[own, 4].astype(int), "intensity": points[own, 3] / 255}
    mount = Transform.from_yaw((0.9, 0.0, 1.84), 0.0)
    sweeps = [World(seed).sweep(HDL32, mount, 2 * SECOND_NS, 20.0) for seed in SEEDS]
    yield "nuScenes HDL-32E: points per sweep", float(own.sum()), _mean(len(s.xyz_m) for s in sweeps), ".0f"
    for low, high in ((0, 8), (8, 16), (16, 24), (24, 32)):
        inside = (real["ring"] >= low) & (real["ring"] < high)
        made = _mean(((s.ring >= low) & (s.ring < high)).sum() for s in sweeps)
        yield f"- points of rings {low} to {high - 1}", float(inside.sum()), made, ".0f"
    yield from _ranges("- range", real["xyz"], [s.xyz_m for s in sweeps])
    made = _mean(float(np.median(s.intensity)) for s in sweeps)
    yield "- intensity, median (0 to 1)", float(np.median(real["intensity"])), made, ".3f"


def _kitti_lidar(data: Path) -> Iterator[Row]:
    files = sorted((data / "kitti_raw_seq" / "velodyne_points").rglob("*.bin"))[::3]
    real = np.concatenate([np.fromfile(file, np.float32).reshape(-1, 4) for file in files])
    mount = Transform.from_yaw((0.8, 0.0, 1.73), 0.0)
    sweeps = [World(seed).sweep(HDL64, mount, 2 * SECOND_NS) for seed in list(SEEDS)[:4]]
    yield "KITTI HDL-64E: points per sweep", len(real) / len(files), _mean(len(s.xyz_m) for s in sweeps), ".0f"
    yield from _ranges("- range", real[:, :3], [s.xyz_m for s in sweeps])
    made = _mean(float(np.mean(s.intensity)) for s in sweeps)
    yield "- reflectance, mean", float(real[:, 3].mean()), made, ".3f"


def _ranges(name: str, real: NDArray[Any], made: list[NDArray[Any]]) -> Iterator[Row]:
    for percent in (10, 25, 50, 75, 90, 99):
        value = _mean(float(np.percentile(np.linalg.norm(points, axis=1), percent)) for points in made)
        yield f"{name}, {percent} % below, m", float(np.percentile(np.linalg.norm(real, axis=1), percent)), value, ".1f"


def _pictures(data: Path) -> Iterator[Row]:
    """Compare pictures of one angular resolution: 320 columns, as the shipped rig has."""
    info = json.loads((data / "nuscenes_keyframe" / "info.json").read_text())["data_list"][0]["images"]
    folder = data / "nuscenes_keyframe"
    surround = [
        (next(folder.glob(f"*__{name}__*.jpg")), image["cam2img"][0][0]) for name, image in sorted(info.items())
    ]
    kitti = [(file, 721.5) for file in sorted((data / "kitti_raw_seq" / "image_02").rglob("*.png"))[::4]]
    camvid = [(file, 480.0) for file in sorted((data / "camvid" / "images").rglob("*.png"))]
    for name, files in (("nuScenes", surround), ("KITTI", kitti), ("CamVid", camvid)):
        real, made = [], []
        for file, focal in files:
            picture = Image.open(file).convert("L")
            size = (320, round(320 * picture.height / picture.width))
            real.append(np.asarray(picture.resize(size, Image.Resampling.BOX), np.float64))
            scale = 320 / picture.width
            center = (size[0] / 2 - 0.5, size[1] / 2 - 0.5)
            camera = Camera("plumb_bob", *size, (focal * scale, focal * scale), center)
            made += [_grey(camera, seed) for seed in list(SEEDS)[:2]]
        for what, function, form in (
            ("gradient, mean of both axes, grey levels", _gradient, ".2f"),
            ("gradient, 95 % below", lambda grey: _gradient(grey, 95), ".1f"),
            ("share of flat pixels (gradient below 2)", _flat, ".3f"),
            ("grey level, mean", np.mean, ".0f"),
            ("grey level, deviation", np.std, ".0f"),
            ("spectrum, exponent of falling", _exponent, ".2f"),
        ):
            yield f"{name} pictures: {what}", _mean(map(function, real)), _mean(map(function, made)), form


def _grey(camera: Camera, seed: int) -> Float:
    mount = Transform.from_matrix(np.column_stack((np.array(FORWARD), (1.6, 0.0, 1.6))))
    picture = World(seed).photo(camera, mount, 3 * SECOND_NS, 2_000_000, seed)
    return np.asarray(Image.fromarray(picture.rgb).convert("L"), np.float64)


def _gradient(grey: Float, percent: float | None = None) -> float:
    both = np.concatenate((np.abs(np.diff(grey, axis=0)).reshape(-1), np.abs(np.diff(grey, axis=1)).reshape(-1)))
    return float(both.mean() if percent is None else np.percentile(both, percent))


def _flat(grey: Float) -> float:
    return float((np.hypot(np.diff(grey, axis=0)[:, :-1], np.diff(grey, axis=1)[:-1]) < 2).mean())


def _exponent(grey: Float) -> float:
    """Return the exponent of 1 / f^n that the amplitude spectrum follows; natural pictures have about 1."""
    side = min(grey.shape)
    part = grey[:side, :side] - grey[:side, :side].mean()
    power = np.abs(np.fft.fft2(part * np.outer(np.hanning(side), np.hanning(side))))
    across, down = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side))
    radius = np.hypot(across, down)
    bins = np.geomspace(0.02, 0.4, 12)
    level = [power[(radius >= a) & (radius < b)].mean() for a, b in pairwise(bins)]
    return -float(np.polyfit(np.log(np.sqrt(bins[:-1] * bins[1:])), np.log(level), 1)[0])


def _events(data: Path) -> Iterator[Row]:
    """Compare with cameras that move and with one that stands: rates per pixel, and how regular single pixels are."""
    rig = load_rig(RIG)
    left = replace(rig.sensors["cam_left"], name="event_left", kind="event_camera")
    rig = replace(rig, sensors={**rig.sensors, "event_left": left})
    pairs = (
        ("DAVIS240C, boxes, moved by hand | the street to the left", "IMU_translBoxes.aedat", 240 * 180, "event_left"),
        ("DVS 320 x 240 | the person in the cabin", "faery_dvs.es", 320 * 240, "event_cabin"),
    )
    for name, file, pixels, sensor in pairs:
        real = _statistics(_read(data / "events" / file), pixels)
        camera = rig.camera(sensor)
        kept = [
            _statistics(World(seed).events(rig, sensor, 0, SECOND_NS), camera.width_px * camera.height_px)
            for seed in list(SEEDS)[:4]
        ]
        for index, what in enumerate(EVENT_STATISTICS):
            yield f"Events, {name.replace(' | ', ' and ')}: {what}", real[index], _mean(k[index] for k in kept), ".2f"


EVENT_STATISTICS = (
    "per pixel and second", "share of brighter ones", "share of pixels that fired",
    "median time between two of a pixel, ms",
)  # fmt: skip


@dataclass(frozen=True)
class Recorded:
    """Columns of a recording."""

    t_ns: NDArray[Any]
    x: NDArray[Any]
    y: NDArray[Any]
    polarity: NDArray[Any]


def _read(file: Path) -> Recorded:
    packets = [m for _, m in open_log(file).messages() if isinstance(m, EventPacket)]
    return Recorded(
        *(np.concatenate([host(getattr(p, name)) for p in packets]) for name in ("t_ns", "x", "y", "polarity"))
    )


def _statistics(events: Any, pixels: int) -> tuple[float, float, float, float]:
    seconds = (events.t_ns[-1] - events.t_ns[0]) / SECOND_NS
    where = events.y.astype(np.int64) * 4096 + events.x
    order = np.lexsort((events.t_ns, where))
    same = np.diff(where[order]) == 0
    gaps = np.diff(events.t_ns[order])[same]
    return (
        len(where) / pixels / seconds, float((events.polarity == 1).mean()), len(np.unique(where)) / pixels,
        float(np.median(gaps)) / 1e6,
    )  # fmt: skip


def _mean(values: Iterable[Any]) -> float:
    return float(np.mean([float(value) for value in values]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
