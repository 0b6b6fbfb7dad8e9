"""Compiled engines on disk, found by what they were made of.

The key is a hash of weights, graph, shapes, precision, library versions and device, so a stale or foreign engine has
another key and is never found. An entry is a folder `<key>/` with the engine's files and `manifest.json`, which states
what the key was made of, the SHA-256 of each file and the agreement certificate. It appears whole, by a rename; its
files are hashed before they are read, since an engine file is code; a damaged one is removed and built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.errors import EngineError
from perception.networks.address import user_cache

MANIFEST = "manifest.json"
DEFAULT_LIMIT_BYTES = 8 << 30
ABANDONED_AFTER_S = 86_400.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """One cached engine."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.folder.iterdir() if file.is_file())

    @property
    def used_s(self) -> float:
        """When it was last read, seconds since the Unix epoch."""
        return (self.folder / MANIFEST).stat().st_mtime


class EngineCache:
    """Engines below `folder`/engines, the least recently used removed beyond `limit_bytes`."""

    def __init__(self, folder: Path | None = None, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.folder = (folder or user_cache()) / "engines"
        self.limit_bytes = limit_bytes

    def get_or_build(self, made_of: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]], say: Say) -> Entry:
        """Return the entry of `made_of`, built by `build(folder)` if it is not there or damaged.

        Args:
            made_of: what the key is hashed from, as JSON.
            build: writes the engine's files into an empty folder and returns its certificate.
            say: is told about damage and about the start of a build.

        Raises:
            EngineError: `build` failed, or the folder cannot be written.
        """
        key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]
        folder = self.folder / key
        if entry := self._checked(folder, say):
            return entry
        say(f"building {made_of.get('part', 'engine')} for {made_of.get('engine', 'this machine')}")
        self._build(folder, made_of, build)
        entry = self._checked(folder, say)
        if entry is None:
            raise EngineError(f"{folder}: the engine was damaged right after it was written; check this disk")
        self._trim(keep=folder)
        return entry

    def entries(self) -> Iterator[Entry]:
        """List what is there, damaged entries left out."""
        for manifest in sorted(self.folder.glob(f"*/{MANIFEST}")):
            if not manifest.parent.name.startswith(".") and (read := _read_manifest(manifest)) is not None:
                yield Entry(manifest.parent, read)

    def clear(self) -> int:
        """Remove every entry and return how many there were."""
        folders = [folder for folder in self.folder.glob("*") if folder.is_dir()]
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        return sum(not folder.name.startswith(".") for folder in folders)  # the others hold timings and shapes

    def _checked(self, folder: Path, say: Say) -> Entry | None:
        if not folder.is_dir():
            return None
        manifest = _read_manifest(folder / MANIFEST)
        damaged = ["its manifest"] if manifest is None else _damaged_files(folder, manifest)
        if manifest is None or damaged:
            say(f"{folder}: {', '.join(damaged)} of this cached engine is damaged; it is built again")
            shutil.rmtree(folder, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):  # a read-only cache serves too, it only forgets what was used last
            os.utime(folder / MANIFEST)
        return Entry(folder, manifest)

    def _build(self, folder: Path, made_of: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()
            partial = Path(tempfile.mkdtemp(prefix=".building-", dir=self.folder))
        except OSError as error:
            raise EngineError(
                f"{self.folder}: cannot write engines here ({error.strerror}); set PERCEPTION_CACHE"
            ) from error
        try:
            certificate = build(partial)
            files = {file.name: _sha256(file) for file in sorted(partial.iterdir())}
            manifest = {"made_of": made_of, "files": files, "certificate": certificate, "built_s": int(time.time())}
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
            try:
                partial.rename(folder)
            except OSError:
                if not folder.is_dir():  # another process finished the same engine first: that one serves
                    raise
        except OSError as error:
            raise EngineError(f"{folder}: cannot write the engine ({error.strerror})") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _remove_abandoned(self) -> None:
        """Remove what builds left that were killed; none takes a day."""
        for folder in self.folder.glob(".building-*"):
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime > ABANDONED_AFTER_S:
                    shutil.rmtree(folder, ignore_errors=True)

    def _trim(self, keep: Path) -> None:
        entries = sorted(self.entries(), key=lambda entry: entry.used_s, reverse=True)
        total = 0
        for entry in entries:
            total += entry.size_bytes
            if total > self.limit_bytes and entry.folder != keep:
                shutil.rmtree(entry.folder, ignore_errors=True)


def _damaged_files(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    return [name for name, digest in manifest["files"].items() if _sha256(folder / name) != digest]


def _read_manifest(path: Path) -> Mapping[str, Any] | None:
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) and manifest["files"]
    return manifest if whole and isinstance(manifest.get("certificate"), dict) else None


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
