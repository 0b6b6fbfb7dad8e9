"""The files that a recording holds beside its messages, so that `launch --replay LOG` needs nothing else.

    launch.yaml           the resolved launch file; files that it names by a relative path are named in full
    calibration/...       the rig
    cards/....json        the card of each model
    weights.json          card and SHA-256 of the weights behind each address of the launch file
    fingerprint.json      what else the numbers depend on

Weights themselves are not copied: a replay finds them by their address, and says where they are other ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from perception.networks.address import card_of, file_sha256, find_weights, parse_address
from perception.runtime.fingerprint import fingerprint_file
from perception.runtime.graph import Graph


def attachments_of(graph: Graph) -> dict[str, bytes]:
    """Return the files of a graph by name.

    Raises:
        WeightsError: weights are not there any more.
    """
    return {
        "launch.yaml": _standing_alone(graph).encode(),
        "fingerprint.json": fingerprint_file(),
        **calibration_files({} if graph.rig is None else graph.rig.files),
        **_model_files(graph),
    }


def calibration_files(rig_files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a rig under the names that a recording gives them."""
    return {f"calibration/{name}": data for name, data in rig_files.items()}


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


def _model_files(graph: Graph) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    weights: dict[str, dict[str, str]] = {}
    for address, digest in _hashes(graph).items():
        card = card_of(address, _folder(graph))
        name = f"cards/{card.name}{f'-{digest[:12]}' if digest else ''}.json"
        files[name] = card.model_dump_json(indent=1).encode()
        weights[address] = {"card": name, "sha256": digest}
    return files | ({"weights.json": json.dumps(weights, indent=1).encode()} if weights else {})


def _hashes(graph: Graph) -> dict[str, str]:
    """Return the SHA-256 of the weights behind each address; "" where they are filled by name."""
    given = {getattr(node.config, "weights", None) for node in graph.nodes}
    parsed = {address: parse_address(address) for address in sorted(a for a in given if isinstance(a, str))}
    return {
        address: "" if found.kind == "filled" else file_sha256(find_weights(found, _folder(graph)))
        for address, found in parsed.items()
    }


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
    if isinstance(given, str) and (folder / given).exists():
        values[key] = str((folder / given).resolve())


__all__ = ["attachments_of", "calibration_files", "other_weights"]
