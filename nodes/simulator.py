"""Simulate the rig's sensors in a seeded street.

out: what every sensor of the rig measures, and the truth of it on `truth/...` (docs/simulation.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Self

from pydantic import Field

from perception.errors import UserError
from perception.messages import Message
from perception.runtime.node import Bound, NodeConfig, NodeSetup, Source
from perception.runtime.ownership import frozen
from perception.simulation.drive import Drive
from perception.simulation.motion import Motion
from perception.simulation.weather import WeatherName


class SimulatorConfig(NodeConfig):
    """Settings of the simulator."""

    seed: int = 1
    """The same seed gives the same street and the same noise."""
    speed_mps: Annotated[float, Field(ge=0, le=40)] = 8.0
    """Mean speed of the ego vehicle."""
    weather: WeatherName = "day"
    """day, dusk or rain."""
    sensors: tuple[str, ...] | None = None
    """Simulate only these sensors of the rig; by default all."""
    truth: bool = True
    """Also publish the truth, on `truth/...`."""
    start_ns: int | None = None
    """Stamp of the first instant; the time of the start if not given."""


class Simulator(Source):
    """A source that is as fast as it is asked, so the runtime paces it."""

    Config = SimulatorConfig
    paced = True

    @classmethod
    def create(cls, config: SimulatorConfig, setup: NodeSetup) -> Self:
        if setup.rig is None:
            raise UserError("the simulator needs a rig to simulate; name one in the launch file")
        drive = Drive(
            setup.rig, config.seed, config.start_ns or 0, Motion(speed_mps=config.speed_mps), weather=config.weather,
            sensors=config.sensors, with_truth=config.truth,
        )  # fmt: skip
        return cls(config, drive)

    @classmethod
    def topics(cls, config: SimulatorConfig, setup: NodeSetup) -> Mapping[str, type[Message]]:
        return {} if setup.rig is None else Drive.topics(setup.rig, config.sensors, with_truth=config.truth)

    def __init__(self, config: SimulatorConfig, drive: Drive) -> None:
        super().__init__(config)
        self.drive = drive

    def warm_up(self) -> None:
        """Measure with every sensor once, on a drive of its own: what is compiled then keeps no instant waiting."""
        drive = Drive(
            self.drive.rig, self.config.seed, 0, weather=self.config.weather, sensors=self.config.sensors,
            with_truth=self.config.truth,
        )  # fmt: skip
        slowest_hz = min((sensor.rate_hz for sensor in drive.sensors), default=1.0)
        for _ in drive.messages(2.0 / slowest_hz):
            pass

    def messages(self) -> Iterator[tuple[str, Message | Bound]]:
        if self.config.start_ns is None:
            self.drive.start_ns = time.time_ns()  # now, and not when the networks began to warm up
        for topic, item in self.drive.messages():
            yield topic, item if isinstance(item, Bound) else frozen(item)
