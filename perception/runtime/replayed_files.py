"""What a replay without a launch file takes from the recording: the launch file, and by it weights and own code.

Weights are those that the recording was made with, found by their hash: at their address, beside the log, where
PERCEPTION_WEIGHTS and the user's cache have them, among the bundled ones, or inside the log. Own code runs only from
where it lies on this machine: a log is data, and nothing in it is run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from perception.errors import LogError, UserError, WeightsError
from perception.networks.address import Address, file_sha256, find_weights, parse_address, search_folders, user_cache
from perception.networks.whole_file import write_whole
from perception.runtime.recorded_files import stored_weights

if TYPE_CHECKING:
    from perception.logs.log import Log


@dataclass
class RecordedLaunch:
    """The launch file of a log, ready to be loaded, and what a person should know of it."""

    file: Path
    notes: list[str] = field(default_factory=list)


def recorded_launch(log: Log, folder: Path) -> RecordedLaunch | None:
    """Write the launch file that a log holds into a folder; None where the log holds none.

    Raises:
        UserError: weights or code that it was recorded with are nowhere; the text names all of them, and what to do.
        LogError: what the log holds of them is damaged.
    """
    attachments = log.attachments()
    if "launch.yaml" not in attachments:
        return None
    document = _parsed(log, "launch.yaml", yaml.safe_load)
    launch, missing = RecordedLaunch(folder / "launch.yaml"), list[str]()
    nodes = document.get("nodes")
    for node in nodes.values() if isinstance(nodes, dict) else ():
        if isinstance(node, dict):
            missing += _with_weights(node, log, launch)
            missing += _with_code(node, log, launch)
    if missing:
        raise UserError("\n".join((f"{log.path} cannot be replayed by its own launch file:", *dict.fromkeys(missing))))
    launch.file.write_text(yaml.safe_dump(document, sort_keys=False))
    return launch


def _with_weights(node: dict[str, Any], log: Log, launch: RecordedLaunch) -> Iterator[str]:
    """Let a node's settings name the weights of the recording; yield what is missing."""
    settings = node.get("settings")
    address = settings.get("weights") if isinstance(settings, dict) else None
    if not isinstance(address, str) or not isinstance(settings, dict):
        return
    recorded = _recorded(log, "weights.json").get(address)
    digest = str(recorded.get("sha256") or "") if isinstance(recorded, dict) else ""
    at_address = _found(parse_address(address))
    if not digest or (at_address is not None and file_sha256(at_address) == digest):
        return
    found = _found(Address("sha256", digest), log.path.parent) or _from_log(log, digest)
    if found is not None:
        settings["weights"] = str(found.resolve())
        launch.notes.append(f"weights '{address}' of the recording are those of {found}")
    elif at_address is None:
        size = recorded.get("bytes") if isinstance(recorded, dict) else None
        about = f" of {size / 1e6:.1f} MB" if isinstance(size, int) else ""
        folders = ", ".join(map(str, search_folders(log.path.parent)))
        yield (
            f"  weights '{address}': no file{about} with the SHA-256 {digest} is in {folders}. Copy it into one of "
            "these, name its folder in PERCEPTION_WEIGHTS, or record with --with-weights"
        )


def _found(address: Address, folder: Path | None = None) -> Path | None:
    if address.kind == "filled":
        return None
    try:
        return find_weights(address, folder)
    except WeightsError:
        return None


def _from_log(log: Log, digest: str) -> Path | None:
    """Lay weights that the log holds into the user's cache, where every process finds them; None where it has none.

    Raises:
        LogError: they are damaged.
    """
    data = log.attachments().get(stored_weights(digest))
    if data is None:
        return None
    if hashlib.sha256(data).hexdigest() != digest:
        raise LogError(f"{log.path}: the weights {digest[:12]} in it are damaged: their hash is another")
    path = user_cache() / "weights" / f"{digest}.safetensors"
    try:
        write_whole(path, data)
    except OSError as error:
        raise LogError(f"{path}: the weights in {log.path} cannot be written there ({error.strerror})") from None
    return path


def _with_code(node: dict[str, Any], log: Log, launch: RecordedLaunch) -> Iterator[str]:
    """Compare a node's own code with what ran; yield what is missing. Sources are not run: the log stands for them."""
    path, colon, _ = str(node.get("node", "")).rpartition(":")
    if not colon or not path.endswith(".py") or not node.get("inputs"):
        return
    name = _recorded(log, "code.json").get(path)
    recorded = log.attachments().get(str(name))
    if not Path(path).is_file():
        held = f"; the log holds what ran as {name}: perception log files {log.path} --out FOLDER" if recorded else ""
        yield (
            f"  code '{path}' is not on this machine{held}. Look at it, lay it there, or give a launch file that names "
            "it where it is"
        )
    elif recorded is not None and Path(path).read_bytes() != recorded:
        launch.notes.append(f"warning: code '{path}' is not what ran in the recording, which holds that as {name}")


def _recorded(log: Log, name: str) -> Mapping[str, Any]:
    return _parsed(log, name, json.loads) if name in log.attachments() else {}


def _parsed(log: Log, name: str, parse: Any) -> dict[str, Any]:
    try:
        document = parse(log.attachments()[name])
    except (ValueError, yaml.YAMLError) as error:
        raise LogError(f"{log.path}: {name} in it cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise LogError(f"{log.path}: {name} in it is no mapping")
    return document


__all__ = ["RecordedLaunch", "recorded_launch"]
