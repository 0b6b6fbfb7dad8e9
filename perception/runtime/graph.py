"""The graph that runs: what a launch file becomes once it is checked, and all that a runner needs to know.

Runners read this and nothing else; they never see YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from perception.messages import Message
from perception.runtime.node import Keep, NodeConfig, OnMissing

if TYPE_CHECKING:
    from perception.geometry.rig import Rig


OnLate: TypeAlias = Literal["publish_partial", "use_last", "skip", "fallback"]


@dataclass(frozen=True)
class Edge:
    """One topic that one input of a node reads."""

    topic: str
    input: str
    """The port, or "port.member" for a member of a join."""
    message_type: type[Message]
    keep: Keep = "latest"
    bound: int = 10
    holds: int = 0
    offset_ns: int = 0
    """Added to the stamps of this input before joining."""


@dataclass(frozen=True)
class JoinSettings:
    """A join's settings after the launch file had its say."""

    tolerance_ns: int
    deadline_ns: int
    on_missing: OnMissing
    history_ns: int


@dataclass(frozen=True)
class NodeSpec:
    """One node: which class, with which settings, where, and connected to what."""

    name: str
    target: str
    """"package.module:Class", or "/path/file.py:Class" for the user's own file."""
    config: NodeConfig
    process: str
    host: str = "local"
    edges: tuple[Edge, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Topic by output port; for a source, every topic by its own name."""
    joins: Mapping[str, JoinSettings] = field(default_factory=dict)
    paced_by: str | None = None
    """For a source topic's readers: the node whose readiness admits instants (see DESIGN, Queues)."""
    threads: int = 1
    cores: tuple[int, ...] = ()
    """Cores that its process may use; empty for all."""
    is_source: bool = False
    own_code: bool = False


@dataclass(frozen=True)
class OutputSpec:
    """A topic that planners subscribe to."""

    topic: str
    publish_as: str
    required: bool = False
    deadline_ns: int | None = None
    on_late: OnLate = "publish_partial"
    fallback_topic: str = ""
    """Topic of the same type that stands in, where `on_late` is `fallback`."""


@dataclass(frozen=True)
class SensorHealth:
    """When a sensor counts as late, lost or frozen."""

    sensor: str
    topics: tuple[str, ...]
    required: bool
    late_after_ns: int | None
    """None where the source gives out only what its reader admits, so that its own pace is not seen."""
    lost_after_ns: int
    frozen_after: int = 5
    """Equal payloads in a row."""


@dataclass(frozen=True)
class Network:
    """The hosts of a rig beside the launch host."""

    rig_interface: str
    """Address of the launch host on the rig's own network."""
    port: int
    """Port of every host's gate on that network; Ray's own ports on loopback follow it."""
    hosts: Mapping[str, str]
    """Address by name."""
    max_clock_error_ns: int


LOCAL = "local"
"""The launch host."""


@dataclass(frozen=True)
class Graph:
    """A checked graph."""

    name: str
    nodes: tuple[NodeSpec, ...]
    outputs: tuple[OutputSpec, ...]
    sensors: tuple[SensorHealth, ...]
    message_types: Mapping[str, type[Message]]
    """Type by topic, all topics."""
    endpoint: str
    """Where results are published: ipc://... or tcp://..."""
    curve_keys: Path | None = None
    """Folder with the publisher's CURVE keys and those of its clients."""
    open_endpoint: str = ""
    """The endpoint once more, where it shall be reachable from other machines without CURVE."""
    rig: Rig | None = None
    calibration: str = ""
    """Content hash of rig and calibration."""
    mode: Literal["live", "realtime", "lockstep"] = "live"
    rate: float = 1.0
    duration_ns: int | None = None
    """In lockstep on processes: sensor time from the first message at which the sources end; None for all."""
    launch_text: str = ""
    """The resolved launch file, as it is stored in recordings."""
    search_folders: tuple[Path, ...] = ()
    restart_limit: int = 5
    """Restarts of one process within restart_window_s before it is given up."""
    restart_window_s: float = 60.0
    machine_check_s: float = 2.0
    """How often disks, memory and heat are looked at."""
    network: Network | None = None
    """None where the launch host is the only one."""

    def node(self, name: str) -> NodeSpec:
        return next(node for node in self.nodes if node.name == name)

    def processes(self) -> dict[str, tuple[NodeSpec, ...]]:
        """Nodes by process, in the order of the launch file."""
        names = dict.fromkeys(node.process for node in self.nodes)
        return {name: tuple(node for node in self.nodes if node.process == name) for name in names}

    def hosts(self) -> dict[str, str]:
        """Host by process."""
        return {node.process: node.host for node in self.nodes}

    def other_hosts(self) -> tuple[str, ...]:
        """The hosts beside the launch host that run something."""
        return tuple(dict.fromkeys(node.host for node in self.nodes if node.host != LOCAL))

    def host_index(self, host: str) -> int:
        """Return the place of a host in the launch file, 0 for the launch host."""
        return 0 if host == LOCAL or self.network is None else list(self.network.hosts).index(host) + 1

    def address_of(self, host: str) -> str:
        """Return the address of a host on the rig's network."""
        assert self.network is not None
        return self.network.rig_interface if host == LOCAL else self.network.hosts[host]
