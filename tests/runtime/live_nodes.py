"""Nodes for tests with real processes: small, without torch, and with faults on demand."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from perception.messages import Header, Image, Message, PointCloud
from perception.runtime.node import Bound, Join, Maybe, Node, NodeConfig, NodeSetup, On, Out, Source
from tests.runtime.graphs import MS


class PulseConfig(NodeConfig):
    period_ms: int = 20
    count: int = 1_000_000
    points: int = 1000


class Pulse(Source):
    """Sweeps and pictures of the same instants; every number in a sweep is its index.

    The sweeps are made in shared memory where they can be, and the last few of every third are kept and looked at; the
    pictures are views of memory that it writes again.
    """

    Config = PulseConfig
    paced = True

    def __init__(self, config: PulseConfig) -> None:
        super().__init__(config)
        self._kept: list[tuple[int, np.ndarray]] = []
        self._ring = np.zeros((2, 2, 2, 3), np.uint8)

    @classmethod
    def topics(cls, config: PulseConfig, setup: NodeSetup) -> Mapping[str, type[Message]]:
        return {"lidar/points": PointCloud, "cam/image": Image}

    def messages(self) -> Iterator[tuple[str, Message | Bound]]:
        start_ns = time.time_ns()
        for index in range(self.config.count):
            t_ns = start_ns + index * self.config.period_ms * MS
            pixels = self._ring[index % 2]
            pixels[:] = index % 256
            header = Header(frame_id="cam", t_sensor_ns=t_ns)
            yield "cam/image", Image(header=header, encoding="rgb8", height_px=2, width_px=2, data=pixels)
            xyz = self.empty("lidar/points", (self.config.points, 3), np.float32)
            xyz[:] = index
            if changed := sum(not (kept == value).all() for value, kept in self._kept):
                self.notes = (f"{changed} sweeps changed",)
            if index % 3 == 0:
                self._kept = [*self._kept[-2:], (index, xyz)]
            yield "lidar/points", PointCloud(header=Header(frame_id="lidar", t_sensor_ns=t_ns), xyz_m=xyz)


class Echo(Node):
    """Passes sweeps on."""

    sweep = On[PointCloud]()
    out = Out[PointCloud]()

    def on_sweep(self, sweep: PointCloud) -> PointCloud:
        return PointCloud(header=sweep.header, xyz_m=sweep.xyz_m)


class Slow(Echo):
    def on_sweep(self, sweep: PointCloud) -> PointCloud:
        time.sleep(0.05)
        return super().on_sweep(sweep)


class Hoarder(Node):
    """Keeps every sweep it ever saw, as views, and checks that none changed."""

    sweep = On[PointCloud](keep="all", bound=10)
    out = Out[PointCloud]()

    def __init__(self, config: NodeConfig) -> None:
        super().__init__(config)
        self.kept: list[tuple[float, np.ndarray]] = []

    def on_sweep(self, sweep: PointCloud) -> PointCloud:
        xyz = np.asarray(sweep.xyz_m)
        self.kept.append((float(xyz[0, 0]), xyz))
        torn = sum(float(view.min()) != value or float(view.max()) != value for value, view in self.kept)
        return PointCloud(header=sweep.header, xyz_m=np.full((1, 3), torn, np.float32))


class Keeper(Hoarder):
    """Keeps as many sweeps as it says, as views, and checks that none changed."""

    sweep = On[PointCloud](keep="all", bound=10, holds=10)

    def on_sweep(self, sweep: PointCloud) -> PointCloud:
        self.kept = self.kept[-9:]
        return super().on_sweep(sweep)


class Placer(Hoarder):
    """Gives out what it made in shared memory, keeps every third of them, and says how many of these changed."""

    def on_sweep(self, sweep: PointCloud) -> PointCloud:
        value = float(np.asarray(sweep.xyz_m)[0, 0])
        xyz = self.empty("out", (10_000, 3), np.float32)
        xyz[:] = value
        xyz[:, 1] = sum(float(kept[0, 0]) != was or float(kept[-1, 2]) != was for was, kept in self.kept)
        if value % 3 == 0:
            self.kept.append((value, xyz))
        return PointCloud(header=sweep.header, xyz_m=xyz)


class Together(Node):
    """Joins what two branches made of one instant."""

    scene = Join(sweep=PointCloud, picture=Maybe[Image], tolerance_ms=5, deadline_ms=100)
    out = Out[PointCloud]()

    def on_scene(self, sweep: PointCloud, picture: Image | None) -> PointCloud:
        index = float(np.asarray(sweep.xyz_m)[0, 0])
        value = -1 if picture is None else int(np.asarray(picture.data)[0, 0, 0])
        return PointCloud(header=sweep.header, xyz_m=np.array([[index, value, 0]], np.float32))


class Pair(Node):
    """Joins two branches that began with the same sweep."""

    scene = Join(sweep=PointCloud, picture=Maybe[PointCloud], tolerance_ms=1, deadline_ms=2000)
    out = Out[PointCloud]()

    def on_scene(self, sweep: PointCloud, picture: PointCloud | None) -> PointCloud:
        values = [float(np.asarray(cloud.xyz_m)[0, 0]) for cloud in (sweep, picture) if cloud is not None]
        return PointCloud(header=sweep.header, xyz_m=np.array([[values[0], values[-1], len(values)]], np.float32))


class Memory(Node):
    """Says the first and the last value since it began anew, and how often it did."""

    sweep = On[PointCloud](keep="all", bound=100)
    out = Out[PointCloud]()

    def __init__(self, config: NodeConfig) -> None:
        super().__init__(config)
        self.first: float | None = None
        self.resets: list[str] = []

    def reset(self, reason: str) -> None:
        self.first = None
        self.resets.append(reason)

    def on_sweep(self, sweep: PointCloud) -> PointCloud:
        value = float(np.asarray(sweep.xyz_m)[0, 0])
        self.first = value if self.first is None else self.first
        return PointCloud(header=sweep.header, xyz_m=np.array([[value, self.first, len(self.resets)]], np.float32))


class MortalConfig(NodeConfig):
    flag: Path


class Mortal(Echo):
    """Ends its process, as a crash of a library would, once, when a file appears."""

    Config = MortalConfig

    def on_sweep(self, sweep: PointCloud) -> PointCloud:
        if self.config.flag.exists():
            self.config.flag.unlink()
            os._exit(17)
        return super().on_sweep(sweep)
