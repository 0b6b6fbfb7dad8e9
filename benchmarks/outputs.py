"""What the way from detections to planners costs: fuser, tracker and publisher, alone and together.

Targets: a ready record of 200 objects published (its timing written anew, and sent) in under 100 us, a mask of a
megabyte in under 1 ms, 200 boxes of a detector through fuser, tracker and publisher in under 5 ms, 1,000 detections
tracked in under 20 ms on one core. What a node takes to write the record is shown beside it. Medians and 99th
percentiles.

The fuser's scene is that of car.yaml: a sweep of 25,000 points, masks of four cameras, boxes with velocities. The way
is what is added: it begins where the boxes arrive, after points and masks, which the fuser has painted by then, and
ends where the launcher has read the list and sent it.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from perception.benchmarks.clouds import spinning_sweep
from perception.geometry.rig import load_rig
from perception.messages import (
    Detections3D,
    Header,
    Message,
    ModelId,
    Odometry,
    PointCloud,
    SegmentationMask,
    TrackedObjects,
)
from perception.messages.codec import decode_envelope, encode
from perception.nodes.fuser import Fuser
from perception.nodes.object_tracker import ObjectTracker
from perception.runtime.allocator import keep_freed_memory
from perception.runtime.launch_file.files import CALIBRATION
from perception.runtime.launcher import published
from perception.runtime.node import Lookup
from perception.runtime.publisher import Publisher
from perception.runtime.subscriber import subscribe

STEP_NS = 100_000_000
CAMERAS = ("cam_front", "cam_rear", "cam_left", "cam_right")
N = TypeVar("N", ObjectTracker, Fuser)
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One measurement, milliseconds."""

    name: str
    p50_ms: float
    p99_ms: float
    target_ms: float | None

    def line(self) -> str:
        said = f"{self.name:<58} p50 {self.p50_ms:7.3f}  p99 {self.p99_ms:7.3f}"
        if self.target_ms is None:
            return said
        return f"{said}  target {self.target_ms:g} ms, {'kept' if self.p50_ms < self.target_ms else 'MISSED'}"


class _Drive:
    """A vehicle that goes straight on at 8 m/s, known at every instant."""

    def at(self, t_ns: int) -> Odometry:
        return Odometry(
            header=Header(frame_id="odom", t_sensor_ns=t_ns), translation_m=(8e-9 * t_ns, 0.0, 0.0),
            rotation_xyzw=(0.0, 0.0, 0.0, 1.0), velocity_mps=(8.0, 0.0, 0.0),
        )  # fmt: skip


class World:
    """Cars spread over a square, each at its own speed; `seen` is what a detector says of one instant."""

    def __init__(self, count: int, seed: int = 1) -> None:
        random = np.random.default_rng(seed)
        side = float(np.sqrt(count)) * 9.0
        self.count, self._random = count, random
        self._start = random.uniform(-side / 2, side / 2, (count, 2))
        self._yaw = random.uniform(-np.pi, np.pi, count)
        speed = np.abs(random.normal(0, 5, count))
        self._velocity = speed[:, None] * np.column_stack((np.cos(self._yaw), np.sin(self._yaw)))

    def seen(self, step: int) -> Detections3D:
        place = self._start + self._velocity * (step * 0.1) + self._random.normal(0, 0.1, (self.count, 2))
        place[:, 0] -= 0.8 * step
        return Detections3D(
            header=Header(
                frame_id="base_link", t_sensor_ns=step * STEP_NS, run="bench", models=(ModelId("a@1", "torch"),)
            ),
            classes=("car",), center_m=np.column_stack((place, np.zeros(self.count))).astype(np.float32),
            size_lwh_m=np.tile(np.array([4.2, 1.8, 1.5], np.float32), (self.count, 1)),
            yaw_rad=self._yaw.astype(np.float32), score=np.full(self.count, 0.8, np.float32),
            label=np.zeros(self.count, np.uint16), velocity_mps=self._velocity.astype(np.float32),
        )  # fmt: skip


class Scene:
    """What surrounds the cars of a `World` for a fuser: a sweep, and masks of four cameras."""

    def __init__(self, points: int = 25_000, seed: int = 2) -> None:
        xyz = spinning_sweep(points, seed) - np.array((1.2, 0.0, 1.9), np.float32)  # from base_link to the LiDAR
        turn = np.arctan2(xyz[:, 1], xyz[:, 0])
        order = np.argsort(-turn)  # as it fires
        self._xyz_m = np.ascontiguousarray(xyz[order])
        self._t_offset_ns = (-STEP_NS * (turn[order] + np.pi) / (2 * np.pi)).astype(np.int32)
        blocks = np.repeat(np.repeat(np.arange(24, dtype=np.uint8).reshape(4, 6) % 19, 48, 0), 54, 1)
        self._label = np.ascontiguousarray(blocks[:, :320])  # as decoders give masks

    def sweep(self, step: int) -> PointCloud:
        header = Header(frame_id="lidar", t_sensor_ns=step * STEP_NS, run="bench")
        return PointCloud(header=header, xyz_m=self._xyz_m, t_offset_ns=self._t_offset_ns)

    def masks(self, step: int) -> list[SegmentationMask]:
        return [
            SegmentationMask(
                header=Header(
                    frame_id=f"{camera}_optical", t_sensor_ns=step * STEP_NS - 30_000_000, run="bench",
                    models=(ModelId("b@1", "torch"),),
                ),
                classes=tuple(f"class_{index}" for index in range(19)), label=self._label,
            )
            for camera in CAMERAS
        ]  # fmt: skip


def a_tracker() -> ObjectTracker:
    return _ready(ObjectTracker())


def a_fuser() -> Fuser:
    return _ready(Fuser(cameras=len(CAMERAS), box_topics=("detector/detections",)))


def _ready(node: N) -> N:
    node.rig = load_rig(CALIBRATION / "simulated_car")
    node.ego = cast("Lookup[Odometry]", _Drive())
    node.warm_up()
    return node


def timed(name: str, target_ms: float | None, repeats: int, call: Callable[[int], object]) -> Row:
    return timed_after(name, target_ms, repeats, lambda step: step, lambda step, _: call(step))


def timed_after(
    name: str, target_ms: float | None, repeats: int, before: Callable[[int], T], call: Callable[[int, T], object]
) -> Row:
    """Time what is called with what `before` made; neither that is timed, nor the freeing of what the call returns."""
    taken: list[int] = []
    for step in range(repeats + 5):
        made = before(step)
        started = time.perf_counter_ns()
        result = call(step, made)
        taken.append(time.perf_counter_ns() - started)
        del result
    p50, p99 = np.percentile(np.array(taken[5:]), (50, 99)).tolist()
    return Row(name, p50 / 1e6, p99 / 1e6, target_ms)


def measure(repeats: int = 200) -> list[Row]:
    """Run all measurements; a planner listens in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        publisher = Publisher(f"ipc://{Path(folder)}/bench.ipc")
        planner = subprocess.Popen([sys.executable, "-m", "perception.benchmarks.outputs", publisher.endpoint])
        try:
            time.sleep(2.0)  # until it has subscribed
            keep_freed_memory()  # as every process of a graph does
            gc.collect()
            gc.freeze()
            gc.disable()  # as in every process of a graph, which collects while nothing waits
            return [
                _of_encoding(publisher, repeats), _of_objects(publisher, repeats), _of_mask(publisher, repeats),
                *_of_fusing(repeats), _of_way_past_fuser(publisher, repeats), _of_way(publisher, repeats),
                _of_tracking(publisher, repeats),
            ]  # fmt: skip
        finally:
            gc.enable()
            planner.kill()
            planner.wait()
            publisher.close()


def listen(endpoint: str) -> None:
    """Receive as a planner does, until killed."""
    with subscribe(endpoint) as planner:
        while True:
            planner.receive(1.0)


def _ready_objects() -> TrackedObjects:
    node, world = a_tracker(), World(200)
    said = [node.on_detections(world.seen(step)) for step in range(15)]
    return said[-1]


def _of_encoding(publisher: Publisher, repeats: int) -> Row:
    ready = _ready_objects()
    return timed("write the record of 200 objects, in the node", None, repeats, lambda _: encode(ready).to_bytes())


def _of_objects(publisher: Publisher, repeats: int) -> Row:
    ready = _ready_objects()
    return _of_publishing("publish a ready record of 200 objects", 0.1, repeats, publisher, ready)


def _of_mask(publisher: Publisher, repeats: int) -> Row:
    mask = SegmentationMask(
        header=Header(frame_id="cam", t_sensor_ns=0), classes=("road",), label=np.zeros((1000, 1000), np.uint8)
    )
    return _of_publishing("publish a ready record of a mask of 1 MB", 1.0, repeats, publisher, mask)


def _of_publishing(name: str, target_ms: float, repeats: int, publisher: Publisher, message: Message) -> Row:
    """Time what the launcher does with a record that a node wrote."""
    record = memoryview(encode(message).to_bytes())
    return timed(
        name, target_ms, repeats,
        lambda step: publisher.publish("ready", published(message, record, 1_000_000_000, step * STEP_NS)),
    )  # fmt: skip


def _painting_ahead(fuser: Fuser) -> Callable[[int], tuple[PointCloud, list[SegmentationMask]]]:
    """Return what a step does before its boxes come."""
    scene = Scene()

    def paint(step: int) -> tuple[PointCloud, list[SegmentationMask]]:
        sweep, masks = scene.sweep(step), scene.masks(step)
        fuser.prepare_scene(sweep, masks)
        return sweep, masks

    return paint


def _of_fusing(repeats: int) -> list[Row]:
    fuser, world = a_fuser(), World(200)
    paint = _painting_ahead(fuser)
    batches = [world.seen(step) for step in range(repeats + 5)]

    def fuse(step: int, seen: tuple[PointCloud, list[SegmentationMask]]) -> object:
        return list(fuser.on_scene(*seen, batches[step]))

    ahead = timed("fuser, 25,000 points and 4 masks, before boxes come", None, repeats, paint)
    return [ahead, timed_after("fuser, from 200 boxes to its outputs", None, repeats, paint, fuse)]


def _of_way_past_fuser(publisher: Publisher, repeats: int) -> Row:
    node, world = a_tracker(), World(200)
    batches = [world.seen(step) for step in range(repeats + 5)]

    def once(step: int) -> object:
        said = node.on_detections(batches[step])
        _send(publisher, said, step)
        return said

    return timed("tracker and publisher, 200 detections to the sent list", None, repeats, once)


def _of_way(publisher: Publisher, repeats: int) -> Row:
    fuser, tracker, world = a_fuser(), a_tracker(), World(200)
    paint = _painting_ahead(fuser)
    batches = [world.seen(step) for step in range(repeats + 5)]

    def fuse(step: int, seen: tuple[PointCloud, list[SegmentationMask]]) -> object:
        outputs = dict(fuser.on_scene(*seen, batches[step]))
        encode(outputs["painted"]).to_bytes()  # painted points leave the process, too, before the tracker's turn
        said = tracker.on_fused(cast("TrackedObjects", outputs["objects"]))
        _send(publisher, said, step)
        return outputs, said

    name = "fuser, tracker and publisher, 200 boxes to the sent list"
    return timed_after(name, 5.0, repeats, paint, fuse)


def _send(publisher: Publisher, said: TrackedObjects, step: int) -> None:
    """Write the record as the node's process does, and read and send it as the launcher does."""
    written = encode(said)
    record = memoryview(written.to_bytes())
    envelope = decode_envelope(record, written.cuts)
    publisher.publish("objects", published(envelope, record, 1_000_000_000, step * STEP_NS))


def _of_tracking(publisher: Publisher, repeats: int) -> Row:
    node, world = a_tracker(), World(1000)
    batches = [world.seen(step) for step in range(repeats + 5)]
    return timed("track 1,000 detections", 20.0, repeats, lambda step: node.take(batches[step]))


if __name__ == "__main__":
    listen(sys.argv[1])


__all__ = ["Row", "listen", "measure"]
