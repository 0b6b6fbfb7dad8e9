"""Nodes whose outputs depend on every call that they had, in its order: one call more, less or elsewhere shows."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from perception.messages import Image, Message, Odometry, PointCloud
from perception.runtime.node import (
    Bound,
    Every,
    Join,
    Lookup,
    Many,
    Maybe,
    Node,
    NodeConfig,
    NodeSetup,
    On,
    Out,
    Source,
)
from tests.runtime.graphs import MS, cloud, image, odometry


class DriveConfig(NodeConfig):
    count: int = 40
    points: int = 50


class Drive(Source):
    """Sweeps, pictures of two cameras and ego motion, at rates that meet now and then; one camera stops early."""

    Config = DriveConfig
    paced = True

    @classmethod
    def topics(cls, config: DriveConfig, setup: NodeSetup) -> Mapping[str, type[Message]]:
        return {"lidar/points": PointCloud, "left/image": Image, "right/image": Image, "ego": Odometry}

    def messages(self) -> Iterator[tuple[str, Message | Bound]]:
        end_ms = 100 * self.config.count
        items: list[tuple[str, Message]] = []
        items += [("lidar/points", cloud(t, t, self.config.points)) for t in range(100, end_ms, 100)]
        items += [("left/image", image(t, t % 256)) for t in range(0, end_ms, 30)]
        items += [("right/image", image(t, t % 251)) for t in range(0, end_ms // 2, 60)]
        items += [("ego", odometry(t, t)) for t in range(7, end_ms, 20)]
        yield from sorted(items, key=lambda item: item[1].header.t_sensor_ns)


class Chain(Node):
    """Gives out what it was called with, mixed with all that was before."""

    def __init__(self, config: NodeConfig) -> None:
        super().__init__(config)
        self.state = 1

    def link(self, t_ns: int, kind: int, *values: float) -> PointCloud:
        for value in (kind, t_ns // MS, *values):
            self.state = (self.state * 31 + round(value * 1000)) % 1_000_003
        return cloud(t_ns / MS, self.state)


def value_of(message: Message | None) -> float:
    if isinstance(message, PointCloud):
        return float(np.asarray(message.xyz_m)[0, 0])
    if isinstance(message, Image):
        return float(np.asarray(message.data)[0, 0, 0])
    return message.translation_m[0] if isinstance(message, Odometry) else -1.0


class SlowConfig(NodeConfig):
    sleep_s: float = 0.02


class SlowChain(Chain):
    """Takes its time for each sweep."""

    Config = SlowConfig
    sweep = On[PointCloud](keep="latest")
    out = Out[PointCloud]()

    def on_sweep(self, sweep: PointCloud) -> PointCloud:
        time.sleep(self.config.sleep_s)
        return self.link(sweep.header.t_sensor_ns, 1, value_of(sweep))


class BatchChain(Chain):
    """Takes the pictures of one stamp together, and says at the end how many there were."""

    pictures = On[Image](batch=True)
    out = Out[PointCloud]()
    count = 0

    def on_pictures(self, pictures: Mapping[str, Image]) -> PointCloud:
        self.count += len(pictures)
        self.last_ns = next(iter(pictures.values())).header.t_sensor_ns
        return self.link(self.last_ns, 2, len(pictures), *map(value_of, pictures.values()))

    def finish(self) -> PointCloud:
        return self.link(self.last_ns, 3, self.count)


class JoinChain(Chain):
    """Joins what branches made of one instant, with ego motion and a tick."""

    scene = Join(sweep=PointCloud, left=Image, others=Many[Image], echo=Maybe[PointCloud], tolerance_ms=10)
    tick = Every(70 * MS)
    ego = Lookup[Odometry](deadline_ms=30)
    out = Out[PointCloud]()

    def on_scene(
        self, sweep: PointCloud, left: Image, others: Sequence[Image], echo: PointCloud | None
    ) -> Iterator[tuple[str, Message]]:
        t_ns = sweep.header.t_sensor_ns
        egos = [value_of(self.ego.at(t_ns + shift * MS)) for shift in (-200, -20, 0, 20)]
        yield "out", self.link(t_ns, 4, *map(value_of, (sweep, left, *others, echo)), *egos)

    def on_tick(self, t_ns: int) -> Iterator[tuple[str, Message]]:
        yield "out", self.link(t_ns, 5, value_of(self.ego.at(t_ns)))


class MixChain(Chain):
    """Two inputs, ordered by their stamps."""

    one = On[PointCloud]()
    other = On[PointCloud](keep="latest")
    out = Out[PointCloud]()

    def on_one(self, one: PointCloud) -> PointCloud:
        return self.link(one.header.t_sensor_ns, 6, value_of(one))

    def on_other(self, other: PointCloud) -> PointCloud:
        return self.link(other.header.t_sensor_ns, 7, value_of(other))


class FragileChain(Chain):
    """Ends its process after a second of the drive, as a crash of a library would."""

    sweep = On[PointCloud]()
    out = Out[PointCloud]()

    def on_sweep(self, sweep: PointCloud) -> PointCloud:
        if sweep.header.t_sensor_ns > 1000 * MS:
            os._exit(17)
        return self.link(sweep.header.t_sensor_ns, 1, value_of(sweep))
