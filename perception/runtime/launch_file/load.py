"""From a launch file to a checked graph, or to all its faults."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml

from perception.errors import LaunchFileError, did_you_mean
from perception.runtime.graph import Graph, Network, NodeSpec, OnLate, OutputSpec, SensorHealth
from perception.runtime.launch_file.card_checks import check_cards
from perception.runtime.launch_file.faults import Faults
from perception.runtime.launch_file.files import CALIBRATION, apply_sets, validated_in_part
from perception.runtime.launch_file.fusion_checks import FusionChecks
from perception.runtime.launch_file.graph_checks import GraphChecks
from perception.runtime.launch_file.models import LaunchFile, OutputFile, SensorHealthFile
from perception.runtime.launch_file.replay import (
    LOG_NODE,
    Replay,
    log_node,
    take_sources_out,
    with_outputs_resolved,
    without_recorded,
)
from perception.runtime.launch_file.rig_checks import ReadRig, read_rig
from perception.runtime.launch_file.wiring import MS, Wiring, connected, expand_outputs, find_classes, find_topics
from perception.runtime.launch_file.yaml_lines import Document, read_yaml

Mode = Literal["live", "realtime", "lockstep"]


def load_launch(file: Path, *, sets: Sequence[str] = (), replay: Replay | None = None) -> Graph:
    """Read and check a launch file.

    Raises:
        LaunchFileError: it has faults; all of them, a line each.
        UserError: a `--set` that is none, or a recorded topic that the log does not have.
    """
    graph, faults = check_launch(file, sets=sets, replay=replay)
    faults.raise_if_any()
    if graph is None:
        raise LaunchFileError(
            f"{file}: the sensors of this launch file are those of a log, and none is given. "
            f"Expected: perception launch {file.name} --replay LOG"
        )
    return graph


def check_launch(file: Path, *, sets: Sequence[str] = (), replay: Replay | None = None) -> tuple[Graph | None, Faults]:
    """Read a launch file and report everything that is wrong with it.

    The graph is None where there are faults, and where the file's sensors are those of a log that is not given.
    """
    faults = Faults()
    document = read_yaml(file, faults, {("outputs",): "output-twice"})
    if document is None:
        return None, faults
    apply_sets(document, sets)
    place = None if replay is None else take_sources_out(document)
    launch = validated_in_part(
        document, LaunchFile, faults, ("nodes", "outputs", "health"), {"name": "unnamed", "rig": "unknown"}
    )
    if launch is None:
        _check_what_is_left(document, faults)
        return None, faults
    unknown = ("rig",) in document.left_out or (replay is None and _waits_for_a_log(launch))
    found = ReadRig(None) if unknown else _rig(document, launch, faults, replay)
    folder = file.parent.resolve()
    replay = None if replay is None else with_outputs_resolved(replay, launch.outputs)
    wiring = Wiring(
        document, launch, found.rig, faults, (folder,), hidden_sensors=found.hidden, unsound_sensors=found.unsound,
        recorded=frozenset() if replay is None else replay.use_recorded,
    )  # fmt: skip
    find_classes(wiring)
    if replay is None and _waits_for_a_log(launch):
        return None, faults
    source = None if replay is None or place is None else log_node(wiring, replay, place)
    find_topics(wiring)
    expand_outputs(wiring)
    if replay is not None and launch.ego_motion not in wiring.types:
        wiring.launch = launch.model_copy(update={"ego_motion": "none"})  # the log has none; outputs say so
    nodes = [node for name in launch.nodes if (node := connected(wiring, name)) is not None]
    nodes = without_recorded(nodes, wiring.recorded)
    if source is not None:
        nodes.insert(0, source)
    if GraphChecks(wiring, nodes, lossless=replay is not None and replay.mode == "lockstep").run():
        FusionChecks(wiring, nodes, check_cards(wiring, nodes, folder)).run()
    if faults:
        return None, faults
    return _graph(wiring, nodes, replay), faults


def _check_what_is_left(document: Document, faults: Faults) -> None:
    """With a launch file that does not validate, still check the rig that it names."""
    rig = document.values.get("rig")
    if isinstance(rig, str) and rig != "from_log":
        read_rig(_rig_folder(rig, document.file), faults)


def _waits_for_a_log(launch: LaunchFile) -> bool:
    """True where a source is a log that only the command names: what it publishes is not known before."""
    return any(node.node == LOG_NODE and "path" not in node.settings for node in launch.nodes.values())


def _rig_folder(rig: str, file: Path) -> Path:
    beside = file.parent / rig
    return beside if beside.is_dir() else CALIBRATION / rig


def _rig(document: Document, launch: LaunchFile, faults: Faults, replay: Replay | None) -> ReadRig:
    from_log = replay.log.rig if replay is not None else None
    if from_log is not None:
        return ReadRig(from_log)
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
        return ReadRig(None)
    folder = _rig_folder(launch.rig, document.file)
    if not (folder / "rig.yaml").is_file():
        shipped = sorted(path.parent.name for path in CALIBRATION.glob("*/rig.yaml"))
        faults.add(
            "rig-missing", document.file, document.line("rig"), f"there is no rig '{launch.rig}'",
            f"a folder with rig.yaml beside this file, or one of {', '.join(shipped)}",
            did_you_mean(launch.rig, shipped),
        )  # fmt: skip
        return ReadRig(None)
    return read_rig(folder, faults)


def _graph(wiring: Wiring, nodes: list[NodeSpec], replay: Replay | None) -> Graph:
    launch, rig = wiring.launch, wiring.rig
    outputs = tuple(
        OutputSpec(
            topic=entry.topic,
            publish_as=name,
            required=entry.required,
            deadline_ns=None if entry.deadline_ms is None else round(entry.deadline_ms * MS),
            on_late=_on_late(entry),
            fallback_topic=_fallback(wiring, entry),
        )
        for name, entry in launch.outputs.items()
    )
    return Graph(
        name=launch.name, nodes=tuple(nodes), outputs=outputs, sensors=_sensors(wiring), message_types=wiring.types,
        endpoint=launch.endpoint, curve_keys=_beside(wiring, launch.network.curve_keys),
        open_endpoint=launch.network.open_endpoint, rig=rig, calibration="" if rig is None else rig.content_hash,
        mode="live" if replay is None else replay.mode, rate=1.0 if replay is None else replay.rate,
        launch_text=yaml.safe_dump(wiring.document.values, sort_keys=False), search_folders=wiring.search_folders,
        restart_limit=launch.restart_limit, network=_network(launch), machine_check_s=launch.machine_check_ms / 1000,
    )  # fmt: skip


def _on_late(entry: OutputFile) -> OnLate:
    words: tuple[OnLate, ...] = ("publish_partial", "use_last", "skip", "fallback")
    return next(word for word in words if entry.on_late.startswith(word))


def _fallback(wiring: Wiring, entry: OutputFile) -> str:
    """Return the output of the node that stands in, of the same type; the checks refuse what has none."""
    node = entry.on_late.partition(" ")[2].strip()
    wanted = wiring.types.get(entry.topic)
    return next((topic for topic in wiring.outputs.get(node, {}).values() if wiring.types.get(topic) is wanted), "")


def _beside(wiring: Wiring, folder: str | None) -> Path | None:
    """Return a folder as the launch file means it: from where the file lies."""
    return None if folder is None else wiring.document.file.parent / folder


def _network(launch: LaunchFile) -> Network | None:
    network = launch.network
    if network.rig_interface is None or not network.hosts:
        return None
    return Network(network.rig_interface, network.port, network.hosts, round(network.max_clock_error_ms * MS))


def _sensors(wiring: Wiring) -> tuple[SensorHealth, ...]:
    rig = wiring.rig
    found = []
    for name, sensor in rig.sensors.items() if rig is not None else ():
        topics = tuple(topic for topic in wiring.types if topic.startswith(f"{name}/") or topic == name)
        if not topics:
            continue
        entry = wiring.launch.health.get(name, SensorHealthFile(required=False))
        lost_ms = entry.lost_after_ms or max(300.0, 3000.0 / sensor.rate_hz)
        publisher = wiring.launch.nodes.get(wiring.publishers[topics[0]])
        paced = publisher is not None and publisher.paced_by is not None
        late_ns = None if paced else round(2.5e9 / sensor.rate_hz)
        found.append(SensorHealth(name, topics, entry.required, late_ns, round(lost_ms * MS), entry.frozen_after))
    return tuple(found)


def launch_hash(graph: Graph) -> str:
    """Return a hash of the resolved launch file, for the run ids of lockstep replays."""
    return hashlib.sha256(graph.launch_text.encode()).hexdigest()[:8]


__all__ = ["Replay", "check_launch", "launch_hash", "load_launch"]
