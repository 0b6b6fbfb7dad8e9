"""A log in place of the sources of a launch file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from perception.errors import LaunchFileError, PerceptionError, UserError, did_you_mean
from perception.messages import Message
from perception.runtime.graph import Graph, NodeSpec
from perception.runtime.launch_file.models import OutputFile
from perception.runtime.launch_file.wiring import Wiring, node_target
from perception.runtime.launch_file.yaml_lines import Document
from perception.runtime.node import Node, NodeSetup, Source
from perception.runtime.node_factory import node_class

if TYPE_CHECKING:
    from perception.logs.log import Log

LOG_NODE = "log_replay"
SHIPPED_SOURCES = ("simulator", LOG_NODE)
OWN_TOPICS = frozenset({"status", "state"})
"""Topics that the runtime publishes itself; those of the log are another run's."""


@dataclass(frozen=True)
class Replay:
    """How a log is replayed."""

    log: Log
    mode: Literal["realtime", "lockstep"] = "realtime"
    rate: float = 1.0
    from_ns: int | None = None
    until_ns: int | None = None
    loop: bool = False
    remap: dict[str, str] = field(default_factory=dict)
    """New topic name by the log's."""
    use_recorded: frozenset[str] = frozenset()
    """Topics, or names of outputs, that are taken from the log although a node of the graph makes them."""
    assume_rate_hz: float = 10.0


@dataclass(frozen=True)
class LogPlace:
    """Where the log stands in the graph: in the place of the sources that the launch file names."""

    name: str = "log"
    process: str = "log"
    paced_by: str | None = None
    sources: tuple[tuple[str, dict[str, Any]], ...] = ()
    """Names and entries of the sources that stood there."""


def take_sources_out(document: Document) -> LogPlace:
    """Remove the sources from a launch file, with the health of their sensors, and return the place that is free."""
    nodes = document.values.get("nodes")
    place = LogPlace()
    for name, entry in list(nodes.items()) if isinstance(nodes, dict) else ():
        if not isinstance(entry, dict) or not _is_source(entry, document):
            continue
        del document.values["nodes"][name]
        paced_by = entry.get("paced_by") or place.paced_by
        place = replace(
            place, paced_by=paced_by if isinstance(paced_by, str) else None,
            sources=(*place.sources, (str(name), entry)),
        )  # fmt: skip
        if entry.get("node") == LOG_NODE:
            place = replace(place, name=str(name), process=str(entry.get("process") or name))
    health = document.values.get("health")
    if isinstance(health, dict):
        health.clear()
    return place


def _is_source(entry: dict[str, Any], document: Document) -> bool:
    target = str(entry.get("node", ""))
    if target in SHIPPED_SOURCES:
        return True
    if entry.get("inputs") or ":" not in target:
        return False
    try:
        return issubclass(_class_of(target, document), Source)
    except LaunchFileError:
        return True  # a driver whose packages this machine does not have


def _class_of(target: str, document: Document) -> type[Node]:
    place, colon, name = target.partition(":")
    if not colon:
        return node_class(node_target(target))
    return node_class(f"{(document.file.parent / place).resolve()}:{name}" if place.endswith(".py") else target)


def unplugged_topics(wiring: Wiring, replay: Replay, place: LogPlace) -> dict[str, type[Message]]:
    """Return what the sources in whose place the log stands publish, and the log does not have.

    Their sensors were unplugged, or the simulation ends here: the graph runs without, as it would on the road, and its
    state says so. What a source cannot say, as of a rig that has other sensors, is left to the checks of the graph.
    """
    found: dict[str, type[Message]] = {}
    for name, entry in place.sources:
        if entry.get("node") == LOG_NODE:
            continue
        setup = NodeSetup(name=name, rig=wiring.rig, inputs={}, search_folders=wiring.search_folders)
        try:
            cls = _class_of(str(entry.get("node")), wiring.document)
            if issubclass(cls, Source):
                found |= cls.topics(cls.Config.model_validate(entry.get("settings") or {}), setup)
        except (PerceptionError, ValidationError):
            continue
    there = {replay.remap.get(topic, topic) for topic in replay.log.topics()}
    given = {*there, *OWN_TOPICS, wiring.launch.ego_motion}
    return {topic: kind for topic, kind in found.items() if topic not in given}


def log_node(wiring: Wiring, replay: Replay, place: LogPlace) -> NodeSpec:
    """Return the source that reads the log, and publish its topics."""
    target = f"perception.nodes.{LOG_NODE}:LogReplay"
    cls = node_class(target)
    made = list(_made_topics(wiring))
    topics: dict[str, type[Message]] = {}
    for topic, message_type in replay.log.topics().items():
        name = replay.remap.get(topic, topic)
        is_made = any(fnmatchcase(name, pattern) for pattern in made)
        if name not in OWN_TOPICS and (not is_made or name in replay.use_recorded):
            topics[name] = message_type
    first, *more = (path.resolve() for path in replay.log.paths)
    config = cls.Config.model_validate(
        {
            "path": first, "more": tuple(more), "from_ns": replay.from_ns, "until_ns": replay.until_ns,
            "loop": replay.loop, "remap": replay.remap, "topics": tuple(topics),
            "assume_rate_hz": replay.assume_rate_hz,
        }
    )  # fmt: skip
    published = topics | unplugged_topics(wiring, replay, place)
    for topic, message_type in published.items():
        wiring.publishers[topic], wiring.types[topic] = place.name, message_type
    wiring.outputs[place.name] = {topic: topic for topic in published}
    wiring.classes[place.name] = cls
    return NodeSpec(
        name=place.name, target=target, config=config, process=place.process, outputs=wiring.outputs[place.name],
        paced_by=None if replay.mode == "lockstep" else place.paced_by, is_source=True,
    )  # fmt: skip


def missing_topics(graph: Graph, replay: Replay) -> list[str]:
    """Return the topics of a replayed graph that its own sources would publish and the log does not have."""
    there = {replay.remap.get(topic, topic) for topic in replay.log.topics()}
    return sorted({topic for node in graph.nodes if node.is_source for topic in node.outputs.values()} - there)


def _made_topics(wiring: Wiring) -> Iterator[str]:
    """Yield what the nodes publish, with * for a sensor: they make it anew, so the log's is not replayed."""
    for name, found in wiring.classes.items():
        renamed = wiring.launch.nodes[name].outputs
        for port, out in found.outputs().items():
            usual = f"{name}/{port}" if out.per is None else f"{name}/{{sensor}}/{port}"
            yield renamed.get(port, usual).replace("{sensor}", "*")


def with_outputs_resolved(replay: Replay, outputs: Mapping[str, OutputFile]) -> Replay:
    """Return the replay with `use_recorded` as topics, where it names outputs of the graph.

    A log that was recorded off the wire holds an output under its published name, and gets the name of its topic.

    Raises:
        UserError: the log has no such topic.
    """
    held = {replay.remap.get(topic, topic): topic for topic in replay.log.topics()}
    remap, recorded = dict(replay.remap), set()
    for name in replay.use_recorded:
        topic = outputs[name].topic if name in outputs else name
        if topic not in held and name not in held:
            raise UserError(f"--use-recorded {name}: the log has no such topic.{did_you_mean(name, held)}")
        if topic not in held:
            remap[held[name]] = topic
        recorded.add(topic)
    return replace(replay, remap=remap, use_recorded=frozenset(recorded))


def without_recorded(nodes: Sequence[NodeSpec], recorded: frozenset[str]) -> list[NodeSpec]:
    """Leave out the outputs that are taken from the log, and the nodes that then have nothing to give."""
    kept: list[NodeSpec] = []
    gone: set[str] = set()
    for node in nodes:
        left = {port: topic for port, topic in node.outputs.items() if topic not in recorded}
        if node.is_source or left or not node.outputs:
            kept.append(node if node.is_source else replace(node, outputs=left))
        else:
            gone.add(node.name)
    return [replace(node, paced_by=None) if node.paced_by in gone else node for node in kept]


__all__ = [
    "LOG_NODE", "LogPlace", "Replay", "log_node", "missing_topics", "take_sources_out", "unplugged_topics",
    "with_outputs_resolved", "without_recorded",
]  # fmt: skip
