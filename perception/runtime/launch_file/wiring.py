"""From the nodes of a launch file to connected NodeSpecs: classes, settings, inputs, outputs, joins."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from perception.errors import LaunchFileError, PerceptionError, did_you_mean
from perception.geometry.rig import Rig
from perception.messages import Message
from perception.runtime.graph import Edge, JoinSettings, NodeSpec
from perception.runtime.launch_file.faults import Faults
from perception.runtime.launch_file.files import validated
from perception.runtime.launch_file.models import InputFile, JoinFile, LaunchFile, NodeFile
from perception.runtime.launch_file.yaml_lines import Document
from perception.runtime.node import Join, Lookup, Node, NodeConfig, NodeSetup, On, Source
from perception.runtime.node_factory import node_class

MS = 1_000_000
DEFAULT_HISTORY_MS = 1000.0


@dataclass
class Wiring:
    """What is known while a launch file is resolved."""

    document: Document
    launch: LaunchFile
    rig: Rig | None
    faults: Faults
    search_folders: tuple[Path, ...]
    classes: dict[str, type[Node]] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    configs: dict[str, NodeConfig] = field(default_factory=dict)
    types: dict[str, type[Message]] = field(default_factory=dict)
    """Message type by topic."""
    publishers: dict[str, str] = field(default_factory=dict)
    """Node by topic."""
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    """Topic by port, by node."""

    hidden_sensors: frozenset[str] = frozenset()
    """Sensors of the rig that were left out for their faults."""
    unsound_sensors: frozenset[str] = frozenset()
    """Sensors whose numbers have faults: what follows from them is not reported again."""
    recorded: frozenset[str] = frozenset()
    """Topics that come from the log of a replay although a node publishes them."""
    faulty: set[str] = field(default_factory=set)
    """Nodes with faults: what follows from them is not reported again."""

    def hidden_nodes(self) -> set[str]:
        """Return the nodes whose own faults hide what they publish."""
        return self.document.lost("nodes") | {name for name in self.launch.nodes if name not in self.outputs}

    def hides_sensors(self) -> bool:
        """True where a fault of the rig or of a source hides which sensors publish."""
        nodes = self.document.values.get("nodes")
        entries = [nodes.get(name) for name in self.hidden_nodes()] if isinstance(nodes, dict) else []
        return self.rig is None or any(not (isinstance(entry, dict) and entry.get("inputs")) for entry in entries)

    def is_knowable(self, topic: str) -> bool:
        """False where a topic may be that of a sensor or node whose own fault hides what it publishes."""
        first, hidden = topic.partition("/")[0], self.hidden_nodes()
        nodes = self.document.values.get("nodes")
        entries = [nodes.get(name) for name in hidden] if isinstance(nodes, dict) else []
        renamed = [entry.get("outputs") for entry in entries if isinstance(entry, dict)]
        if first in hidden or any(isinstance(topics, dict) and topic in topics.values() for topics in renamed):
            return False
        of_a_sensor = first not in self.launch.nodes
        return not (of_a_sensor and self.hides_sensors()) and not self.hidden_sensors & {*topic.split("/")}

    def add(self, code: str, path: tuple[str | int, ...], what: str, expected: str, hint: str = "") -> None:
        """Report a fault at a key path of the launch file."""
        self.faulty |= {str(path[1])} if path[:1] == ("nodes",) and len(path) > 1 else set()
        self.faults.add(code, self.document.file, self.document.line(*path), what, expected, hint)


def find_classes(wiring: Wiring) -> None:
    """Find each node's class and validate its settings."""
    for name, entry in wiring.launch.nodes.items():
        target = _target(entry.node, wiring.document.file.parent, wiring, name)
        if target is None:
            continue
        try:
            found = node_class(target)
        except LaunchFileError as error:
            wiring.add("not-a-node", ("nodes", name, "node"), str(error), "a class that derives from perception's Node")
            continue
        wiring.targets[name], wiring.classes[name] = target, found
        config = validated(wiring.document, found.Config, wiring.faults, ("nodes", name, "settings"))
        if config is not None:
            wiring.configs[name] = config


def _target(node: str, folder: Path, wiring: Wiring, name: str) -> str | None:
    place, colon, cls = node.partition(":")
    if place.endswith(".py"):
        file = (folder / place).resolve()
        if not (file.is_file() and colon):
            wiring.add(
                "unknown-node", ("nodes", name, "node"), f"'{node}' is not there", "./file.py:Class beside this file"
            )
            return None
        return f"{file}:{cls}"
    if colon:
        return node
    shipped = shipped_nodes()
    if node in shipped:
        return node_target(node)
    expected = f"one of {', '.join(shipped)}, package.module:Class or ./file.py:Class"
    wiring.add(
        "unknown-node", ("nodes", name, "node"), f"there is no node '{node}'", expected, did_you_mean(node, shipped)
    )
    return None


def node_target(node: str) -> str:
    """Return "module:Class" of a shipped node."""
    return f"perception.nodes.{node}:{''.join(part.capitalize() for part in node.split('_'))}"


def shipped_nodes() -> list[str]:
    """Return the names of the shipped nodes."""
    spec = importlib.util.find_spec("perception.nodes")
    folder = Path(next(iter(spec.submodule_search_locations or ()))) if spec is not None else Path()
    return sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))


def find_topics(wiring: Wiring) -> None:
    """Work out what every node publishes: sources first, since outputs may be one per topic of an input."""
    written = [name for name in wiring.classes if name in wiring.launch.nodes]  # the log of a replay is not
    order = sorted(written, key=lambda name: not issubclass(wiring.classes[name], Source))
    for name in order:
        cls = wiring.classes[name]
        _expand_inputs(wiring, name)
        entry = wiring.launch.nodes[name]
        if issubclass(cls, Source):
            if name not in wiring.configs:
                continue
            try:
                topics = cls.topics(wiring.configs[name], _setup(wiring, name))
            except PerceptionError as error:
                if not wiring.hidden_sensors:
                    wiring.add("source-settings", ("nodes", name, "settings"), str(error), "settings that fit the rig")
                continue
            published = {topic: (topic, message_type) for topic, message_type in topics.items()}
        else:
            published = _ports_of(wiring, name, cls, entry)
        known = {port.partition("/")[0] for port in cls.outputs()} if not issubclass(cls, Source) else set(published)
        for port in entry.outputs:
            if port not in known:
                expected = f"one of {', '.join(sorted(known)) or 'none'}"
                path = ("nodes", name, "outputs", port)
                wiring.add(
                    "unknown-output", path, f"'{name}' has no output '{port}'", expected, did_you_mean(port, known)
                )
        wiring.outputs[name] = {port: topic for port, (topic, _) in published.items()}
        for topic, message_type in published.values():
            if topic in wiring.recorded:
                continue
            if topic in wiring.publishers:
                other = wiring.publishers[topic]
                wiring.add(
                    "topic-twice", ("nodes", name), f"'{name}' and '{other}' both publish '{topic}'", "one publisher"
                )
                continue
            wiring.publishers[topic], wiring.types[topic] = name, message_type


def _expand_inputs(wiring: Wiring, name: str) -> None:
    """Put the topics in place of patterns such as `cam_*/image`, which match what sources and nodes above publish."""
    entry = wiring.launch.nodes[name]
    inputs: dict[str, str | list[str] | InputFile] = {}
    for key, given in entry.inputs.items():
        full = input_file(given)
        inputs[key] = full.model_copy(update={"topics": matching(full.topics, wiring.types)})
    wiring.launch.nodes[name] = entry.model_copy(update={"inputs": inputs})


def expand_outputs(wiring: Wiring) -> None:
    """Put one output in place of each pattern: `"*/mask": {topic: segmenter/*/mask}` is one for each camera."""
    for name, entry in list(wiring.launch.outputs.items()):
        if "*" not in entry.topic:
            continue
        before, _, after = entry.topic.partition("*")
        found_topics = matching([entry.topic], wiring.types)
        if len(found_topics) > 1 and ("*" not in name or "*" in after):
            wiring.add(
                "output-twice", ("outputs", name), f"'{entry.topic}' is {len(found_topics)} topics",
                "one * in the topic and one in the name, for a name each",
            )  # fmt: skip
            del wiring.launch.outputs[name]
            continue
        for topic in found_topics:
            found = topic.removeprefix(before).removesuffix(after)
            wiring.launch.outputs[name.replace("*", found)] = entry.model_copy(update={"topic": topic})
        if "*" in name:
            del wiring.launch.outputs[name]


def matching(topics: Sequence[str], published: Collection[str]) -> list[str]:
    """Return the topics with patterns replaced by what they match; one that matches nothing stays as it is."""
    found: dict[str, None] = {}
    for topic in topics:
        matches = [name for name in published if fnmatchcase(name, topic)] if "*" in topic else []
        found |= dict.fromkeys(matches or [topic])
    return list(found)


def _setup(wiring: Wiring, name: str) -> NodeSetup:
    return NodeSetup(name=name, rig=wiring.rig, inputs={}, search_folders=wiring.search_folders)


def _ports_of(wiring: Wiring, name: str, cls: type[Node], entry: NodeFile) -> dict[str, tuple[str, type[Message]]]:
    found: dict[str, tuple[str, type[Message]]] = {}
    for port, out in cls.outputs().items():
        if out.per is None:
            found[port] = (entry.outputs.get(port, f"{name}/{port}"), out.message_type)
            continue
        for topic in input_file(entry.inputs.get(out.per, [])).topics:
            sensor = topic.removeprefix("truth/").rpartition("/")[0] or topic  # a sensor's truth is of the sensor
            pattern = entry.outputs.get(port, f"{name}/{{sensor}}/{port}")
            found[f"{port}/{sensor}"] = (pattern.replace("{sensor}", sensor), out.message_type)
    return found


def input_file(given: str | list[str] | InputFile) -> InputFile:
    """Return an input's settings in full, however they were written."""
    return given if isinstance(given, InputFile) else InputFile(topics=[given] if isinstance(given, str) else given)


def connected(wiring: Wiring, name: str) -> NodeSpec | None:
    """Return the connected node; None where a fault leaves nothing to go on with."""
    if name not in wiring.outputs:
        return None
    config = wiring.configs.get(name, NodeConfig())  # of faulty settings only the wiring can be checked
    cls, entry = wiring.classes[name], wiring.launch.nodes[name]
    ports = cls.inputs()
    _check_input_names(wiring, name, ports)
    edges: list[Edge] = []
    joins: dict[str, JoinSettings] = {}
    for port, declared in ports.items():
        if isinstance(declared, Join):
            edges += _join_edges(wiring, name, port, declared)
            joins[port] = _join_settings(declared, entry.joins.get(port))
        elif isinstance(declared, Lookup):
            edges += _lookup_edges(wiring, name, port, declared)
        elif isinstance(declared, On):
            edges += _on_edges(wiring, name, port, declared)
    for join in entry.joins:
        if join not in joins:
            wiring.add(
                "unknown-input",
                ("nodes", name, "joins", join),
                f"'{name}' has no join '{join}'",
                f"one of {', '.join(joins) or 'none'}",
                did_you_mean(join, joins),
            )
    return NodeSpec(
        name=name, target=wiring.targets[name], config=config, process=entry.process or name,
        host=entry.host, edges=tuple(edges), outputs=wiring.outputs[name], joins=joins, paced_by=entry.paced_by,
        threads=entry.threads, cores=tuple(entry.cores), is_source=issubclass(cls, Source),
        own_code=not wiring.targets[name].startswith("perception."),
    )  # fmt: skip


def _check_input_names(wiring: Wiring, name: str, ports: Mapping[str, Any]) -> None:
    known: set[str] = set()
    for port, declared in ports.items():
        known |= {f"{port}.{member}" for member in declared.members} if isinstance(declared, Join) else {port}
    for given in wiring.launch.nodes[name].inputs:
        if given not in known:
            expected = f"one of {', '.join(sorted(known)) or 'none'}"
            path = ("nodes", name, "inputs", given)
            wiring.add("unknown-input", path, f"'{name}' has no input '{given}'", expected, did_you_mean(given, known))


def _on_edges(wiring: Wiring, name: str, port: str, declared: On[Any]) -> list[Edge]:
    given = wiring.launch.nodes[name].inputs.get(port)
    if given is None and declared.optional:
        return []
    if given is None:
        what = f"input '{port}' of '{name}' reads nothing"
        wiring.add("input-missing", ("nodes", name), what, f"inputs: {{{port}: TOPIC}}")
        return []
    entry = input_file(given)
    return [
        Edge(
            topic, port, declared.message_type, keep=entry.keep or declared.keep, bound=entry.bound or declared.bound,
            holds=declared.holds, offset_ns=round(entry.offset_ms * MS),
        )
        for topic in entry.topics
        if not (declared.optional and "*" in topic)  # a pattern that matched nothing: left unconnected
        and _topic_fits(wiring, name, port, topic, declared.message_type)
    ]  # fmt: skip


def _lookup_edges(wiring: Wiring, name: str, port: str, declared: Lookup[Any]) -> list[Edge]:
    given = wiring.launch.nodes[name].inputs.get(port)
    topic = input_file(given).topics[0] if given is not None else wiring.launch.ego_motion
    if topic == "none" or (given is None and not issubclass(wiring.types.get(topic, Message), declared.message_type)):
        return []  # nothing to look up: `at` answers None; a wrong ego_motion is a fault of its own
    fits = _topic_fits(wiring, name, port, topic, declared.message_type)
    return [Edge(topic, port, declared.message_type, keep="all", bound=1000)] if fits else []


def _join_edges(wiring: Wiring, name: str, port: str, declared: Join) -> list[Edge]:
    edges: list[Edge] = []
    inputs = wiring.launch.nodes[name].inputs
    for index, (member, kind) in enumerate(declared.members.items()):
        key = f"{port}.{member}"
        given = inputs.get(key)
        path = ("nodes", name, "inputs", key)
        if given is None:
            if not kind.optional:
                wiring.add(
                    "input-missing", ("nodes", name), f"'{key}' of '{name}' reads nothing", f"inputs: {{{key}: TOPIC}}"
                )
            continue
        entry = input_file(given)
        if entry.keep == "latest":
            wiring.add("join-latest", path, f"'{key}' is keep: latest", "no keep: a join keeps a history")
        if (index == 0 or not kind.many) and len(entry.topics) != 1:
            wiring.add("join-reference", path, f"'{key}' reads {len(entry.topics)} topics", "exactly one topic")
            continue
        edges += [
            Edge(
                topic, key, kind.message_type, keep="all", bound=entry.bound or 4, offset_ns=round(entry.offset_ms * MS)
            )
            for topic in entry.topics
            if _topic_fits(wiring, name, key, topic, kind.message_type)
        ]
    return edges


def _topic_fits(wiring: Wiring, name: str, key: str, topic: str, wanted: type[Message]) -> bool:
    path = ("nodes", name, "inputs", key)
    if topic not in wiring.types:
        if not wiring.is_knowable(topic):
            return False
        published = ", ".join(sorted(wiring.types))
        wiring.add(
            "dangling-topic", path, f"'{name}' reads '{topic}', which no node publishes", f"one of {published}",
            did_you_mean(topic, wiring.types),
        )  # fmt: skip
        return False
    if not issubclass(wiring.types[topic], wanted):
        wiring.add(
            "topic-type", path, f"'{topic}' carries {wiring.types[topic].__name__}", f"{wanted.__name__} for '{key}'"
        )
        return False
    return True


def _join_settings(declared: Join, entry: JoinFile | None) -> JoinSettings:
    entry = entry or JoinFile()
    tolerance = entry.tolerance_ms or declared.tolerance_ms
    deadline = entry.deadline_ms or declared.deadline_ms
    history = entry.history_ms or declared.history_ms or DEFAULT_HISTORY_MS + deadline
    return JoinSettings(
        round(tolerance * MS), round(deadline * MS), entry.on_missing or declared.on_missing, round(history * MS)
    )


__all__ = [
    "Wiring", "connected", "expand_outputs", "find_classes", "find_topics", "input_file", "node_target",
    "shipped_nodes",
]  # fmt: skip
