"""The files that a recording holds beside its messages, so that `launch --replay LOG` needs nothing else.

    launch.yaml               the resolved launch file; files that it names by a relative path are named in full
    calibration/...           the rig
    cards/....json            the card of each model
    weights.json              card, SHA-256 and size of the weights behind each address of the launch file
    code/DIGEST/NAME.py       the file of each node of the user's own, as it ran
    code.json                 by its path, where in the recording it is
    fingerprint.json          what else the numbers depend on
    weights/....safetensors   the weights themselves, where that is asked for; else a replay finds them by their hash

What a replay makes of them is in `replayed_files.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from perception.errors import WeightsError
from perception.networks.address import card_of, file_sha256, find_weights, parse_address
from perception.runtime.fingerprint import fingerprint_file
from perception.runtime.graph import Graph


def attachments_of(graph: Graph, *, with_weights: bool = False) -> dict[str, bytes]:
    """Return the files of a graph by name.

    Args:
        graph: the graph.
        with_weights: the weights, too: whole files, in every file of a recording.

    Raises:
        WeightsError: weights are not there any more.
    """
    return {
        "launch.yaml": _standing_alone(graph).encode(),
        "fingerprint.json": fingerprint_file(),
        **calibration_files({} if graph.rig is None else graph.rig.files),
        **_model_files(graph, with_weights),
        **_code_files(graph),
    }


def calibration_files(rig_files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a rig under the names that a recording gives them."""
    return {f"calibration/{name}": data for name, data in rig_files.items()}


def stored_weights(digest: str) -> str:
    """Return the name under which a recording holds weights."""
    return f"weights/{digest}.safetensors"


def other_weights(graph: Graph, attachments: Mapping[str, bytes]) -> Iterator[str]:
    """Yield a line for each address whose weights are not those of the recording that holds these attachments."""
    if "weights.json" not in attachments:
        return
    try:
        recorded = json.loads(attachments["weights.json"])
        before = {address: str(of["sha256"]) for address, of in recorded.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        yield "weights.json of the log cannot be read; whether weights are the same is not known"
        return
    for address, digest in _hashes(graph).items():
        if address in before and before[address] != digest:
            yield f"weights '{address}' are not those of the recording: {digest[:12]}, it had {before[address][:12]}"


def _model_files(graph: Graph, with_weights: bool) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    weights: dict[str, dict[str, object]] = {}
    for address, digest in _hashes(graph).items():
        card = card_of(address, _folder(graph))
        name = f"cards/{card.name}{f'-{digest[:12]}' if digest else ''}.json"
        files[name] = card.model_dump_json(indent=1).encode()
        weights[address] = {"card": name, "sha256": digest}
        if digest:
            path = find_weights(parse_address(address), _folder(graph))
            weights[address]["bytes"] = path.stat().st_size
            if with_weights:
                files[stored_weights(digest)] = _read(path)
    return files | ({"weights.json": json.dumps(weights, indent=1).encode()} if weights else {})


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error


def _hashes(graph: Graph) -> dict[str, str]:
    """Return the SHA-256 of the weights behind each address, as the recording names it; "" where filled by name."""
    given = {getattr(node.config, "weights", None) for node in graph.nodes}
    addresses = sorted(_address_in_full(address, _folder(graph)) for address in given if isinstance(address, str))
    parsed = {address: parse_address(address) for address in addresses}
    return {
        address: "" if found.kind == "filled" else file_sha256(find_weights(found, _folder(graph)))
        for address, found in parsed.items()
    }


def _code_files(graph: Graph) -> dict[str, bytes]:
    """Return the files of the user's own nodes; what they import beside them is theirs to bring along."""
    files: dict[str, bytes] = {}
    places: dict[str, str] = {}
    for path in sorted({Path(node.target.rpartition(":")[0]) for node in graph.nodes if node.own_code}):
        if path.suffix == ".py" and path.is_file():
            data = path.read_bytes()
            name = f"code/{hashlib.sha256(data).hexdigest()}/{path.name}"
            files[name], places[str(path.resolve())] = data, name
    return files | ({"code.json": json.dumps(places, indent=1).encode()} if places else {})


def _folder(graph: Graph) -> Path | None:
    return graph.search_folders[0] if graph.search_folders else None


def _standing_alone(graph: Graph) -> str:
    """Return the launch file with the files beside it, which it names by a relative path, named in full."""
    folder, document = _folder(graph), yaml.safe_load(graph.launch_text)
    if folder is None or not isinstance(document, dict):
        return graph.launch_text
    for node in document.get("nodes", {}).values():
        code, colon, name = str(node.get("node", "")).partition(":")
        if code.endswith(".py") and colon:
            node["node"] = f"{(folder / code).resolve()}:{name}"
        _name_in_full(node.get("settings"), "weights", folder)
    _name_in_full(document.get("network"), "curve_keys", folder)
    return yaml.safe_dump(document, sort_keys=False)


def _name_in_full(values: Any, key: str, folder: Path) -> None:
    given = values.get(key) if isinstance(values, dict) else None
    if isinstance(given, str):
        values[key] = _address_in_full(given, folder)


def _address_in_full(address: str, folder: Path | None) -> str:
    """Return what an address or a path means, seen from a launch file's folder; what is not there stays as it is."""
    return str((folder / address).resolve()) if folder is not None and (folder / address).exists() else address


__all__ = ["attachments_of", "calibration_files", "other_weights", "stored_weights"]
