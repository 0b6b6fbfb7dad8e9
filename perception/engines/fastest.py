"""Which engine of this machine runs a part fastest: measured when somebody asks, and kept for "auto".

`perception engine build --fastest` measures. No start does: what runs would depend on what else the machine did in that
second, and two replays of one log must run the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from perception.engines.identity import cpu_name
from perception.engines.log_shapes import part_key
from perception.engines.precision import EngineName

if TYPE_CHECKING:
    from perception.engines.choose import EngineSettings
    from perception.networks.part import Part

LIBRARIES = ("torch", "onnxruntime", "openvino")


def store_fastest(folder: Path, part: Part, settings: EngineSettings, engine: EngineName, why: str) -> None:
    """Keep the name of the fastest engine of `part` in an engine cache's folder."""
    file = _file(folder, part, settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"part": part.name, "engine": engine, "why": why}))


def stored_fastest(folder: Path, part: Part, settings: EngineSettings) -> EngineName | None:
    """Return what `store_fastest` kept for a part with these settings, versions and this processor, None without."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        engine = json.loads(_file(folder, part, settings).read_text())["engine"]
        if engine in get_args(EngineName) and engine != "auto":
            return engine  # type: ignore[no-any-return]
    return None


def _file(folder: Path, part: Part, settings: EngineSettings) -> Path:
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    stated = [part_key(part), settings.precision, settings.threads, dict(settings.axes), versions, cpu_name()]
    return folder / ".fastest" / f"{hashlib.sha256(json.dumps(stated).encode()).hexdigest()[:32]}.json"


__all__ = ["store_fastest", "stored_fastest"]
