"""From a launch file to a checked graph, or to all its faults."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from perception.geometry.rig import Rig
from perception.messages import Message
from perception.runtime.graph import Graph, NodeSpec, OutputSpec, SensorHealth
from perception.runtime.launch_file.card_checks import check_cards
from perception.runtime.launch_file.faults import Faults
from perception.runtime.launch_file.files import CALIBRATION, apply_sets, validated
from perception.runtime.launch_file.graph_checks import GraphChecks
from perception.runtime.launch_file.models import LaunchFile, SensorHealthFile
from perception.runtime.launch_file.rig_checks import read_rig
from perception.runtime.launch_file.wiring import MS, Wiring, connected, find_classes, find_topics
from perception.runtime.launch_file.yaml_lines import Document, read_yaml

if TYPE_CHECKING:
    from perception.logs.log import Log

Mode = Literal["live", "realtime", "lockstep"]


@dataclass(frozen=True)
class Replay:
    """A log in place of the sources of a launch file."""

    log: Log
    mode: Mode = "realtime"
    rate: float = 1.0
    from_ns: int | None = None
    until_ns: int | None = None
    loop: bool = False
    remap: dict[str, str] = field(default_factory=dict)
    """New topic name by the log's."""
    use_recorded: frozenset[str] = frozenset()
    """Topics taken from the log although a node of the graph publishes them."""
    assume_rate_hz: float = 10.0


def load_launch(file: Path, *, sets: Sequence[str] = (), replay: Replay | None = None) -> Graph:
    """Read and check a launch file.

    Raises:
        LaunchFileError: it has faults; all of them, a line each.
        UserError: a `--set` that is none.
    """
    graph, faults = check_launch(file, sets=sets, replay=replay)
    faults.raise_if_any()
    assert graph is not None
    return graph


def check_launch(file: Path, *, sets: Sequence[str] = (), replay: Replay | None = None) -> tuple[Graph | None, Faults]:
    """Read a launch file and report everything that is wrong with it; the graph is None where there are faults."""
    faults = Faults()
    document = read_yaml(file, faults)
    if document is None:
        return None, faults
    apply_sets(document, sets)
    if replay is not None:
        _take_sources_out(document)
    launch = validated(document, LaunchFile, faults)
    if launch is None:
        _check_what_is_left(document, faults)
        return None, faults
    rig = _rig(document, launch, faults, replay)
    folder = file.parent.resolve()
    wiring = Wiring(document, launch, rig, faults, (folder,))
    find_classes(wiring)
    log_node = _log_node(wiring, replay) if replay is not None else None
    find_topics(wiring)
    nodes = [node for name in launch.nodes if (node := connected(wiring, name)) is not None]
    if log_node is not None:
        nodes.insert(0, log_node)
    if len(nodes) == len(launch.nodes) + (log_node is not None):
        GraphChecks(wiring, nodes).run()
        check_cards(wiring, nodes, folder)
    if faults:
        return None, faults
    return _graph(wiring, nodes, replay), faults


def _check_what_is_left(document: Document, faults: Faults) -> None:
    """With a launch file that does not validate, still check the rig that it names."""
    rig = document.values.get("rig")
    if isinstance(rig, str) and rig != "from_log":
        read_rig(_rig_folder(rig, document.file), faults)


def _rig_folder(rig: str, file: Path) -> Path:
    beside = file.parent / rig
    return beside if beside.is_dir() else CALIBRATION / rig


def _rig(document: Document, launch: LaunchFile, faults: Faults, replay: Replay | None) -> Rig | None:
    from_log = replay.log.rig if replay is not None else None
    if from_log is not None:
        return from_log
    if launch.rig == "from_log":
        if replay is None:
            faults.add(
                "rig-missing",
                document.file,
                document.line("rig"),
                "rig: from_log without a log",
                "perception launch FILE --replay LOG",
            )
        else:
            faults.add(
                "rig-missing",
                document.file,
                document.line("rig"),
                f"{replay.log.path} holds no calibration",
                "rig: FOLDER",
            )
        return None
    found = read_rig(_rig_folder(launch.rig, document.file), faults)
    return None if found is None else found[0]


def _take_sources_out(document: Document) -> None:
    """A log takes the place of every source: nodes that read nothing and have no inputs."""
    nodes = document.values.get("nodes")
    if isinstance(nodes, dict):
        sources = {"simulator", "log_replay"}
        for name in [n for n, entry in nodes.items() if isinstance(entry, dict) and entry.get("node") in sources]:
            del nodes[name]
    health = document.values.get("health")
    if isinstance(health, dict):
        health.clear()  # the log's sensors are others


def _log_node(wiring: Wiring, replay: Replay) -> NodeSpec:
    """Return the source that reads the log, and publish its topics."""
    from perception.runtime.node_factory import node_class

    target = "perception.nodes.log_replay:LogReplay"
    cls = node_class(target)
    made = {f"{name}/{port}" for name, found in wiring.classes.items() for port in found.outputs()}
    skipped = {"status", "state"}
    topics: dict[str, type[Message]] = {}
    for topic, message_type in replay.log.topics().items():
        name = replay.remap.get(topic, topic)
        if name in skipped or (name in made and name not in replay.use_recorded):
            continue
        topics[name] = message_type
    config: Any = cls.Config.model_validate(
        {
            "path": str(replay.log.path), "from_ns": replay.from_ns, "until_ns": replay.until_ns, "loop": replay.loop,
            "remap": replay.remap, "topics": tuple(topics), "assume_rate_hz": replay.assume_rate_hz,
        }
    )  # fmt: skip
    for topic, message_type in topics.items():
        wiring.publishers[topic], wiring.types[topic] = "log", message_type
    wiring.outputs["log"] = {topic: topic for topic in topics}
    wiring.classes["log"] = cls
    return NodeSpec(
        name="log", target=target, config=config, process="log", outputs=wiring.outputs["log"], is_source=True
    )


def _graph(wiring: Wiring, nodes: list[NodeSpec], replay: Replay | None) -> Graph:
    launch, rig = wiring.launch, wiring.rig
    outputs = tuple(
        OutputSpec(
            entry.topic, name, entry.required, None if entry.deadline_ms is None else round(entry.deadline_ms * MS)
        )
        for name, entry in launch.outputs.items()
    )
    nodes = [_with_recorded(node, replay) for node in nodes]
    return Graph(
        name=launch.name, nodes=tuple(nodes), outputs=outputs, sensors=_sensors(wiring), message_types=wiring.types,
        endpoint=launch.endpoint, rig=rig, calibration="" if rig is None else rig.content_hash,
        mode="live" if replay is None else replay.mode, rate=1.0 if replay is None else replay.rate,
        launch_text=yaml.safe_dump(wiring.document.values, sort_keys=False), search_folders=wiring.search_folders,
        restart_limit=launch.restart_limit, rig_interface=launch.network.rig_interface,
    )  # fmt: skip


def _with_recorded(node: NodeSpec, replay: Replay | None) -> NodeSpec:
    """Leave out the outputs that are taken from the log instead."""
    if replay is None or node.is_source or not replay.use_recorded:
        return node
    kept = {port: topic for port, topic in node.outputs.items() if topic not in replay.use_recorded}
    return replace(node, outputs=kept)


def _sensors(wiring: Wiring) -> tuple[SensorHealth, ...]:
    rig = wiring.rig
    found = []
    for name, sensor in rig.sensors.items() if rig is not None else ():
        topics = tuple(topic for topic in wiring.types if topic.startswith(f"{name}/") or topic == name)
        if not topics:
            continue
        entry = wiring.launch.health.get(name, SensorHealthFile(required=False))
        lost_ms = entry.lost_after_ms or max(300.0, 3000.0 / sensor.rate_hz)
        found.append(
            SensorHealth(name, topics, entry.required, sensor.rate_hz, round(lost_ms * MS), entry.frozen_after)
        )
    return tuple(found)


def launch_hash(graph: Graph) -> str:
    """Return a hash of the resolved launch file, for the run ids of lockstep replays."""
    return hashlib.sha256(graph.launch_text.encode()).hexdigest()[:8]


__all__ = ["Replay", "check_launch", "launch_hash", "load_launch"]
