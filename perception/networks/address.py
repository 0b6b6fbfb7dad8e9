"""Where weights are: the addresses that a launch file uses, and the folders that are searched.

    bundled:NAME         weights that came with the package
    sha256:DIGEST        a file with this hash (at least 12 digits), whatever its name
    PATH.safetensors     a file
    filled:CARD          no trained weights: the card's network, filled by name; outputs say so

Relative paths, bundled names and hashes are looked up in the launch file's folder, the folders that
PERCEPTION_WEIGHTS names, the user's cache, and the package, in this order. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator

from perception.errors import WeightsError
from perception.networks.card import Card, card_from, find_card

BUNDLED = Path(__file__).parent / "bundled"
_HEADER_LIMIT_BYTES = 100_000_000  # what the safetensors format allows


@dataclass(frozen=True)
class Address:
    """A parsed address."""

    kind: Literal["bundled", "sha256", "path", "filled"]
    value: str

    def __str__(self) -> str:
        return self.value if self.kind == "path" else f"{self.kind}:{self.value}"


def parse_address(text: str) -> Address:
    """Parse an address.

    Raises:
        WeightsError: it has none of the four forms.
    """
    kind, colon, value = text.partition(":")
    if colon and value:
        if kind == "bundled":
            return Address("bundled", value)
        if kind == "filled":
            return Address("filled", value)
        if kind == "sha256" and re.fullmatch(r"[0-9a-f]{12,64}", value):
            return Address("sha256", value)
    if text.endswith(".safetensors"):
        return Address("path", text)
    raise WeightsError(
        f"weights '{text}'; expected bundled:NAME, sha256:DIGEST (12 to 64 digits), PATH.safetensors or filled:CARD"
    )


def _checked(text: str) -> str:
    try:
        parse_address(text)
    except WeightsError as error:
        raise ValueError(str(error)) from error
    return text


WeightsAddress: TypeAlias = Annotated[str, AfterValidator(_checked)]
"""A setting that holds an address; its form is checked when the launch file is read."""


def user_cache() -> Path:
    """Return PERCEPTION_CACHE, or `perception` in the user's cache folder."""
    if chosen := os.environ.get("PERCEPTION_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perception"


def search_folders(launch_folder: Path | None = None) -> list[Path]:
    """Return the folders in the order in which they are searched."""
    named = [Path(folder) for folder in os.environ.get("PERCEPTION_WEIGHTS", "").split(os.pathsep) if folder]
    return [launch_folder or Path.cwd(), *named, user_cache() / "weights", BUNDLED]


def find_weights(address: Address, launch_folder: Path | None = None) -> Path:
    """Return the file of an address that is not `filled:`.

    Raises:
        WeightsError: it is in none of the folders; the text says which were searched and how to import it.
    """
    folders = search_folders(launch_folder)
    for path in _candidates(address, folders):
        if path.is_file() and (address.kind != "sha256" or file_sha256(path).startswith(address.value)):
            return path
    searched = ", ".join(map(str, folders))
    raise WeightsError(
        f"weights '{address}' are not here; searched: {searched}. A published checkpoint becomes a weights file by: "
        "perception weights import CHECKPOINT --network NETWORK"
    )


def card_of(address: str, launch_folder: Path | None = None) -> Card:
    """Return the card of a weights address without reading its tensors.

    Raises:
        WeightsError: the address has no such form, the file or card is not there, or the file holds no card.
    """
    parsed = parse_address(address)
    if parsed.kind == "filled":
        return find_card(parsed.value, launch_folder)
    path = find_weights(parsed, launch_folder)
    return card_in(_metadata(path), path)


def card_in(metadata: Mapping[str, Any], path: Path) -> Card:
    """Return the card in a weights file's metadata, its values parsed.

    Raises:
        WeightsError: there is none.
    """
    if "card" not in metadata:
        raise WeightsError(f"{path}: holds no model card; weights files are made by: perception weights import")
    return card_from(metadata["card"], str(path))


@lru_cache(maxsize=64)
def _sha256_of(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, computed once per size and time of change."""
    try:
        stat = path.stat()
        return _sha256_of(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error


def _candidates(address: Address, folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        if address.kind == "sha256":
            yield from sorted(folder.glob("*.safetensors"))
        elif address.kind == "bundled":
            yield folder / f"{address.value}.safetensors"
        else:
            yield folder / address.value


def _metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a safetensors file (8 bytes of length, then JSON); we store each value as JSON."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _HEADER_LIMIT_BYTES:
                raise ValueError(f"a header of {length} bytes")
            metadata = json.loads(file.read(length)).get("__metadata__", {})
            return {"card": json.loads(metadata["card"])} if "card" in metadata else {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise WeightsError(f"{path}: not a safetensors file with a model card ({error})") from error
