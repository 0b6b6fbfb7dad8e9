"""The keys of a launch file. Each key's text is what the documentation and the JSON Schema say of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Positive = Annotated[float, Field(gt=0, le=86_400_000)]


class FileModel(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class InputFile(FileModel):
    """What one input, or one member of a join, reads."""

    topics: list[str]
    """Topics; an input that takes one message at a time may read several."""
    keep: Literal["latest", "all"] | None = None
    """`latest` replaces what waits; `all` keeps up to `bound`. By default as the node declares."""
    bound: Annotated[int, Field(gt=0, le=10_000)] | None = None
    """Messages that may wait; beyond it the oldest is dropped and counted."""
    offset_ms: float = 0.0
    """Added to the stamps of this input before joining: a measured, constant difference of two clocks."""

    @field_validator("topics", mode="before")
    @classmethod
    def _one_topic_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class JoinFile(FileModel):
    """Settings of a join of a node; what is not given is as the node declares."""

    tolerance_ms: Positive | None = None
    """How far a member's stamp may be from the reference's."""
    deadline_ms: Positive | None = None
    """How long, in sensor time, a set waits for its members."""
    on_missing: Literal["continue", "skip"] | None = None
    """What happens with a set that lacks a member."""
    history_ms: Positive | None = None
    """How long members are kept; by default the slowest period plus the deadline."""


class NodeFile(FileModel):
    """One node."""

    node: str
    """A shipped node (`lidar_detector`), `package.module:Class`, or `./file.py:Class`."""
    settings: dict[str, Any] = {}
    """The node's own settings; `perception schema node:NAME` prints them."""
    inputs: dict[str, str | list[str] | InputFile] = {}
    """Topic, topics, or settings by input; members of a join are `join.member`."""
    outputs: dict[str, str] = {}
    """Topic by output port where it shall not be `<node>/<port>`."""
    joins: dict[str, JoinFile] = {}
    """Settings by join."""
    process: str = ""
    """Nodes with one process name share a process; by default each node has its own."""
    host: str = "local"
    """The host of this process, by its name in `network: hosts`; `local` is the launch host."""
    paced_by: str | None = None
    """For a source: the node whose readiness admits the next instant, for all readers alike."""
    stage_ms: Annotated[float, Field(ge=0)] | None = None
    """What one call takes on this machine, for checking deadlines; `perception top` shows it as latency."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads that an engine of this node may use; in lockstep it is one, so that the bytes do not depend on it."""
    cores: list[Annotated[int, Field(ge=0, le=4095)]] = []
    """Processor cores, such as `[0, 1]`, that this node's process may use, with those of its other nodes; by default
    all, of which a process that takes less than 1 ms for a message keeps to every other one. Cores that the machine
    lacks are left out."""


class OutputFile(FileModel):
    """One topic for planners."""

    topic: str
    """The topic as the graph names it; its name for planners is the key."""
    required: bool = False
    """Without it the graph is unsafe, and `launch` ends with 1 when it never came."""
    deadline_ms: Positive | None = None
    """From the sensor's data arriving here to publication."""
    on_late: str = "publish_partial"
    """Past the deadline: `publish_partial`, `use_last`, `skip`, or `fallback NODE`, whose output stands in."""

    @field_validator("on_late")
    @classmethod
    def _known(cls, value: str) -> str:
        word, _, node = value.partition(" ")
        if (word == "fallback") != bool(node.strip()) or word not in (
            "publish_partial",
            "use_last",
            "skip",
            "fallback",
        ):
            raise ValueError("expected publish_partial, use_last, skip, or fallback NODE")
        return value


class SensorHealthFile(FileModel):
    """When a sensor is lost."""

    required: bool = True
    """Without it the graph is unsafe."""
    lost_after_ms: Positive | None = None
    """By default three periods and at least 300 ms."""
    frozen_after: Annotated[int, Field(ge=2)] = 5
    """Equal payloads in a row that make a sensor frozen."""


class NetworkFile(FileModel):
    """Several hosts."""

    rig_interface: str | None = None
    """Address of the launch host on the rig's own network; private or link-local."""
    hosts: dict[str, str] = {}
    """Address by name of the other hosts, on each of which runs `perception host NAME`; private or link-local."""
    port: Annotated[int, Field(ge=1024, le=60_000)] = 6390
    """Port of each host's gate on that network; Ray's own ports, on loopback only, follow it."""
    max_clock_error_ms: Positive = 5.0
    """How far a host's clock may be from the launch host's before the graph is degraded."""
    curve_keys: str | None = None
    """Folder of `perception keys new`: results go to clients with a key only, encrypted; needed off the machine."""
    open_endpoint: str = ""
    """The endpoint once more, to publish it to other machines without CURVE, on a network that is your own."""


class LaunchFile(FileModel):
    """A launch file."""

    name: str
    """Name of this graph; one graph of a name runs at a time."""
    rig: str
    """A rig's folder: a name in `calibration/`, a path from this file, or `from_log`."""
    ego_motion: str = "none"
    """The Odometry topic that lookups of ego motion read, or `none`, which degrades what needs it."""
    clocks: dict[str, str] = {}
    """Clock -> clock that it is disciplined to, such as `{lidar_ptp: host}`; joins across clocks need it."""
    endpoint: str = "tcp://127.0.0.1:5560"
    """Where results are published: `tcp://127.0.0.1:PORT` or `ipc:///path`."""
    nodes: Annotated[dict[str, NodeFile], Field(min_length=1)]
    """The nodes by name."""
    outputs: dict[str, OutputFile] = {}
    """Topics for planners by their public names."""
    health: dict[str, SensorHealthFile] = {}
    """Sensors by name; sensors that are not named are not required."""
    network: NetworkFile = NetworkFile()
    """Only for several hosts, or outputs that leave the machine."""
    machine_check_ms: Positive = 2000.0
    """How often disks, shared memory, memory and heat are looked at; what is wrong degrades the graph."""
    restart_limit: Annotated[int, Field(ge=0, le=100)] = 5
    """Restarts of one process within a minute before the graph is given up."""


__all__ = [
    "FileModel", "InputFile", "JoinFile", "LaunchFile", "NetworkFile", "NodeFile", "OutputFile", "SensorHealthFile",
]  # fmt: skip
